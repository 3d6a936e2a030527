"""Shards of stores at a URI, kept on this machine for as long as there is room.

A shard is known by its SHA-256, so that stores share what they have in common and nothing is ever
out of date; it is compared with it while it is fetched, and a copy that is damaged comes again.
Reading visits all shards in random order: where the store is larger than the cache, shards come and
go.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyarrow import ArrowException

from lvtrain.data.checksums import sha256
from lvtrain.data.folder import alive
from lvtrain.data.location import opened, place, unread
from lvtrain.data.shards import ShardInfo
from lvtrain.errors import UserError

MOST_BYTES: Final = 64 << 30
_CHUNK: Final = 4 << 20


def own_folder(name: str) -> Path:
    """Return the folder of that name for what this user keeps on this machine."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lvtrain" / name


@dataclass(frozen=True)
class Cache:
    """A folder of shards of limited size; many processes may use one."""

    folder: Path
    limit: int | None = None
    """Most bytes; by default 64 GiB, or half of what is free where that is less."""

    def fetch(self, uri: str, info: ShardInfo) -> Path:
        """Return a local copy of a shard below a URI, fetched if there is none.

        Raises UserError if it cannot be read, or is not what was written.
        """
        path = self.folder / f"{info.sha256}.arrow"
        with contextlib.suppress(OSError):
            if path.stat().st_size == info.bytes:
                os.utime(path)  # the newest is the last to go
                return path
        # Two threads of a process may fetch one shard, as two hosts may that share the folder.
        own = f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
        partial = path.with_name(f".{path.name}.{own}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(info.bytes)
            with partial.open("wb") as file:
                _read(uri, info, file.write)
            partial.replace(path)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror}") from None
        finally:
            with contextlib.suppress(OSError):
                partial.unlink()
        return path

    def discard_damaged(self, info: ShardInfo) -> None:
        """Remove the copy of a shard if it is not what was written, so that it is fetched again."""
        path = self.folder / f"{info.sha256}.arrow"
        with contextlib.suppress(OSError):
            if sha256(path) != info.sha256:
                path.unlink()

    def _make_room(self, needed: int) -> None:
        """Remove the shards that were not used for longest. A process that has one mapped reads
        on."""
        kept, held = [], 0
        for path in self.folder.glob("*.arrow"):
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                kept.append((found.st_mtime_ns, found.st_size, path))
                held += found.st_size
        for path in self.folder.glob(".*.arrow.*"):
            owner = re.fullmatch(r"(.+)-(\d+)-\d+", path.name.partition(".arrow.")[2])
            ours = owner is not None and owner[1] == socket.gethostname()
            with contextlib.suppress(FileNotFoundError):
                if owner is not None and ours and not alive(int(owner[2])):
                    path.unlink()
                else:
                    held += path.stat().st_size
        limit = self.limit
        if limit is None:
            limit = min(MOST_BYTES, (held + shutil.disk_usage(self.folder).free) // 2)
        for _, size, path in sorted(kept):
            if held + needed <= limit:
                return
            path.unlink(missing_ok=True)
            held -= size


def verify_there(uri: str, info: ShardInfo) -> None:
    """Compare a shard below a URI with its SHA-256, as it is there. Raises UserError."""
    _read(uri, info, lambda block: None)


def _read(uri: str, info: ShardInfo, take: Callable[[bytes], object]) -> None:
    """Read a shard below a URI, block by block. Raises UserError, in the end, if it is not what was
    written."""
    name = f"{uri}/{info.file}"
    digest = hashlib.sha256()
    for block in _blocks(name):
        digest.update(block)
        take(block)
    if (found := digest.hexdigest()) != info.sha256:
        raise UserError(
            f"{name}: corrupt shard: expected SHA-256 {info.sha256[:16]}…, found {found[:16]}…"
        )


def _blocks(name: str) -> Iterator[bytes]:
    system, path = opened(name)
    try:
        with system.open_input_stream(path) as source:
            while block := source.read(_CHUNK):
                yield block
    except FileNotFoundError:
        raise UserError(f"{name}: missing shard: found no such file") from None
    except (OSError, ArrowException) as error:  # S3's is an OSError without a number
        raise unread(place(name), error) from None
