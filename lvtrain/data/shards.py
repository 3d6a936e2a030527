"""The files of a store: Arrow IPC files of rows of one exact length.

A shard `len-0007-00000.arrow` is one record batch with the columns

    tokens: fixed_size_list<uint16 or uint32>[7]     the ids of a row, without its end
    label:  int32                                    only where rows are labelled
    target: list<uint16 or uint32>                   only where rows have a parallel side

in the order of the corpus. One batch a file makes each column one array, seen through the memory
map without a copy. The bytes are a function of the rows alone, so the same text gives the same
SHA-256.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import resource
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from zlib import crc32

import numpy as np
import pyarrow as pa

from lvtrain.data.arrow import from_numpy, to_numpy
from lvtrain.data.checksums import BLOCK_BYTES, decode, digests, sha256
from lvtrain.data.layout import Layout
from lvtrain.data.spill import Slice, Spill, read_bucket
from lvtrain.data.words import spans
from lvtrain.errors import UserError

SHARD_BYTES: Final = 64 << 20
OTHER_FILES: Final = 512
"""Files that a process may have open besides the shards of a split."""
MAPPED_BYTES: Final = 8 << 20
"""Most bytes of a shard that stay in the resident set while rows are gathered."""


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """What store.json records of one shard."""

    file: str
    """Path below the store."""
    length: int
    """Tokens of each row, without the end."""
    rows: int
    bytes: int
    sha256: str
    blocks: str = ""
    """CRC-32 of each block of the file; none in stores of version 1."""


class ShardWriter:
    """Writes one split: rows of any length in, one series of shards a length out."""

    def __init__(self, store: Path, split: str, layout: Layout) -> None:
        self._store = store
        self._split = split
        self._layout = layout
        self._folder = store / f".{split}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._spill = Spill(self._folder, "rows", layout)

    def add(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        labels: np.ndarray | None = None,
        targets: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Append rows, as `Spill.add` does."""
        self._spill.add(self._split, ids, lengths, labels, targets)

    def finish(self) -> Iterator[ShardInfo]:
        """Write the shards, shortest rows first; each is yielded when it is on disk."""
        self._spill.flush()
        for length in sorted({one.length for one in self._spill.slices}):
            slices = [one for one in self._spill.slices if one.length == length]
            yield from write_bucket(self._folder, slices, self._layout, self._store)
        shutil.rmtree(self._folder, ignore_errors=True)


def write_bucket(
    folder: Path, slices: Sequence[Slice], layout: Layout, store: Path, number: int = 0
) -> Iterator[ShardInfo]:
    """Write the shards of the rows of one length, the first of them with this number.

    Each is written beside the rows and then renamed: of a task that is killed nothing is left in
    the store, and one that outlives its work finds no store, or a shard that it cannot touch.
    """
    split, length = slices[0].split, slices[0].length
    (store / split).mkdir(exist_ok=True)
    for i, (rows, columns) in enumerate(read_bucket(folder, slices, layout, SHARD_BYTES), number):
        name = f"len-{length:04d}-{i:05d}.arrow"
        partial = folder / f".{split}-{name}.{os.getpid()}"
        write_shard(partial, layout.schema(length), rows, columns)
        whole, blocks = digests(partial)
        size = partial.stat().st_size
        partial.replace(store / split / name)
        yield ShardInfo(
            file=f"{split}/{name}",
            length=length,
            rows=rows,
            bytes=size,
            sha256=whole,
            blocks=blocks,
        )


def write_shard(path: Path, schema: pa.Schema, rows: int, columns: dict[str, np.ndarray]) -> None:
    """Write one Arrow IPC file of one record batch."""
    arrays = []
    for field in schema:
        values = from_numpy(columns[field.name])
        if pa.types.is_fixed_size_list(field.type):
            values = pa.FixedSizeListArray.from_arrays(values, type=field.type)
        elif pa.types.is_list(field.type):
            offsets = np.zeros(rows + 1, dtype=np.int32)
            np.cumsum(columns["sizes"], out=offsets[1:])
            values = pa.ListArray.from_arrays(from_numpy(offsets), values, type=field.type)
        arrays.append(values)
    with path.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))


class Shard:
    """One shard, memory-mapped: its columns as arrays that share memory with the file."""

    def __init__(
        self,
        path: Path,
        tokens: np.ndarray,
        batch: pa.RecordBatch,
        mapping: mmap.mmap,
        blocks: _Blocks,
    ) -> None:
        self.path = path
        self.tokens = tokens  # [rows, length]
        self._mapping = mapping
        self._blocks = blocks
        names = batch.schema.names
        self.labels = to_numpy(batch.column("label")) if "label" in names else None  # [rows]
        self.targets: tuple[np.ndarray, np.ndarray] | None = None  # values and offsets [rows + 1]
        if "target" in names:
            target = batch.column("target")
            self.targets = to_numpy(target.values), to_numpy(target.offsets)

    @classmethod
    def open(cls, path: Path, info: ShardInfo, layout: Layout) -> Self:
        """Map a shard. Raises UserError, naming it, if it is not what store.json says it is."""
        check_size(path, info)
        try:
            with path.open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            blocks = _Blocks(path, info, mapping)
            blocks.verify(np.array([0, 1, -2, -1]))  # where Arrow describes the columns
            reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapping)))
            batches, schema = reader.num_record_batches, reader.schema
            batch = reader.get_batch(0) if batches else None
            if batch is not None:
                batch.validate()
        except (OSError, ValueError, pa.ArrowException) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise UserError(f"{path}: too many open files (ulimit -n)") from None
            reason = " ".join(str(error).split())
            raise UserError(f"{path}: corrupt shard: not a readable Arrow file: {reason}") from None
        expected = layout.schema(info.length)
        if not schema.equals(expected):
            wanted = ", ".join(f"{field.name}: {field.type}" for field in expected)
            raise UserError(f"{path}: corrupt shard: expected the columns {wanted}, found others")
        if batch is None or batches != 1 or batch.num_rows != info.rows:
            rows = f"{batch.num_rows:,}" if batch is not None else "no"
            raise UserError(
                f"{path}: corrupt shard: expected {info.rows:,} rows, found {rows} rows"
                + (f" in the first of {batches} batches" if batches > 1 else "")
            )
        tokens = to_numpy(batch.column("tokens").values).reshape(info.rows, info.length)
        return cls(path, tokens, batch, mapping, blocks)

    def verify(self, rows: np.ndarray) -> None:
        """Compare what some rows lie in with its checksums. Raises UserError if it differs.

        Nothing is compared twice, and no more than a few blocks for each row: of a large store,
        what was read is verified and what was not read costs nothing.
        """
        blocks = self._blocks
        if not blocks.unverified:
            return
        for column in (self.tokens, self.labels):
            if column is not None:
                stride = column.strides[0]
                blocks.verify_spans(column.ctypes.data + rows * stride, stride)
        if self.targets is not None:
            values, offsets = self.targets
            size = offsets.itemsize
            blocks.verify_spans(offsets.ctypes.data + rows * size, 2 * size)
            starts = offsets[rows].astype(np.int64)
            lengths = np.minimum(offsets[rows + 1], len(values)) - starts
            size = values.itemsize
            blocks.verify_spans(values.ctypes.data + starts * size, np.maximum(lengths, 0) * size)

    def release(self) -> None:
        """Give the pages read so far back to the page cache: they stop counting as resident."""
        self._mapping.madvise(mmap.MADV_DONTNEED)

    def parts(self, rows: np.ndarray) -> Iterator[slice]:
        """Cut ascending rows where a part would reach over more than `MAPPED_BYTES` of file."""
        parts = -(-self._mapping.size() // MAPPED_BYTES)
        per_part = -(-len(self.tokens) // parts)
        cuts = np.searchsorted(rows, np.arange(1, parts) * per_part).tolist()
        for start, stop in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            if stop > start:
                yield slice(start, stop)


class _Blocks:
    """The blocks of a mapped shard, and which of them are still to be compared."""

    def __init__(self, path: Path, info: ShardInfo, mapping: mmap.mmap) -> None:
        self._path = path
        self._mapping = mapping
        self._expected = decode(info.blocks)
        self.address = np.frombuffer(mapping, dtype=np.uint8).ctypes.data
        self.unverified = len(self._expected)
        self._todo = np.ones(self.unverified, dtype=bool)
        if self.unverified and self.unverified != -(-info.bytes // BLOCK_BYTES):
            raise ValueError(f"{self.unverified:,} checksums for {info.bytes:,} bytes")

    def verify(self, blocks: np.ndarray) -> None:
        """Compare blocks, those counted from the end with them. Raises UserError."""
        if not self.unverified:
            return
        size = len(self._todo)
        blocks = blocks[(blocks >= -size) & (blocks < size)] % size
        for block in np.unique(blocks[self._todo[blocks]]).tolist():
            start = block * BLOCK_BYTES
            with memoryview(self._mapping)[start : start + BLOCK_BYTES] as content:
                found = crc32(content)
            if found != (expected := int(self._expected[block])):
                raise UserError(
                    f"{self._path}: corrupt shard: expected CRC-32 {expected:08x} of the bytes "
                    f"from {start:,}, found {found:08x}"
                )
            self._todo[block] = False
        self.unverified = int(np.count_nonzero(self._todo))

    def verify_spans(self, addresses: np.ndarray, sizes: np.ndarray | int) -> None:
        """Compare what so many bytes from each of some addresses lie in. Raises UserError."""
        begin = addresses - self.address
        first = begin // BLOCK_BYTES
        self.verify(spans(first, (begin + sizes - 1) // BLOCK_BYTES - first + 1))


def allow_open(shards: int) -> None:
    """Let this process have so many shards open, as far as it may: each takes a file descriptor."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < shards + OTHER_FILES:
        with contextlib.suppress(ValueError, OSError):  # where even the hard limit is refused
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def check_size(path: Path, info: ShardInfo) -> None:
    """Raise UserError if a shard is missing or of another size than recorded."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise UserError(
            f"{path}: missing shard: expected {info.bytes:,} bytes, found no such file"
        ) from None
    if size != info.bytes:
        kind = "truncated" if size < info.bytes else "corrupt"
        raise UserError(f"{path}: {kind} shard: expected {info.bytes:,} bytes, found {size:,}")


def check_hash(path: Path, info: ShardInfo) -> None:
    """Raise UserError if the bytes of a shard are not those that were written."""
    check_size(path, info)
    found = sha256(path)
    if found != info.sha256:
        raise UserError(
            f"{path}: corrupt shard: expected SHA-256 {info.sha256[:16]}…, found {found[:16]}…"
        )
