"""The files of a checkpoint, wherever it is kept: parts, `meta.json`, and the manifest of both.

A part ("model", "critic", …) is a file in the safetensors format with all that one engine needs.
The manifest holds the size and the SHA-256 of every other file and is written last: a folder
without one is no checkpoint, and one whose files do not fit it is a damaged one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FORMAT = 1
MANIFEST, META = "manifest.json", "meta.json"

FileRecord = dict[str, Any]
"""Size and SHA-256 of a file, as the manifest has them."""

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

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
    return write_file(folder / f"{part}.safetensors", safetensors(tensors))


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in the order of sorted names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name}\0{_DTYPES[tensor.dtype]}\0{tuple(tensor.shape)}\0".encode())
        total.update(_raw(tensor))
    return total.hexdigest()


def manifest(step: int, parts: Mapping[str, FileRecord], meta: FileRecord) -> bytes:
    """What `manifest.json` says of the files of a checkpoint."""
    return to_bytes(
        {
            "format": FORMAT,
            "step": step,
            "parts": sorted(name.removesuffix(".safetensors") for name in parts),
            "files": {**parts, META: meta},
            "versions": _versions(),
        }
    )


def vouched(
    text: bytes, step: int, size: Callable[[str], int], checksum: Callable[[str], str] | None
) -> tuple[dict[str, Any] | None, str]:
    """The manifest of a complete checkpoint of `step`, or None and what is wrong: first by the
    files' sizes, then by their checksums where these are asked for."""
    try:
        found = json.loads(text)
        if found["format"] != FORMAT:
            return None, f"{MANIFEST}: format {found['format']}, expected {FORMAT}"
        if found["step"] != step:
            return None, f"{MANIFEST}: of step {found['step']}"
        files = found["files"]
        for name in (META, *(f"{part}.safetensors" for part in found["parts"])):
            if name not in files:
                return None, f"{MANIFEST} does not list {name}"
        for name, expected in files.items():
            if (bytes_ := size(name)) != expected["bytes"]:
                return None, f"{name}: {bytes_} bytes, expected {expected['bytes']}"
        for name, expected in files.items() if checksum else ():
            if checksum and checksum(name) != expected["sha256"]:
                return None, f"{name}: SHA-256 differs"
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, f"{MANIFEST} cannot be read"
    return found, ""


def safetensors(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Iterable[bytes | memoryview]:
    """A file in the safetensors format, piece by piece.

    The library's own writer either builds the whole file in memory or hides which error the storage
    gave, and refuses shared storage. Widest types first, then by name: a reader views each tensor
    in place, which needs its offset to be a multiple of its item size.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
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


def write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> FileRecord:
    """Write the pieces to a new file, force them to storage, and give their size and checksum."""
    with path.open("wb") as file:
        found = record(file.write, pieces)
        file.flush()
        os.fsync(file.fileno())
    return found


def record(
    write: Callable[[bytes | memoryview], object], pieces: Iterable[bytes | memoryview]
) -> FileRecord:
    """Write the pieces, and give the size and checksum of all."""
    checksum, size = hashlib.sha256(), 0
    for piece in pieces:
        checksum.update(piece)
        write(piece)
        size += len(piece)
    return {"bytes": size, "sha256": checksum.hexdigest()}


def to_bytes(value: Mapping[str, Any]) -> bytes:
    """JSON as the files of a checkpoint have it."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor in row-major order; a view where it lies so on the CPU already."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    array: np.ndarray = flat.view(torch.uint8).numpy()
    return array.data


def _versions() -> dict[str, str]:
    try:
        own = importlib.metadata.version("lvtrain")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        own = "unknown"
    return {"lvtrain": own, "torch": str(torch.__version__), "python": platform.python_version()}
