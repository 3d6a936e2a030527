"""Checkpoints that are complete or absent, checked when read, and never run code.

A run keeps them in one folder:

    checkpoints/
      step-00000400/  model.safetensors  critic.safetensors  …  meta.json  manifest.json
      step-00000500/  …
      LATEST          the name of the newest, "step-00000500"

A commit writes into a hidden sibling, forces everything to storage, renames the folder into place,
replaces `LATEST` atomically and only then removes what is old; so a process killed at any moment
leaves either the previous state or the new one. `manifest.json` holds the size and the SHA-256 of
every other file: reading finds a truncated or altered file and falls back to an older checkpoint.

Both players of a game are parts of one checkpoint and cannot come apart. Everything random is a
pure function of the seed and the step, so neither a generator nor a loader has state to keep here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lvtrain.errors import UserError
from lvtrain.training.parts import (
    MANIFEST,
    META,
    FileRecord,
    Write,
    manifest,
    to_bytes,
    vouched,
    write_file,
)

LATEST = "LATEST"

# Hidden folders, by what a killed process was doing when it left one behind.
_WRITING, _REPLACED, _DISCARDED = ".writing-", ".replaced-", ".discarded-"
_NAME = re.compile(r"step-(\d{8,})")
_CHUNK = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose files were compared with their checksums.

    `warnings` says, a line each, what was passed over on the way to this one.
    """

    step: int
    path: Path
    meta: dict[str, Any]
    parts: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of a part by name, on the CPU, bitwise as they were committed."""
        from safetensors.torch import load_file

        if part not in self.parts:
            raise UserError(f"{self.path}: no part '{part}'; there are {', '.join(self.parts)}")
        mapped = load_file(self.path / f"{part}.safetensors")
        # Memory of their own: the mapped file has another alignment and may be removed meanwhile.
        return {name: tensor.clone() for name, tensor in mapped.items()}

    def module(self, part: str) -> dict[str, Tensor]:
        """The tensors of a part that are its module's, its optimiser's left out, by name."""
        every = self.tensors(part).items()
        return {n.removeprefix("module."): t for n, t in every if n.startswith("module.")}


def commit(
    folder: Path,
    step: int,
    write: Write,
    meta: Mapping[str, Any],
    keep: int = 2,
    keep_steps: Collection[int] = (),
) -> Path:
    """Write the checkpoint of `step`, point `LATEST` to it, and remove old ones.

    `write` puts every part into the folder it is given, in this process or in others.
    `meta` is what JSON can say, with Python's reading of NaN and Infinity.
    Kept are this one, the `keep - 1` complete ones before it (never fewer than one) and
    `keep_steps`. Steps after this one belong to a continuation that was abandoned; they go first.
    An existing checkpoint of the same step is replaced.

    Raises UserError where storage refuses, full storage above all; what was complete stays so.
    """
    if step < 0:
        raise ValueError(f"step {step} is negative")
    path = folder / name_of(step)
    writing = folder / f"{_WRITING}{path.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _tidy(folder)
        writing.mkdir()
        _complete(writing, step, write(writing), meta)
        _put(writing, path)
        replace_file(folder / LATEST, f"{path.name}\n".encode())
    except OSError as error:
        raise UserError(_refusal(error, folder, path)) from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    _prune(folder, step, max(keep, 2), keep_steps)
    return path


def latest(folder: Path) -> Checkpoint | None:
    """The checkpoint that `LATEST` names or, where that one is damaged, the newest complete one.

    None where nothing was ever committed; UserError where checkpoints exist and none is complete.
    """
    found = _existing(folder)
    if not found:
        return None
    named, warnings = _read_latest(folder)
    if named is not None and named not in found:
        warnings.append(f"{name_of(named)} is named by {LATEST} but missing")
    step, manifest, said = newest_whole(
        folder, found, named, warnings, lambda step: _inspect(found[step], contents=True)
    )
    return _open(found[step], manifest, said)


def newest_whole(
    where: Path | str,
    steps: Collection[int],
    named: int | None,
    warnings: Sequence[str],
    inspect: Callable[[int], tuple[dict[str, Any] | None, str]],
) -> tuple[int, dict[str, Any], tuple[str, ...]]:
    """The step that is named or, where `inspect` finds that one damaged, the newest that is not,
    those before it first; with its manifest, and `warnings` of what was passed over.

    Raises UserError where none is complete.
    """
    newest = max(steps) if named is None else named
    warnings = list(warnings)
    for step in sorted(steps, key=lambda step: (step > newest, -step)):
        manifest, damage = inspect(step)
        if manifest is not None:
            return step, manifest, tuple(f"{said}; using {name_of(step)}" for said in warnings)
        warnings.append(f"{name_of(step)} is damaged: {damage}")
    raise UserError(f"{where}: no complete checkpoint: {'; '.join(warnings)}")


def at(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of `step`. Raises UserError if it is missing or damaged."""
    found = _existing(folder)
    if step not in found:
        there = ", ".join(str(other) for other in sorted(found)) or "none"
        raise UserError(f"{folder}: no checkpoint of step {step}; there are: {there}")
    manifest, damage = _inspect(found[step], contents=True)
    if manifest is None:
        raise UserError(f"{folder}: {name_of(step)} is damaged: {damage}")
    return _open(found[step], manifest)


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending, by their names alone."""
    return sorted(_existing(folder))


def replace_file(path: Path, data: bytes) -> None:
    """Write a file anew, whole or not at all: beside it, forced to storage, then renamed."""
    temporary = path.with_name(f".{path.name}")
    try:
        write_file(temporary, [data])
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


def _existing(folder: Path) -> dict[int, Path]:
    """The folder of each step, whole or not.

    A replaced one counts while its successor is not yet in place: the moment between two renames.
    """
    if not folder.is_dir():
        return {}
    found: dict[int, Path] = {}
    for prefix in (_REPLACED, ""):
        for path in folder.glob(f"{prefix}step-*"):
            step = step_of(path.name.removeprefix(prefix))
            if step is not None and path.is_dir():
                found[step] = path
    return found


def _complete(
    folder: Path, step: int, records: Mapping[str, FileRecord], meta: Mapping[str, Any]
) -> None:
    """Write what a checkpoint has besides its parts, and force the folder to storage."""
    own = write_file(folder / META, [to_bytes(meta)])
    write_file(folder / MANIFEST, [manifest(step, records, own)])
    _sync(folder)


def _sync(folder: Path) -> None:
    """Force the entries of a folder to storage."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(written: Path, path: Path) -> None:
    """Rename a complete folder into place, an existing one aside first."""
    aside = path.with_name(f"{_REPLACED}{path.name}")
    if path.exists():
        path.rename(aside)
    written.rename(path)
    _sync(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _read_latest(folder: Path) -> tuple[int | None, list[str]]:
    """The step that `LATEST` names, if it can be had, and what to say if it cannot."""
    try:
        text = (folder / LATEST).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return None, [f"{LATEST} is missing"]
    step = step_of(text)
    return step, [] if step is not None else [f"{LATEST} reads '{text[:40]}', not a checkpoint"]


def _inspect(path: Path, *, contents: bool) -> tuple[dict[str, Any] | None, str]:
    """The manifest of a complete checkpoint, or None and what is wrong: sizes, then checksums."""
    step = step_of(path.name.removeprefix(_REPLACED))
    assert step is not None
    try:
        return vouched(
            (path / MANIFEST).read_bytes(),
            step,
            lambda name: (path / name).stat().st_size,
            (lambda name: _checksum(path / name)) if contents else None,
        )
    except FileNotFoundError as error:
        return None, f"{Path(error.filename).name} is missing"
    except OSError as error:
        return None, f"{Path(error.filename or path).name}: {error.strerror}"


def _checksum(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            total.update(piece)
    return total.hexdigest()


def _open(path: Path, manifest: Mapping[str, Any], warnings: tuple[str, ...] = ()) -> Checkpoint:
    return Checkpoint(
        step=manifest["step"],
        path=path,
        meta=json.loads((path / META).read_bytes()),
        parts=tuple(manifest["parts"]),
        warnings=warnings,
    )


def _tidy(folder: Path) -> None:
    """Clear what killed processes left, and finish a replacement that was cut short."""
    for path in [*folder.glob(f"{_WRITING}*"), *folder.glob(f"{_DISCARDED}*")]:
        shutil.rmtree(path)
    for aside in folder.glob(f"{_REPLACED}*"):
        path = aside.with_name(aside.name.removeprefix(_REPLACED))
        if path.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(path)


def _prune(folder: Path, step: int, keep: int, keep_steps: Collection[int]) -> None:
    """Remove what is not kept; damaged ones, judged by their sizes, never count as kept.

    Before it is emptied a folder is renamed, so that a kill leaves no half-empty checkpoint.
    Storage that refuses here does no harm, so it stops nothing; the next commit tries again.
    """
    found = _existing(folder)
    whole = [other for other in found if _inspect(found[other], contents=False)[0] is not None]
    nearest = sorted(whole, key=lambda other: (other > step, -other if other <= step else other))
    kept = {*nearest[:keep], *keep_steps, step}
    for other in sorted(set(found) - kept):
        discarded = folder / f"{_DISCARDED}{found[other].name}"
        with contextlib.suppress(OSError):
            found[other].rename(discarded)
        shutil.rmtree(discarded, ignore_errors=True)


def _refusal(error: OSError, folder: Path, path: Path) -> str:
    what = f"{(error.strerror or str(error)).lower()} while writing {path}"
    try:
        last = latest(folder)
    except (UserError, OSError):
        last = None
    if last is None:
        return f"{what}; there is no complete checkpoint yet"
    return f"{what}; the last complete checkpoint is step {last.step}"
