"""Output folders that are complete or absent."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from lvtrain.errors import UserError


@contextlib.contextmanager
def new_folder(out: Path, *, known_by: str, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden folder beside `out` to write into, and rename it to `out` in the end.

    Whatever goes wrong leaves `out` as it was and no folder behind; what a killed process left is
    removed by the next one. Raises UserError if `out` exists and is not to be overwritten, or does
    not hold `known_by`, the file that only a folder of the same kind has.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 (resolve() would follow a link at `out`)
    _check_absent(out, known_by, overwrite)
    prefix = f".{out.name}.partial-{socket.gethostname()}-"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f"{glob.escape(prefix)}*"):
            if not _alive(left.name.removeprefix(prefix).removesuffix(".old")):
                shutil.rmtree(left, ignore_errors=True)
        folder = out.parent / f"{prefix}{os.getpid()}"
        folder.mkdir()
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from None
    try:
        yield folder
        _check_absent(out, known_by, overwrite)
        old = folder.with_name(folder.name + ".old")
        if out.exists():
            out.rename(old)
        folder.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def disk_space(folder: Path, needs: int) -> Iterator[None]:
    """Turn a full disk into a UserError: before a byte is written, if it is known to be too small.

    `needs` is the least number of bytes that will be written below `folder`.
    """
    free = shutil.disk_usage(folder).free
    if free < needs:
        raise _full(folder, needs, free)
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(folder, needs, free) from None


def _full(folder: Path, needs: int, free: int) -> UserError:
    return UserError(
        f"no space left on device: {folder.parent} had {free:,} bytes free, "
        f"expected more than {needs:,}"
    )


def _check_absent(out: Path, known_by: str, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise UserError(f"{out}: exists already; choose another folder or allow --overwrite")
    if not (out / known_by).is_file():
        raise UserError(f"{out}: not overwritten: expected a folder with {known_by}, found none")


def _alive(pid: str) -> bool:
    """Tell whether a process of this machine runs; what is no number is taken to be one."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except (PermissionError, ValueError):
        return True
    return True
