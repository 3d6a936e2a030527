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
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from lvtrain.errors import Passing, UserError

KEY: Final = "key"
"""File that says what the work depends on; without it, the work is not gone on with."""
LOCK: Final = "lock"
"""File that whoever works in the folder holds, the last to be removed."""

GOES_ON: Final = "the same command goes on from there"


@dataclass(frozen=True, kw_only=True)
class WorkFolder:
    """A folder that work goes on in."""

    path: Path
    parts: Path
    """For what is half done."""
    result: Path
    """What becomes the output."""
    key: str = ""
    """What the work depends on."""


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
        with disk_space(folder):
            yield folder
        _check_absent(out, known_by, overwrite)
        _exchange(folder, target, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_parents(made)


@contextlib.contextmanager
def resumed_folder(
    out: Path, *, known_by: str, key: str, overwrite: bool | None = None
) -> Iterator[WorkFolder]:
    """As `new_folder`, for work that takes so long that it should go on after a kill.

    Gives a folder of work (see `work_folder`), whose result becomes `out` in the end.
    """
    target, out = _target(out)
    with _writable(out, target):
        _check_absent(out, known_by, overwrite)
    with _locked(target, out) as folder:
        with _writable(out, target):
            # What an interrupted exchange moved away comes back first.
            for old in folder.glob("result-*.old"):
                if not target.exists():
                    old.rename(target)
            _check_absent(out, known_by, overwrite)
        with _kept(folder, out, key) as work:
            yield work
            with too_late():
                _check_absent(out, known_by, overwrite)
            # Its result moved away, the work is not to be gone on with.
            (folder / KEY).unlink()
            _exchange(work.result, target, out)


@contextlib.contextmanager
def work_folder(out: Path, key: str) -> Iterator[WorkFolder]:
    """Give a hidden folder beside `out` for work on it, which is removed in the end.

    What a process left there that was killed or interrupted, or failed for any reason but a mistake
    of the user's, is there again, if it worked with the same `key`; of another key, and after a
    mistake, nothing is left. Raises UserError if another process is at work on it.
    """
    target, out = _target(out)
    with _locked(target, out) as folder, _kept(folder, out, key) as work:
        yield work


@contextlib.contextmanager
def _locked(target: Path, out: Path) -> Iterator[Path]:
    """Give the folder of work on `target` to this process alone; removed when nothing is in it."""
    folder = target.parent / f".{target.name}.work"
    made: list[Path] = []
    try:
        with _writable(out, folder):
            _make_parents(folder, made)
            lock = _lock(folder, out)
        with lock:
            try:
                yield folder
            finally:
                with contextlib.suppress(OSError):
                    if [path.name for path in folder.iterdir()] == [LOCK]:
                        (folder / LOCK).unlink()
                        folder.rmdir()  # refused where another process waits for its turn
    finally:
        _remove_parents(made)


def _lock(folder: Path, out: Path) -> TextIO:
    """Make a folder of work, and return its lock, held."""
    path = folder / LOCK
    while True:
        folder.mkdir(exist_ok=True)
        if not path.exists() and any(folder.iterdir()):
            raise UserError(
                f"{out}: expected nothing or a folder of work at {folder}, found {LOCK} not in it"
            )
        try:
            lock = path.open("w")
        except FileNotFoundError:
            continue  # whoever held it has just removed the folder
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UserError(f"{out}: another process is writing it") from None
        except OSError:
            return lock  # a file system without locks
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()  # what was held is in no folder any more


@contextlib.contextmanager
def _kept(folder: Path, out: Path, key: str) -> Iterator[WorkFolder]:
    """Give a locked folder for work of a key, and empty it in the end unless it should go on."""
    note = folder / KEY
    with _writable(out, folder):
        if not (note.is_file() and note.read_text() == key):
            _empty(folder)
            write_whole(note, key.encode())
    # A task of other work, which outlives the process that gave it, finds neither.
    parts, result = (folder / f"{name}-{key[:8]}" for name in ("parts", "result"))
    try:
        with disk_space(folder):
            yield WorkFolder(path=folder, parts=parts, result=result, key=key)
    except Passing as error:
        if not parts.exists():  # nothing was begun
            _empty(folder, ignore_errors=True)
            raise
        raise Passing(f"{error}; {GOES_ON}") from None
    except UserError:
        _empty(folder, ignore_errors=True)
        raise
    except BaseException as error:
        if parts.exists():
            error.add_note(GOES_ON)
        raise
    _empty(folder, ignore_errors=True)


def _empty(folder: Path, ignore_errors: bool = False) -> None:
    """Remove all but the lock from a folder of work; killed meanwhile, what is left belongs to no
    key."""
    (folder / KEY).unlink(missing_ok=True)
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=ignore_errors)
        elif path.name != LOCK:
            path.unlink(missing_ok=True)


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
        number = left.name.removeprefix(prefix).removesuffix(".old")
        # A folder of our own number is another's: after a restart, numbers begin anew.
        if not number.isdecimal() or (int(number) != os.getpid() and alive(int(number))):
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


def check_space(folder: Path, needs: int) -> None:
    """Raise `Passing` if the disk of `folder` is known to be too small: `needs` is the least number
    of bytes that will be written."""
    free = shutil.disk_usage(folder).free
    if free < needs:
        raise Passing(
            f"no space left on device: {folder} has {free:,} bytes free, "
            f"expected more than {needs:,}"
        )


@contextlib.contextmanager
def disk_space(folder: Path) -> Iterator[None]:
    """Turn a full disk, or a file larger than the shell or the file system lets files be, into
    `Passing`."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        if error.errno == errno.EFBIG:
            raise Passing(f"{place}: file too large while writing (ulimit -f?)") from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Passing(f"no space left on device while writing {place}") from None


@contextlib.contextmanager
def too_late() -> Iterator[None]:
    """Turn a mistake that was made while the work was done into `Passing`: the work is kept."""
    try:
        yield
    except Passing:
        raise
    except UserError as error:
        raise Passing(str(error)) from None


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


def alive(process: int) -> bool:
    """Tell whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
