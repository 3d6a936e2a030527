"""Rows on their way into shards: gathered by length in memory, written in runs, read in order.

A run is one file that holds, for each length, the columns of its rows one after the other. Where
they lie is said in `Slice`s, which the reader of a length follows from run to run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from lvtrain.data.folder import write_whole
from lvtrain.data.layout import Layout
from lvtrain.data.words import spans

RUN_BYTES: Final = 32 << 20
"""Bytes of rows held before they are written."""

LABEL_DTYPE: Final = np.dtype(np.int32)
SIZE_DTYPE: Final = np.dtype(np.int32)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """The rows of one length of one split in one run."""

    file: str
    split: str
    length: int
    rows: int
    longest_target: int
    columns: dict[str, tuple[int, int]]
    """Where each column begins in the file, and its bytes."""


@dataclass
class _Bucket:
    rows: int = 0
    longest_target: int = 0
    columns: dict[str, list[np.ndarray]] = field(default_factory=dict)


class Spill:
    """Takes rows of any length, and writes a run whenever it holds `RUN_BYTES` of them."""

    def __init__(self, folder: Path, name: str, layout: Layout) -> None:
        self._folder = folder
        self._name = name
        self._layout = layout
        self._held = 0
        self._buckets: dict[tuple[str, int], _Bucket] = {}
        self._runs = 0
        self.slices: list[Slice] = []

    def add(
        self,
        split: str,
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
            bucket = self._buckets.setdefault((split, length), _Bucket())
            bucket.rows += len(rows)
            columns = {"tokens": ids[starts[rows, None] + np.arange(length)].astype(layout.tokens)}
            if layout.labels:
                assert labels is not None
                columns["label"] = labels[rows].astype(LABEL_DTYPE)
            if layout.targets is not None:
                assert targets is not None
                sizes = targets[1][rows]
                columns["target"] = targets[0][spans(target_starts[rows], sizes)].astype(
                    layout.targets
                )
                columns["sizes"] = sizes.astype(SIZE_DTYPE)
                bucket.longest_target = max(bucket.longest_target, int(sizes.max()))
            for name, values in columns.items():
                bucket.columns.setdefault(name, []).append(values)
                self._held += values.nbytes
        if self._held >= RUN_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is held as one run."""
        if not self._buckets:
            return
        file = f"{self._name}-{self._runs:04d}.rows"
        content = bytearray()
        for (split, length), bucket in sorted(self._buckets.items()):
            columns = {}
            for name, parts in bucket.columns.items():
                begin = len(content)
                for part in parts:
                    content += part.data if part.ndim == 1 else part.reshape(-1).data
                columns[name] = (begin, len(content) - begin)
            self.slices.append(
                Slice(
                    file=file,
                    split=split,
                    length=length,
                    rows=bucket.rows,
                    longest_target=bucket.longest_target,
                    columns=columns,
                )
            )
        write_whole(self._folder / file, content)
        self._buckets.clear()
        self._held = 0
        self._runs += 1


def read_bucket(
    folder: Path, slices: Sequence[Slice], layout: Layout, most_bytes: int
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Read the rows of one length back in the order of the slices, as many at a time as fill a
    shard: their number, and their columns."""
    length = slices[0].length
    row_bytes = length * layout.tokens.itemsize + 4 * layout.labels
    if layout.targets is not None:
        longest = max(one.longest_target for one in slices)
        row_bytes += 4 + longest * layout.targets.itemsize
    most = max(1, most_bytes // row_bytes)
    names = ["tokens"] + ["label"] * layout.labels
    names += ["sizes", "target"] if layout.targets is not None else []
    readers = {name: _Column(folder, slices, name) for name in names}
    total = sum(one.rows for one in slices)
    for first in range(0, total, most):
        rows = min(most, total - first)
        columns = {"tokens": readers["tokens"].read(layout.tokens, rows * length)}
        if layout.labels:
            columns["label"] = readers["label"].read(LABEL_DTYPE, rows)
        if layout.targets is not None:
            columns["sizes"] = readers["sizes"].read(SIZE_DTYPE, rows)
            count = int(columns["sizes"].sum(dtype=np.int64))
            columns["target"] = readers["target"].read(layout.targets, count)
        yield rows, columns


class _Column:
    """One column of the rows of one length, read on from run to run."""

    def __init__(self, folder: Path, slices: Sequence[Slice], name: str) -> None:
        self._left = [(folder / one.file, *one.columns[name]) for one in slices][::-1]

    def read(self, dtype: np.dtype, count: int) -> np.ndarray:
        values = np.empty(count, dtype=dtype)
        into = values.view(np.uint8).data
        done = 0
        while done < len(into):
            path, begin, size = self._left.pop()
            take = min(size, len(into) - done)
            with path.open("rb") as file:
                file.seek(begin)
                if file.readinto(into[done : done + take]) != take:
                    raise EOFError(f"{path}: ended early")
            done += take
            if take < size:
                self._left.append((path, begin + take, size - take))
        return values
