"""Counts of words, larger than memory should hold as Python objects: tables of Arrow's.

Each part of a corpus has a file of its own; they are added up as many at a time as there are
different words already, so that memory is that of a few tables of different words, however long
the text.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lvtrain.data.arrow import from_numpy, from_texts, to_numpy
from lvtrain.data.words import Words

HELD_WORDS: Final = 1 << 20
"""Different words counted in a dictionary before they become a table."""
SCHEMA: Final = pa.schema([("word", pa.large_string()), ("count", pa.int64())])


class WordCounts:
    """How often each word occurs."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._tables: list[pa.Table] = []

    def add(self, words: Words) -> None:
        """Count the words of texts."""
        counts = self._counts
        before = counts.get
        for word, n in words.counts():
            counts[word] = before(word, 0) + n
        if len(counts) > HELD_WORDS:
            self._tables.append(self._table())
            counts.clear()

    def save(self, path: Path) -> None:
        """Write the counts as an Arrow file that is complete or absent."""
        table = added(*self._tables, self._table())
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        with pa.OSFile(os.fsencode(partial), "wb") as file, pa.ipc.new_file(file, SCHEMA) as out:
            out.write_table(table)
        partial.replace(path)

    def _table(self) -> pa.Table:
        words = from_texts(list(self._counts))
        counts = np.fromiter(self._counts.values(), dtype=np.int64, count=len(words))
        return pa.table([words, from_numpy(counts)], schema=SCHEMA)


def summed(paths: Iterable[Path]) -> pa.Table:
    """Add the counts of files up: a table of words and counts."""
    whole = pa.table([from_texts([]), from_numpy(np.empty(0, dtype=np.int64))], schema=SCHEMA)
    pending: list[pa.Table] = []
    for path in paths:
        with pa.memory_map(os.fsencode(path)) as file:
            pending.append(pa.ipc.open_file(file).read_all())
        if sum(table.num_rows for table in pending) > max(HELD_WORDS, whole.num_rows):
            whole, pending = added(whole, *pending), []
    return added(whole, *pending)


def most_frequent(counts: pa.Table, number: int | None, min_count: int = 1) -> dict[str, int]:
    """Return so many of the most frequent words with their counts: by descending count, then by
    spelling."""
    kept = _chosen(counts, _numbers(counts) >= min_count)
    order = [("count", "descending"), ("word", "ascending")]
    if number is not None and number < kept.num_rows:
        kept = kept.take(pc.select_k_unstable(kept, number, order))
    else:
        kept = kept.take(pc.sort_indices(kept, order))
    return dict(zip(kept["word"].to_pylist(), kept["count"].to_pylist(), strict=True))


def total(counts: pa.Table) -> int:
    """Return the number of words counted."""
    return int(_numbers(counts).sum())


def scaled(counts: pa.Table, words: int) -> pa.Table:
    """Return counts in proportion that sum to about `words`; words that round to none go."""
    found = total(counts)
    if found <= words:
        return counts
    rounded = np.floor(_numbers(counts) * (words / found) + 0.5).astype(np.int64)
    return _chosen(counts.set_column(1, "count", from_numpy(rounded)), rounded > 0)


def added(*tables: pa.Table) -> pa.Table:
    """Add the counts of tables up."""
    # Not by `group_by`, whose module imports pandas wherever it is installed.
    together = pa.concat_tables(tables)
    words = together["word"].combine_chunks().dictionary_encode()
    sums = np.zeros(len(words.dictionary), dtype=np.int64)
    np.add.at(sums, to_numpy(words.indices), _numbers(together))
    return pa.table([words.dictionary, from_numpy(sums)], schema=SCHEMA)


def _numbers(counts: pa.Table) -> np.ndarray:
    return to_numpy(counts["count"].combine_chunks())


def _chosen(counts: pa.Table, which: np.ndarray) -> pa.Table:
    return counts.take(from_numpy(np.flatnonzero(which)))
