"""A store made here and sent to a URI: `lvtrain prepare --out s3://bucket/store`.

Other storage renames no folder as a whole, so the order is what counts: first whatever the store
consists of, then `store.json`, without which there is no store; one that is replaced loses its own
before anything else is written, one that grows keeps it until all that is new is there.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyarrow import ArrowException

from lvtrain.data.cache import own_folder
from lvtrain.data.folder import WorkFolder, too_late, work_folder, write_whole
from lvtrain.data.info import INDEX, StoreInfo
from lvtrain.data.location import Uri, listed, opened, put, read_bytes, said
from lvtrain.data.store import read_index
from lvtrain.errors import Passing, UserError
from lvtrain.prepare.workers import Advance

NOTE: Final = "being-written"
"""A file that is there while a store is on its way: the key of the work that it comes from."""
OF_A_STORE: Final = re.compile(
    rf"(\.?({NOTE}|(target_)?tokenizer\.json)|\.{re.escape(INDEX)}"
    r"|(train|valid|test)/\.?len-\d+-\d+\.arrow)(\.partial)?"
)
"""What a store that was not sent as a whole leaves, and the next one replaces."""


@contextmanager
def sent_folder(
    out: Uri, work: str | None, key: str, overwrite: bool, before: StoreInfo | None = None
) -> Iterator[WorkFolder]:
    """Give a folder of work, as `work_folder` does, for a store that goes to a URI.

    It is below `work`, or a folder of the user's. Raises UserError, before any work, if a store
    cannot be written there, or something else is there, or a store that is not to be replaced;
    `before` is one that grows.
    """
    if before is None:
        _check_absent(out, overwrite)
    name = f"{out.name}-{hashlib.sha256(str(out).encode()).hexdigest()[:8]}"
    with work_folder(Path(work or own_folder("prepare")) / name, key) as folder:
        try:
            _claim(out, key, folder.parts)  # whether it can be written is told now
            yield folder
        except Passing:
            raise
        except UserError:
            with suppress(UserError, OSError, ArrowException):
                _remove(out / NOTE)
            raise


@dataclass(frozen=True, kw_only=True)
class Sending:
    """A file of a store, and where it goes."""

    store: Path
    name: str
    to: Uri
    notes: Path

    @property
    def bytes(self) -> int:
        return (self.store / self.name).stat().st_size


def sent(task: Sending) -> Path:
    """Return where `send` notes that a file was sent."""
    return task.notes / f"sent-{task.name.replace('/', '-')}"


def send(task: Sending, advance: Advance) -> None:
    """Write a file of a store to where it goes."""
    _put(task.to / task.name, task.store / task.name)
    write_whole(sent(task), b"")
    advance(task.bytes, 0)


def send_store(
    place: WorkFolder,
    info: StoreInfo,
    to: Uri,
    overwrite: bool,
    run: Callable[[list[Sending]], None],
    before: StoreInfo | None = None,
) -> None:
    """Send a store whose index is there; `run` carries `send` out. Of one that has grown from
    `before`, which is there, what is new. Raises UserError."""
    store, notes = place.result, place.parts
    with too_late():
        _check_as_it_was(to, overwrite, before)  # hours may have gone since it was
    _claim(to, place.key, notes)
    kept = set() if before is None else {INDEX, *_files(before)}
    names = [name for name in _files(info) if name not in kept]
    tasks = [Sending(store=store, name=name, to=to, notes=notes) for name in names]
    if before is None:
        _remove(to / INDEX)
    there = _sizes(to)
    for task in tasks:
        if there.get(task.name) != task.bytes:
            sent(task).unlink(missing_ok=True)
    run(tasks)
    there = _sizes(to)
    for task in tasks:
        if (found := there.pop(task.name, None)) != task.bytes:
            raise Passing(f"{to / task.name}: expected {task.bytes:,} bytes, found {found}")
    with too_late():
        _check_as_it_was(to, overwrite, before)
        if _claimed_by(to) != place.key:
            raise UserError(f"{to}: another process is writing it")
    for name in there:  # of a store that this one replaces
        if OF_A_STORE.fullmatch(name) and name not in kept:
            _remove(to / name)
    _put(to / INDEX, store / INDEX)


def _files(info: StoreInfo) -> list[str]:
    """Return the files of a store, but for its index."""
    shards = [shard.file for split in info.splits.values() for shard in split.shards]
    return [*info.tokenizers, *shards]


def _check_as_it_was(out: Uri, overwrite: bool, before: StoreInfo | None) -> None:
    """Raise UserError if what is there is not what it was when the work began."""
    if before is None:
        _check_absent(out, overwrite)
    elif read_index(out) != before:
        raise UserError(f"{out}: changed meanwhile by another process, expected it as it was")


def _claim(out: Uri, key: str, notes: Path) -> None:
    """Note there what is on its way; where another store was, nothing that was sent is believed to
    be there still."""
    if _claimed_by(out) != key:
        for one in notes.glob("sent-*"):
            one.unlink()
        _put(out / NOTE, f"{key}\n".encode())


def _claimed_by(out: Uri) -> str:
    """Return the key of what is noted to be on its way."""
    try:
        return read_bytes(out / NOTE).decode(errors="replace").rstrip("\n")
    except FileNotFoundError:
        return ""


def _check_absent(out: Uri, overwrite: bool) -> None:
    there = _sizes(out)
    if INDEX in there and not overwrite:
        raise UserError(f"{out}: exists already; choose another folder or allow --overwrite")
    others = [name for name in there if name != INDEX and not OF_A_STORE.fullmatch(name)]
    if others:
        raise UserError(f"{out}: expected nothing or a store there, found {others[0]}")


def _sizes(folder: Uri) -> dict[str, int | None]:
    """Return the size of each file below a folder."""
    found = listed(folder, recursive=True)
    return {"/".join(file.parts[len(folder.parts) :]): info.size for file, info in found}


def _put(path: Uri, content: Path | bytes) -> None:
    try:
        put(path, content)
    except (OSError, ArrowException) as error:
        raise Passing(f"{path}: cannot be written: {said(error)}") from None


def _remove(path: Uri) -> None:
    system, name = opened(str(path))
    try:
        with suppress(FileNotFoundError):
            system.delete_file(name)
    except (OSError, ArrowException) as error:
        raise Passing(f"{path}: cannot be removed: {said(error)}") from None
