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
def new_folder(out: Path, *, known_by: str, overwrite: bool | None = None) -> Iterator[Path]:
    """Give a hidden folder beside `out` to write into, and rename it to `out` in the end.

    Whatever goes wrong leaves `out` as it was and no folder behind; what a killed process left is
    removed by the next one. A link at `out` stays, and what it leads to is replaced. `overwrite` is
    None where the user has no such choice. Raises UserError, before anything is written into the
    folder, if it cannot be written, or `out` exists and is not to be overwritten, or does not hold
    `known_by`, the file that only a folder of the same kind has.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100 (resolve() would follow a link at `out`)
    target = Path(os.path.realpath(out))
    prefix = f".{target.name}.partial-{socket.gethostname()}-"
    folder = target.parent / f"{prefix}{os.getpid()}"
    made: list[Path] = []
    try:
        try:
            _recover(target, prefix)
            _check_absent(out, known_by, overwrite)
            for parent in reversed([path for path in folder.parents if not path.exists()]):
                parent.mkdir(exist_ok=True)
                made.append(parent)
            folder.mkdir()
        except OSError as error:
            place = folder.parent if error.filename == str(folder) else error.filename
            raise UserError(f"{out}: cannot be written: {place}: {error.strerror}") from None
        yield folder
        _check_absent(out, known_by, overwrite)
        try:
            _exchange(folder, target)
        except OSError as error:
            raise UserError(f"{out}: cannot be replaced: {error.strerror}") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in reversed(made):
            with contextlib.suppress(OSError):
                parent.rmdir()  # refused where there is something in it, as after a success


def _recover(target: Path, prefix: str) -> None:
    """Remove what killed processes left; give back what one moved away and did not replace."""
    for left in target.parent.glob(f"{glob.escape(prefix)}*"):
        if _alive(left.name.removeprefix(prefix).removesuffix(".old")):
            continue
        if left.suffix == ".old" and not target.exists():
            left.rename(target)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _exchange(folder: Path, target: Path) -> None:
    """Rename a folder to `target`, and remove what was there once the new one is in its place."""
    old = folder.with_name(folder.name + ".old")
    if target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def disk_space(folder: Path, needs: int) -> Iterator[None]:
    """Turn a full disk into a UserError: before a byte is written, if it is known to be too small.

    `needs` is the least number of bytes that will be written below `folder`. A file larger than the
    shell or the file system lets files be is a UserError too.
    """
    free = shutil.disk_usage(folder).free
    if free < needs:
        raise _full(folder, needs, free)
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise UserError(f"{folder.parent}: file too large while writing (ulimit -f?)") from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(folder, needs, free) from None


def _full(folder: Path, needs: int, free: int) -> UserError:
    return UserError(
        f"no space left on device: {folder.parent} had {free:,} bytes free, "
        f"expected more than {needs:,}"
    )


def _check_absent(out: Path, known_by: str, overwrite: bool | None) -> None:
    if not os.path.lexists(out):
        return
    if not out.exists():
        raise UserError(f"{out}: a link to {out.readlink()}, which does not exist")
    known = (out / known_by).is_file()
    if not overwrite:
        choice = " or allow --overwrite" if known and overwrite is not None else ""
        raise UserError(f"{out}: exists already; choose another folder{choice}")
    if not known:
        found = "one without" if out.is_dir() else "no folder"
        raise UserError(f"{out}: not overwritten: expected a folder with {known_by}, found {found}")
    if os.path.ismount(os.path.realpath(out)):  # cannot be renamed, which would be found last
        raise UserError(f"{out}: not overwritten: a mount point; choose a folder in it")


def _alive(pid: str) -> bool:
    """Tell whether another process of this machine runs; what is no number is taken to be one."""
    try:
        # A folder of our own number is another's: after a restart, numbers begin anew.
        if int(pid) == os.getpid():
            return False
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except (PermissionError, ValueError):
        return True
    return True
