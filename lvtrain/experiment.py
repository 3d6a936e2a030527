"""A run from its configuration: the composition of store, system, game, trainer and log.

>>> import lvtrain
>>> lvtrain.train("arae", data="store", out="runs/first", preset="tiny", steps=500)
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import nn

from lvtrain.config import (
    RESUMABLE_FIELDS,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    check,
    differences,
    to_json,
)
from lvtrain.data.batches import Batches
from lvtrain.data.store import Store
from lvtrain.errors import UserError
from lvtrain.evaluation.evaluate import validation
from lvtrain.model import CONFIG, TOKENIZER, build
from lvtrain.presets import preset as named_preset
from lvtrain.systems import entry
from lvtrain.training import checkpoint
from lvtrain.training.engine import Engine, TorchEngine
from lvtrain.training.log import RunLog
from lvtrain.training.memory import keep_freed_memory
from lvtrain.training.trainer import Outcome, train

Resume = Literal["auto", "never"]


def start(
    system: str,
    data: Path | str,
    out: Path | str,
    *,
    preset: str = "default",
    model: Any = None,
    resume: Resume = "never",
    **train_fields: Any,
) -> Outcome:
    """Train `system` on the store `data` into the run folder `out`.

    `model` replaces the preset's configuration of the system; further keywords are fields of
    TrainConfig. With resume "auto" a run that is there already goes on from its last checkpoint.
    """
    entry(system)
    preset_model, preset_train = named_preset(system, preset)
    config = configure(
        system, model or preset_model, replace(preset_train, **train_fields), Path(data), preset
    )
    return carry_out(config, Path(out), resume)


def configure(
    system: str, model: Any, train_config: TrainConfig, data: Path, preset: str
) -> RunConfig:
    """The full configuration of a run on the store `data`.

    Raises UserError for a setting that cannot be, before anything is written.
    """
    check(model)
    check(train_config)
    choose_device(train_config.device)
    store = Store.open(data)
    return RunConfig(
        system=system,
        model=model,
        train=train_config,
        store=data.resolve(),
        store_digest=store.digest,
        vocab_size=store.tokenizer.vocab_size,
        max_words=store.split("train").max_length,
        preset=preset,
    )


def carry_out(config: RunConfig, out: Path, resume: Resume = "never") -> Outcome:
    """Train as `config` says, into `out`.

    Raises UserError where `out` exists and is not to be resumed, or holds another configuration.
    """
    with _alone(out):
        return _carry_out(config, out, _open_run(config, out, resume))


def _carry_out(config: RunConfig, out: Path, found: checkpoint.Checkpoint | None) -> Outcome:
    settings = config.train
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    store = Store.open(config.store)
    batches = Batches(
        store.split("train"),
        batch_size=settings.batch_size,
        seed=settings.seed,
        by_length=settings.by_length,
        device=device,
    )
    system = build(config)
    cast(nn.Module, system).to(device)

    def engine(name: str, module: nn.Module, optimizer: OptimizerConfig) -> Engine:
        return TorchEngine(name, module, optimizer, settings.steps)

    game = system.game(engine)
    judge = None
    if settings.validate_every and "valid" in store.splits:
        judge = validation(system, config, store.split("valid"), store.tokenizer)
    log = RunLog(
        out,
        total_steps=settings.steps,
        resume_step=found.step if found else 0,
        every=settings.log_every,
        tensorboard=settings.tensorboard,
    )
    with log:
        for warning in found.warnings if found else ():
            log.message(f"warning: {warning}")
        if found:
            log.message(f"resuming {out} at step {found.step}")
        outcome = train(game, batches, settings, out, log, judge, found)
        if outcome.stopped:
            log.message(f"stopped at step {outcome.step}; --resume auto goes on from there")
    return outcome


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the run folder: two trainings in one would spoil each other's checkpoints.

    The lock is on a file beside the folder and is the process's own: it goes with it, however the
    process ends.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    path = out.with_name(f".{out.name}.lock")
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--out {out}: another process is training in this folder") from None
        yield


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes a GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: expected a CUDA device, found none")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _open_run(config: RunConfig, out: Path, resume: Resume) -> checkpoint.Checkpoint | None:
    """Make the run folder, or find what to go on from in one that is there."""
    path, text = out / CONFIG, json.dumps(to_json(config), indent=2)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: expected a folder, found a file")
    if out.is_dir() and any(out.iterdir()):
        if resume == "never":
            raise UserError(
                f"--out {out}: the folder exists; --resume auto goes on with the run in it"
            )
        if not path.is_file():
            raise UserError(f"--out {out}: the folder exists and holds no run (no {CONFIG})")
        _same_run(path, json.loads(text))
        found = checkpoint.latest(out / "checkpoints")
        if found and found.step > config.train.steps:
            raise UserError(
                f"--steps {config.train.steps}: the run in {out} is at step {found.step} already"
            )
    else:
        found = None
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(config.store / TOKENIZER, out / TOKENIZER)
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)
    return found


def _same_run(path: Path, ours: dict[str, Any]) -> None:
    """Raise UserError, naming the fields, unless the run on disk has our configuration."""
    try:
        theirs = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    free = {f"train.{name}" for name in RESUMABLE_FIELDS} | {"store"}
    names = [name for name in differences(ours, theirs) if name not in free]
    if not names:
        return

    def value(config: Any, name: str) -> Any:
        for part in name.split("."):
            config = config.get(part) if isinstance(config, dict) else None
        return config

    said = ", ".join(f"{n} is {value(theirs, n)!r} there and {value(ours, n)!r} here"
                     for n in names[:3])  # fmt: skip
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    raise UserError(f"{path}: the run has another configuration: {said}{more}")
