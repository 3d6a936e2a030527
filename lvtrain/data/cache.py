"""Shards of stores at a URI, kept on this machine for as long as there is room.

A shard is known by its SHA-256, so that stores share what they have in common and nothing is ever
out of date; it is compared with it while it is fetched. Reading visits all shards in random order:
where the store is larger than the cache, shards come and go.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyarrow import ArrowException

from lvtrain.data.location import opened, said
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
        self.folder.mkdir(parents=True, exist_ok=True)
        self._make_room(info.bytes)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        name = f"{uri}/{info.file}"
        try:
            found = self._copy(name, partial)
            if found != info.sha256:
                raise UserError(
                    f"{name}: corrupt shard: expected SHA-256 {info.sha256[:16]}…, "
                    f"found {found[:16]}…"
                )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    def _copy(self, name: str, to: Path) -> str:
        system, path = opened(name)
        digest = hashlib.sha256()
        try:
            with system.open_input_stream(path) as source, to.open("wb") as file:
                while block := source.read(_CHUNK):
                    digest.update(block)
                    file.write(block)
        except FileNotFoundError:
            raise UserError(f"{name}: missing shard: found no such file") from None
        except ArrowException as error:
            raise UserError(f"{name}: cannot be read: {said(error)}") from None
        return digest.hexdigest()

    def _make_room(self, needed: int) -> None:
        """Remove the shards that were not used for longest. A process that has one mapped reads
        on."""
        kept = []
        for path in self.folder.glob("*.arrow"):
            with contextlib.suppress(FileNotFoundError):
                kept.append((path.stat().st_mtime_ns, path.stat().st_size, path))
        held = sum(size for _, size, _ in kept)
        limit = self.limit
        if limit is None:
            limit = min(MOST_BYTES, (held + shutil.disk_usage(self.folder).free) // 2)
        for _, size, path in sorted(kept):
            if held + needed <= limit:
                return
            path.unlink(missing_ok=True)
            held -= size
