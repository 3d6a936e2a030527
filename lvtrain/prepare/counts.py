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

import pyarrow as pa
import pyarrow.compute as pc

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
        words = pa.array(list(self._counts), pa.large_string())
        return pa.table([words, pa.array(list(self._counts.values()), pa.int64())], schema=SCHEMA)


def summed(paths: Iterable[Path]) -> pa.Table:
    """Add the counts of files up: a table of words and counts."""
    whole = SCHEMA.empty_table()
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
    kept = counts.filter(pc.greater_equal(counts["count"], min_count))
    order = [("count", "descending"), ("word", "ascending")]
    if number is not None and number < kept.num_rows:
        kept = kept.take(pc.select_k_unstable(kept, number, order))
    else:
        kept = kept.sort_by(order)
    return dict(zip(kept["word"].to_pylist(), kept["count"].to_pylist(), strict=True))


def total(counts: pa.Table) -> int:
    """Return the number of words counted."""
    return int(pc.sum(counts["count"]).as_py() or 0)


def scaled(counts: pa.Table, words: int) -> pa.Table:
    """Return counts in proportion that sum to about `words`; words that round to none go."""
    found = total(counts)
    if found <= words:
        return counts
    share = pc.multiply(counts["count"].cast(pa.float64()), words / found)
    rounded = pc.floor(pc.add(share, 0.5)).cast(pa.int64())
    return counts.set_column(1, "count", rounded).filter(pc.greater(rounded, 0))


def added(*tables: pa.Table) -> pa.Table:
    """Add the counts of tables up."""
    grouped = pa.concat_tables(tables).group_by("word", use_threads=False)
    found = grouped.aggregate([("count", "sum")])
    return pa.table([found["word"], found["count_sum"]], schema=SCHEMA)
