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

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

import numpy as np
import pyarrow as pa

from lvtrain.errors import UserError

SHARD_BYTES: Final = 64 << 20
SPILL_BYTES: Final = 128 << 10
"""Bytes of one length held back before they are appended to its file."""
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


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns that the shards of a store have."""

    tokens: np.dtype
    labels: bool = False
    targets: np.dtype | None = None

    def schema(self, length: int) -> pa.Schema:
        """Return the Arrow schema of a shard of rows of `length` tokens."""
        item = pa.field("item", pa.from_numpy_dtype(self.tokens), nullable=False)
        fields = [pa.field("tokens", pa.list_(item, length), nullable=False)]
        if self.labels:
            fields.append(pa.field("label", pa.int32(), nullable=False))
        if self.targets is not None:
            item = pa.field("item", pa.from_numpy_dtype(self.targets), nullable=False)
            fields.append(pa.field("target", pa.list_(item), nullable=False))
        return pa.schema(fields)


def smallest_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest integer type of a shard that holds every id of a vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class ShardWriter:
    """Writes one split: rows of any length in, one series of shards a length out.

    Rows are appended to one plain file a length and column as they come, and turned into shards
    by `finish`; memory is bounded by a small buffer for each length, whatever the corpus.
    """

    def __init__(self, store: Path, split: str, layout: Layout) -> None:
        self._store = store
        self._folder = store / split
        self._layout = layout
        self._buffers: dict[tuple[int, str], list[np.ndarray]] = {}
        self._held: dict[int, int] = {}
        self._rows: dict[int, int] = {}
        self._longest_target: dict[int, int] = {}

    def add(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        labels: np.ndarray | None = None,
        targets: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        """Append rows: all ids one after the other, the length of each, and what goes with it.

        `targets` is again ids and lengths.
        """
        if not len(lengths):
            return
        layout = self._layout
        order = np.argsort(lengths, kind="stable")
        starts = np.cumsum(lengths) - lengths
        if targets is not None:
            target_starts = np.cumsum(targets[1]) - targets[1]
        present, firsts = np.unique(lengths[order], return_index=True)
        for length, rows in zip(present.tolist(), np.split(order, firsts[1:]), strict=True):
            columns = {"tokens": ids[starts[rows, None] + np.arange(length)].astype(layout.tokens)}
            if layout.labels:
                assert labels is not None
                columns["label"] = labels[rows].astype(np.int32)
            if layout.targets is not None:
                assert targets is not None
                sizes = targets[1][rows]
                columns["target"] = targets[0][spans(target_starts[rows], sizes)].astype(
                    layout.targets
                )
                columns["sizes"] = sizes.astype(np.int32)
                self._longest_target[length] = max(
                    self._longest_target.get(length, 0), int(sizes.max())
                )
            self._hold(length, len(rows), columns)

    def finish(self) -> Iterator[ShardInfo]:
        """Write the shards, shortest rows first; each is yielded when it is on disk."""
        for length in sorted(self._rows):
            self._spill(length)
            yield from self._write_bucket(length)

    def _hold(self, length: int, rows: int, columns: dict[str, np.ndarray]) -> None:
        for name, values in columns.items():
            self._buffers.setdefault((length, name), []).append(values)
            self._held[length] = self._held.get(length, 0) + values.nbytes
        self._rows[length] = self._rows.get(length, 0) + rows
        if self._held[length] >= SPILL_BYTES:
            self._spill(length)

    def _spill(self, length: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for (bucket, name), parts in self._buffers.items():
            if bucket == length and parts:
                with self._spill_path(length, name).open("ab") as file:
                    for part in parts:
                        file.write(part.tobytes())
                parts.clear()
        self._held[length] = 0

    def _spill_path(self, length: int, name: str) -> Path:
        return self._folder / f"len-{length:04d}.{name}"

    def _write_bucket(self, length: int) -> Iterator[ShardInfo]:
        layout = self._layout
        row_bytes = length * layout.tokens.itemsize + 4 * layout.labels
        names = ["tokens"] + ["label"] * layout.labels
        if layout.targets is not None:
            row_bytes += 4 + self._longest_target[length] * layout.targets.itemsize
            names += ["target", "sizes"]
        most = max(1, SHARD_BYTES // row_bytes)
        files = {name: self._spill_path(length, name).open("rb") for name in names}
        try:
            for number, first in enumerate(range(0, self._rows[length], most)):
                rows = min(most, self._rows[length] - first)
                columns = {"tokens": _read(files["tokens"], layout.tokens, rows * length)}
                if layout.labels:
                    columns["label"] = _read(files["label"], np.dtype(np.int32), rows)
                if layout.targets is not None:
                    columns["sizes"] = _read(files["sizes"], np.dtype(np.int32), rows)
                    columns["target"] = _read(
                        files["target"], layout.targets, int(columns["sizes"].sum(dtype=np.int64))
                    )
                path = self._folder / f"len-{length:04d}-{number:05d}.arrow"
                write_shard(path, layout.schema(length), rows, columns)
                yield ShardInfo(
                    file=path.relative_to(self._store).as_posix(),
                    length=length,
                    rows=rows,
                    bytes=path.stat().st_size,
                    sha256=sha256(path),
                )
        finally:
            for file in files.values():
                file.close()
        for name in names:
            self._spill_path(length, name).unlink()


def write_shard(path: Path, schema: pa.Schema, rows: int, columns: dict[str, np.ndarray]) -> None:
    """Write one Arrow IPC file of one record batch."""
    arrays = []
    for field in schema:
        values = pa.array(columns[field.name])
        if pa.types.is_fixed_size_list(field.type):
            values = pa.FixedSizeListArray.from_arrays(values, type=field.type)
        elif pa.types.is_list(field.type):
            offsets = np.zeros(rows + 1, dtype=np.int32)
            np.cumsum(columns["sizes"], out=offsets[1:])
            values = pa.ListArray.from_arrays(pa.array(offsets), values, type=field.type)
        arrays.append(values)
    with path.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))


class Shard:
    """One shard, memory-mapped: its columns as arrays that share memory with the file."""

    def __init__(self, tokens: np.ndarray, batch: pa.RecordBatch, mapping: mmap.mmap) -> None:
        self.tokens = tokens  # [rows, length]
        self._mapping = mapping
        names = batch.schema.names
        self.labels = batch.column("label").to_numpy() if "label" in names else None  # [rows]
        self.targets: tuple[np.ndarray, np.ndarray] | None = None  # values and offsets [rows + 1]
        if "target" in names:
            target = batch.column("target")
            self.targets = target.values.to_numpy(), target.offsets.to_numpy()

    @classmethod
    def open(cls, path: Path, info: ShardInfo, layout: Layout) -> Self:
        """Map a shard. Raises UserError, naming it, if it is not what store.json says it is."""
        check_size(path, info)
        try:
            with path.open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapping)))
            batches, schema = reader.num_record_batches, reader.schema
            batch = reader.get_batch(0) if batches else None
            if batch is not None:
                batch.validate()
        except (OSError, ValueError, pa.ArrowException) as error:
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
        tokens = batch.column("tokens").values.to_numpy().reshape(info.rows, info.length)
        return cls(tokens, batch, mapping)

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


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def spans(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the indices of many ranges, one range after the other: `[sum of sizes]`."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - sizes), sizes)


def _read(file: BinaryIO, dtype: np.dtype, count: int) -> np.ndarray:
    return np.fromfile(file, dtype=dtype, count=count)
