"""Tensors of a model as files: written whole or not at all, read with a check of their shapes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lvtrain.errors import UserError
from lvtrain.training.parts import digest, safetensors

DIGEST: Final = "digest"
"""Where in a file's metadata the digest of its tensors stands."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a hidden file beside `path` to write, and rename it to `path` in the end.

    Whatever goes wrong leaves `path` as it was; the file's mode is what the umask says.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        yield partial
        partial.replace(path)
    finally:
        # A file system that refused to write refuses this too; the first refusal is to be heard.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file with the digest of its tensors. The library's own writer lets nobody
    but its owner read it, and refuses tables that are tied: each is written in full."""
    with replacing(path) as partial, partial.open("wb") as file:
        file.writelines(safetensors(tensors, {DIGEST: digest(tensors)}))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises UserError, naming it, where it is not whole or they
    are not those of its digest. Files of others, and those of before there was one, have none."""
    try:
        with safe_open(path, framework="pt") as file:
            expected = (file.metadata() or {}).get(DIGEST)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a whole safetensors file: {reason}") from None
    if expected is not None and (found := digest(tensors)) != expected:
        raise UserError(
            f"{path}: damaged: expected tensors of digest {expected[:16]}…, found {found[:16]}…"
        )
    return tensors


def check_shapes(
    path: Path, found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise UserError, naming the first tensor that is missing, too many or of another shape."""
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    names = sorted(shapes.keys() | expected.keys())
    wrong = [name for name in names if shapes.get(name) != expected.get(name)]
    if wrong:
        more = f", and {len(wrong) - 1} more that do not fit" if len(wrong) > 1 else ""
        raise UserError(
            f"{path}: {wrong[0]}: expected {_said(expected.get(wrong[0]))}, as config.json has it, "
            f"found {_said(shapes.get(wrong[0]))}{more}"
        )


def _said(shape: tuple[int, ...] | None) -> str:
    if shape is None:
        return "no such tensor"
    return " × ".join(map(str, shape)) if shape else "a single number"
