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
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lvtrain.errors import UserError

FileRecord = dict[str, Any]
"""Size and SHA-256 of a file, as the manifest has them."""

FORMAT = 1
LATEST = "LATEST"

# Hidden folders, by what a killed process was doing when it left one behind.
_WRITING, _REPLACED, _DISCARDED = ".writing-", ".replaced-", ".discarded-"
_NAME = re.compile(r"step-(\d{8,})")
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_CHUNK = 1 << 22

# Names of https://github.com/huggingface/safetensors#format.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


Write = Callable[[Path], Mapping[str, FileRecord]]
"""Puts every part of a checkpoint into a folder, and gives the record of each file."""


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
    path = folder / _name(step)
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
        warnings.append(f"{_name(named)} is named by {LATEST} but missing")
    newest = max(found) if named is None else named
    for step in sorted(found, key=lambda step: (step > newest, -step)):
        manifest, damage = _inspect(found[step], contents=True)
        if manifest is not None:
            said = tuple(f"{warning}; using {_name(step)}" for warning in warnings)
            return _open(found[step], manifest, said)
        warnings.append(f"{_name(step)} is damaged: {damage}")
    raise UserError(f"{folder}: no complete checkpoint: {'; '.join(warnings)}")


def at(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of `step`. Raises UserError if it is missing or damaged."""
    found = _existing(folder)
    if step not in found:
        there = ", ".join(str(other) for other in sorted(found)) or "none"
        raise UserError(f"{folder}: no checkpoint of step {step}; there are: {there}")
    manifest, damage = _inspect(found[step], contents=True)
    if manifest is None:
        raise UserError(f"{folder}: {_name(step)} is damaged: {damage}")
    return _open(found[step], manifest)


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, ascending, by their names alone."""
    return sorted(_existing(folder))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in the order of sorted names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}\0{_DTYPES[tensor.dtype]}\0{tuple(tensor.shape)}\0".encode())
        total.update(_raw(tensor))
    return total.hexdigest()


def replace_file(path: Path, data: bytes) -> None:
    """Write a file anew, whole or not at all: beside it, forced to storage, then renamed."""
    temporary = path.with_name(f".{path.name}")
    try:
        with temporary.open("wb") as file:
            _write_all(file, [data])
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _step(name: str) -> int | None:
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
            step = _step(path.name.removeprefix(prefix))
            if step is not None and path.is_dir():
                found[step] = path
    return found


def _raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in row-major order; a view where it lies so on the CPU already."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    array: np.ndarray = flat.view(torch.uint8).numpy()
    return array.data


def parts(tensors: Mapping[str, Mapping[str, Tensor]]) -> Write:
    """Writes each part ("model", "critic", …) with its named tensors."""
    return lambda folder: {
        f"{part}.safetensors": write_part(folder, part, named) for part, named in tensors.items()
    }


def write_part(folder: Path, part: str, tensors: Mapping[str, Tensor]) -> FileRecord:
    """Write a part's file of a checkpoint and force it to storage; gives its size and checksum.

    Tensors that share storage are each written in full: a module that ties its weights ties them
    again when it loads them.
    """
    if not _PART.fullmatch(part):
        raise ValueError(f"part '{part}' cannot be a file name")
    with (folder / f"{part}.safetensors").open("wb") as file:
        return _write_all(file, _safetensors(tensors))


def _complete(
    folder: Path, step: int, parts: Mapping[str, FileRecord], meta: Mapping[str, Any]
) -> None:
    """Write what a checkpoint has besides its parts, and force the folder to storage."""
    files = dict(parts)
    with (folder / "meta.json").open("wb") as file:
        files["meta.json"] = _write_all(file, [_json(meta)])
    manifest = {
        "format": FORMAT,
        "step": step,
        "parts": sorted(name.removesuffix(".safetensors") for name in parts),
        "files": files,
        "versions": _versions(),
    }
    with (folder / "manifest.json").open("wb") as file:
        _write_all(file, [_json(manifest)])
    _sync(folder)


def _safetensors(tensors: Mapping[str, Tensor]) -> Iterable[bytes | memoryview]:
    """A file in the safetensors format, piece by piece.

    The library's own writer either builds the whole file in memory or hides which error the storage
    gave, and refuses shared storage. Widest types first, then by name: a reader views each tensor
    in place, which needs its offset to be a multiple of its item size.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    end = 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for name in order:
        yield _raw(tensors[name])


def _write_all(file: BinaryIO, pieces: Iterable[bytes | memoryview]) -> FileRecord:
    """Write the pieces, force them to storage, and give their size and checksum."""
    checksum, size = hashlib.sha256(), 0
    for piece in pieces:
        checksum.update(piece)
        size += file.write(piece)
    file.flush()
    os.fsync(file.fileno())
    return {"bytes": size, "sha256": checksum.hexdigest()}


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _versions() -> dict[str, str]:
    try:
        own = importlib.metadata.version("lvtrain")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        own = "unknown"
    return {"lvtrain": own, "torch": str(torch.__version__), "python": platform.python_version()}


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
    step = _step(text)
    return step, [] if step is not None else [f"{LATEST} reads '{text[:40]}', not a checkpoint"]


def _inspect(path: Path, *, contents: bool) -> tuple[dict[str, Any] | None, str]:
    """The manifest of a complete checkpoint, or None and what is wrong: sizes, then checksums."""
    try:
        manifest = json.loads((path / "manifest.json").read_bytes())
        if manifest["format"] != FORMAT:
            return None, f"manifest.json: format {manifest['format']}, expected {FORMAT}"
        if manifest["step"] != _step(path.name.removeprefix(_REPLACED)):
            return None, f"manifest.json: of step {manifest['step']}"
        files = manifest["files"]
        for name in ("meta.json", *(f"{part}.safetensors" for part in manifest["parts"])):
            if name not in files:
                return None, f"manifest.json does not list {name}"
        for name, expected in files.items():
            size = (path / name).stat().st_size
            if size != expected["bytes"]:
                return None, f"{name}: {size} bytes, expected {expected['bytes']}"
        if contents:
            for name, expected in files.items():
                if _checksum(path / name) != expected["sha256"]:
                    return None, f"{name}: SHA-256 differs"
    except FileNotFoundError as error:
        return None, f"{Path(error.filename).name} is missing"
    except OSError as error:
        return None, f"{Path(error.filename or path).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, "manifest.json cannot be read"
    return manifest, ""


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
        meta=json.loads((path / "meta.json").read_bytes()),
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
