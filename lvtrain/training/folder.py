"""A run's folder: held by one process at a time, continued only by the run that it belongs to.

Everything is looked at before anything is written, and what is written replaces a file as a whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lvtrain.config import RESUMABLE_FIELDS, RunConfig, differences, from_json, to_json
from lvtrain.data.checksums import sha256
from lvtrain.data.info import TARGET_TOKENIZER, TOKENIZER
from lvtrain.data.location import check_here, place, read_bytes
from lvtrain.errors import UserError
from lvtrain.training import checkpoint
from lvtrain.training.checkpoint import Checkpoint, replace_file
from lvtrain.training.log import METRICS, TENSORBOARD, read_metrics

Resume = Literal["auto", "never"]

CONFIG, CHECKPOINTS = "config.json", "checkpoints"
_LOCK = ".lock"
# The weights that `Model.save_pretrained` writes, beside a configuration like a run's.
_EXPORTED = "model.safetensors"
# What may differ: the store may have moved, and its digest covers that of its tokeniser.
_FREE = {f"train.{name}" for name in RESUMABLE_FIELDS}
_FREE |= {"store", "tokenizer_digest", "target_tokenizer_digest"}
_START = "model.start"
# What follows from the store.
_OF_THE_STORE = {"store_digest", "vocab_size", "max_words", "target_vocab_size"}
# What a file system answers that has no locks: a run there goes without.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}


def check_folder(out: Path, config: RunConfig, resume: Resume) -> bool:
    """Whether there is a run in `out` to go on with; False for a new or empty folder.

    Hidden files count for nothing. Raises UserError where there is anything else, or a run that
    `config` is not the configuration of, or any run that is not to be resumed.
    """
    check_here(out)
    _check_parents(out)
    names = sorted(p.name for p in out.iterdir() if p.name[0] != ".") if out.exists() else []
    if not names:
        return False
    wanted = "expected a run or a new folder"
    if resume == "never":
        wanted = "exists already: expected a new or empty folder"
    if _EXPORTED in names:
        raise UserError(f"--out {out}: {wanted}, found an exported model")
    if CONFIG not in names:
        raise UserError(f"--out {out}: {wanted}, found one with '{names[0]}' and no {CONFIG}")
    theirs = _read_config(out / CONFIG, config)
    differ = _said_differences(config, theirs)
    if resume == "never":
        advice = (
            f"of another configuration ({differ}): choose another folder"
            if differ
            else "of this configuration; --resume auto goes on with it"
        )
        raise UserError(f"--out {out}: {wanted}, found a run {advice}")
    if differ:
        _check_store(out, config, theirs)
        raise UserError(f"{out / CONFIG}: the run has another configuration: {differ}")
    return True


def find_checkpoint(
    out: Path, config: RunConfig, latest: Callable[[], Checkpoint | None] | None = None
) -> Checkpoint | None:
    """What the run in `out` goes on from, with warnings; None before its first checkpoint. It has
    its checkpoints in its folder, unless `latest` finds them elsewhere.

    Raises UserError for a file of the run that does not belong to it, or a step beyond the last.
    """
    theirs = _read_config(out / CONFIG, config)
    for name, expected in _tokenizers(config).items():
        copy = out / name
        if copy.exists() and expected and (found := sha256(copy)) != expected:
            raise UserError(
                f"{copy}: not the tokenizer of {place(config.store)}: expected SHA-256 "
                f"{expected[:16]}…, found {found[:16]}…"
            )
    last = latest() if latest else checkpoint.latest(out / CHECKPOINTS)
    read_metrics(out)
    if last is None:
        return None
    if last.step > config.train.steps:
        raise UserError(
            f"--steps {config.train.steps}: the run in {out} is at step {last.step} already"
        )
    if last.step == config.train.steps:
        return last
    said = (*_other_start(theirs, config), *_other_machine(theirs, config))
    return replace(last, warnings=(*last.warnings, *said))


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the folder `out`, which is made: two trainings in one would spoil each other's
    checkpoints.

    The lock is the process's own and goes with it, however the process ends; its file is removed
    at the end, and the folder where nothing came of it. Raises UserError if another holds it.
    """
    made, path, descriptor = not out.exists(), out / _LOCK, -1
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path, out)
        yield
    finally:
        # Removed while held: whoever opened it meanwhile sees that it is no longer there. Not held
        # yet is what a signal found half done.
        with contextlib.suppress(OSError, UserError):
            descriptor = _lock(path, out) if descriptor < 0 else descriptor
            path.unlink()
            os.close(descriptor)
        if made:
            with contextlib.suppress(OSError):
                out.rmdir()  # refused, unless the folder is empty


@contextmanager
def recorded(out: Path, config: RunConfig, *, new: bool) -> Iterator[None]:
    """Write the configuration and the tokenisers into `out`.

    A new run that ends before its first step, and has nothing else to show, leaves nothing: neither
    these nor an empty log.
    """
    ours = {*_tokenizers(config), METRICS, CONFIG, TENSORBOARD}
    try:
        replace_file(out / CONFIG, json.dumps(to_json(config), indent=2).encode())
        for name in _tokenizers(config):
            if not (out / name).exists():
                replace_file(out / name, read_bytes(config.store / name))
        yield
    except BaseException:
        log = out / METRICS
        begun = {p.name for p in out.iterdir() if p.name[0] != "."} - ours
        if new and not begun and not (log.exists() and log.stat().st_size):
            for name in (*_tokenizers(config), METRICS, CONFIG):
                (out / name).unlink(missing_ok=True)
            shutil.rmtree(out / TENSORBOARD, ignore_errors=True)
        raise


def _tokenizers(config: RunConfig) -> dict[str, str]:
    """The tokenisers of a run with the SHA-256 of each."""
    found = {TOKENIZER: config.tokenizer_digest}
    if config.target_vocab_size:
        found[TARGET_TOKENIZER] = config.target_tokenizer_digest
    return found


def _lock(path: Path, out: Path) -> int:
    """Open and lock the file, so that it is the one that others find under its name."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _locked(descriptor, path):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"--out {out}: another process is training in this folder") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _locked(descriptor: int, path: Path) -> bool:
    """Lock an open file; False where its last holder has removed it since it was opened."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _check_parents(out: Path) -> None:
    for path in (out, *out.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"--out {out}: expected a folder, found a file: {path}")


def _read_config(path: Path, like: RunConfig) -> RunConfig:
    """The configuration at `path`, of the system that `like` has."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    known = {"system", "model", "train", "store_digest"}
    if not isinstance(data, dict) or not known <= data.keys():
        raise UserError(
            f"{path}: not the configuration of a run: expected {', '.join(sorted(known))}"
        )
    if data["system"] != like.system:
        raise UserError(f"{path}: the run is of '{data['system']}', expected '{like.system}'")
    model = from_json(type(like.model), data["model"], f"{path}: model")
    return replace(from_json(RunConfig, {**data, "model": None}, str(path)), model=model)


def _check_store(out: Path, ours: RunConfig, theirs: RunConfig) -> None:
    """Raise UserError where nothing but the store differs: an order of other sentences would be no
    continuation."""
    names = set(must_agree(to_json(ours), to_json(theirs)))
    if "store_digest" not in names or not names <= _OF_THE_STORE:
        return
    if ours.store == theirs.store:
        what = f"the store {place(ours.store)} has changed since (it was grown or replaced)"
    else:
        what = f"the store {place(ours.store)} is not that of the run, {place(theirs.store)}"
    raise UserError(
        f"{out}: {what}: expected digest {theirs.store_digest[:16]}…, found "
        f"{ours.store_digest[:16]}…; train a new run on it, or prepare the old one again"
    )


def _said_differences(ours: RunConfig, theirs: RunConfig) -> str:
    """The fields that must agree and do not."""
    here, there = to_json(ours), to_json(theirs)
    names = must_agree(here, there)
    said = ", ".join(
        f"{name} is {_value(there, name)!r} there and {_value(here, name)!r} here"
        for name in names[:3]
    )
    return said + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def must_agree(ours: Any, theirs: Any) -> list[str]:
    """The fields that differ between two JSON configurations, of a run and of its continuation, and
    may not. The run that it started from may have moved: it goes on from its own checkpoint."""
    free = _FREE | ({_START} if _value(theirs, _START) else set())
    return [name for name in differences(ours, theirs) if name not in free]


def as_begun(config: RunConfig, begun: RunConfig) -> RunConfig:
    """`config` with what a run records of where it started from."""
    start = getattr(begun.model, "start", None)
    return replace(config, model=replace(config.model, start=start)) if start else config


def _value(config: Any, name: str) -> Any:
    for part in name.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _other_start(theirs: RunConfig, ours: RunConfig) -> Iterator[str]:
    """That the run goes on from its own weights, wherever it is told that it comes from."""
    before, now = (getattr(config.model, "start", None) for config in (theirs, ours))
    if now not in (None, before):
        yield f"--from {now}: the run started from {before}, and goes on from its own checkpoint"


def _other_machine(theirs: RunConfig, ours: RunConfig) -> Iterator[str]:
    """What makes the steps to come round otherwise than those before would have."""
    for name, unknown in (("threads", 0), ("device", "auto")):
        before, now = getattr(theirs.train, name), getattr(ours.train, name)
        if before not in (unknown, now):
            yield (
                f"{name} {before} before, {now} now: the run goes on, but not bit for bit as it "
                "would have"
            )
