"""Output folders that are complete or absent."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO

from lvtrain.errors import Passing, UserError

RESULT: Final = "result"
"""Folder that becomes the output, within one that work goes on in."""
KEY: Final = "key"
"""File that says what the work depends on; without it, the work is not gone on with."""


@contextlib.contextmanager
def new_folder(out: Path, *, known_by: str, overwrite: bool | None = None) -> Iterator[Path]:
    """Give a hidden folder beside `out` to write into, and rename it to `out` in the end.

    Whatever goes wrong leaves `out` as it was and no folder behind; what a killed process left is
    removed by the next one. A link at `out` stays, and what it leads to is replaced. `overwrite` is
    None where the user has no such choice. Raises UserError, before anything is written into the
    folder, if it cannot be written, or `out` exists and is not to be overwritten, or does not hold
    `known_by`, the file that only a folder of the same kind has.
    """
    target, out = _target(out)
    prefix = f".{target.name}.partial-{socket.gethostname()}-"
    folder = target.parent / f"{prefix}{os.getpid()}"
    made: list[Path] = []
    try:
        with _writable(out, folder):
            _recover(target, prefix)
            _check_absent(out, known_by, overwrite)
            _make_parents(folder, made)
            folder.mkdir()
        yield folder
        _check_absent(out, known_by, overwrite)
        _exchange(folder, target, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_parents(made)


@contextlib.contextmanager
def resumed_folder(
    out: Path, *, known_by: str, key: str, overwrite: bool | None = None
) -> Iterator[Path]:
    """As `new_folder`, for work that takes so long that it should go on after a kill.

    Gives a folder of work (see `work_folder`), whose folder `RESULT` becomes `out` in the end.
    """
    target, out = _target(out)
    with _writable(out, target):
        # What an interrupted exchange moved away comes back first.
        old = _work(target) / f"{RESULT}.old"
        if old.exists() and not target.exists():
            old.rename(target)
        _check_absent(out, known_by, overwrite)
    with work_folder(out, key) as folder:
        yield folder
        _check_absent(out, known_by, overwrite)
        # Its result moved away, the work is not to be gone on with.
        (folder / KEY).unlink()
        _exchange(folder / RESULT, target, out)


@contextlib.contextmanager
def work_folder(out: Path, key: str) -> Iterator[Path]:
    """Give a hidden folder beside `out` for work on it, which is removed in the end.

    What a process left there that was killed or interrupted is there again, if it worked with the
    same `key`; of another key, and after an error but `Passing`, nothing is left. Raises UserError
    if another process is at work on it.
    """
    target, out = _target(out)
    folder = _work(target)
    made: list[Path] = []
    with contextlib.ExitStack() as stack:
        with _writable(out, folder):
            _make_parents(folder, made)
            folder.mkdir(exist_ok=True)
            lock = stack.enter_context((folder / "lock").open("w"))
            _lock(lock, out)
            _keep_only(folder, key)
        try:
            yield folder
        except Passing as error:
            raise Passing(f"{error}; the same command goes on from there") from None
        except Exception:
            _discard(folder)
            _remove_parents(made)
            raise
        _discard(folder)


def _discard(folder: Path) -> None:
    """Remove a folder of work; killed meanwhile, what is left belongs to no key."""
    (folder / KEY).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _work(target: Path) -> Path:
    return target.parent / f".{target.name}.work"


def _lock(file: TextIO, out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"{out}: another process is writing it") from None
    except OSError:
        pass  # a file system without locks


def _keep_only(folder: Path, key: str) -> None:
    """Empty a folder of work that was done with another key."""
    note = folder / KEY
    if note.is_file() and note.read_text() == key:
        return
    note.unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
    write_whole(note, key.encode())


def write_whole(path: Path, content: bytes | bytearray | memoryview) -> None:
    """Write a file that is complete or absent, whenever the process is killed."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def _target(out: Path) -> tuple[Path, Path]:
    """Return what a link at `out` leads to, and `out` itself, absolute."""
    out = Path(os.path.abspath(out))  # noqa: PTH100 (resolve() would follow a link at `out`)
    return Path(os.path.realpath(out)), out


@contextlib.contextmanager
def _writable(out: Path, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = folder.parent if error.filename == str(folder) else error.filename
        raise UserError(f"{out}: cannot be written: {place}: {error.strerror}") from None


def _make_parents(folder: Path, made: list[Path]) -> None:
    for parent in reversed([path for path in folder.parents if not path.exists()]):
        parent.mkdir(exist_ok=True)
        made.append(parent)


def _remove_parents(made: list[Path]) -> None:
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


def _exchange(folder: Path, target: Path, out: Path) -> None:
    """Rename a folder to `target`, and remove what was there once the new one is in its place."""
    old = folder.with_name(folder.name + ".old")
    try:
        if target.exists():
            target.rename(old)
        try:
            folder.rename(target)
        except BaseException:
            if old.exists() and not target.exists():
                old.rename(target)
            raise
    except OSError as error:
        raise UserError(f"{out}: cannot be replaced: {error.strerror}") from None
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
