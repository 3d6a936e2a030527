"""The last pass of `prepare`: the rows of each length, from all parts, become shards."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lvtrain.data.folder import write_whole
from lvtrain.data.layout import Layout
from lvtrain.data.shards import ShardInfo, write_bucket
from lvtrain.data.spill import Slice
from lvtrain.prepare.workers import Advance


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """The rows of one length of one split, to be written as shards."""

    folder: Path
    slices: tuple[Slice, ...]
    layout: Layout
    store: Path
    first: int = 0
    """Number of the first shard."""

    @property
    def bytes(self) -> int:
        """Bytes of the rows."""
        return sum(size for one in self.slices for _, size in one.columns.values())


def assembled(task: Assembly) -> Path:
    """Return where `assemble` says which shards it wrote."""
    one = task.slices[0]
    return task.folder / f"assembled-{one.split}-{one.length:04d}.json"


def assemble(task: Assembly, advance: Advance) -> None:
    """Write the shards of the rows of one length."""
    infos = []
    done = 0
    for info in write_bucket(task.folder, task.slices, task.layout, task.store, task.first):
        infos.append(asdict(info))
        read = min(info.bytes, task.bytes - done)
        advance(read, info.rows * info.length)
        done += read
    write_whole(assembled(task), json.dumps(infos).encode())


def read_assembled(task: Assembly) -> list[ShardInfo]:
    """Read what `assemble` left."""
    return [ShardInfo(**info) for info in json.loads(assembled(task).read_text())]
