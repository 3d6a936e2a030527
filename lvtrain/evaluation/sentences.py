"""Sentences in memory, and some of the rows of a split, read as a split of a store is, so that
batches can be made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Self, TypeVar

import numpy as np
from torch import Tensor

from lvtrain.data.batches import Batch, Rows, sequential, subset
from lvtrain.data.feistel import feistel, mix
from lvtrain.data.tokenizer import EOS, PAD

Item = TypeVar("Item")

_BATCH = 4096


class FlatSplit:
    """Rows of ids that lie one after the other in an array, in memory or a file's.

    They are numbered from the shortest to the longest, else in the order given. The array has one
    more id, so that there is something to index where all rows are empty.
    """

    labelled = parallel = False

    def __init__(self, flat: np.ndarray, lengths: np.ndarray) -> None:
        order = np.argsort(lengths, kind="stable")
        self._flat, self._lengths = flat, lengths[order]
        self._starts = (np.cumsum(lengths) - lengths)[order]
        self.rows = len(lengths)
        self.tokens = int(lengths.sum()) + self.rows

    @classmethod
    def of(cls, sentences: Sequence[Sequence[int]]) -> Self:
        """Hold sentences of ids in memory."""
        flat, lengths = flattened(sentences)
        return cls(np.append(flat, 0), lengths)

    @property
    def buckets(self) -> list[tuple[int, int, int]]:
        """Length, first row and number of rows of each group of rows of one length."""
        lengths, first, rows = np.unique(self._lengths, return_index=True, return_counts=True)
        return list(zip(lengths.tolist(), first.tolist(), rows.tolist(), strict=True))

    @property
    def max_length(self) -> int:
        """Length of the longest row, without the end."""
        return int(self._lengths.max(initial=0))

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Number of tokens of each row, without the end."""
        return self._lengths[rows]

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids [N, T], ended and padded, and lengths [N] with the end."""
        lengths = self._lengths[rows]
        place = np.arange(int(lengths.max(initial=0)) + 1)
        inside = place < lengths[:, None]
        index = np.where(inside, self._starts[rows][:, None] + place, 0)
        tokens = np.where(inside, self._flat[index], PAD)
        tokens[np.arange(len(rows)), lengths] = EOS
        return tokens, lengths + 1


def flattened(sentences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The ids of sentences one after the other, and how many each has."""
    lengths = np.array([len(row) for row in sentences], dtype=np.int64)
    flat = np.fromiter(chain.from_iterable(sentences), dtype=np.int64, count=int(lengths.sum()))
    return flat, lengths


class Part:
    """Some rows of a split: numbers in ascending order."""

    labelled = parallel = False

    def __init__(self, split: Rows, numbers: np.ndarray) -> None:
        self._split, self._numbers = split, numbers
        self.rows = len(numbers)

    @property
    def buckets(self) -> list[tuple[int, int, int]]:
        """Length, first row and number of rows of each group of rows of one length."""
        starts = [(length, first) for length, first, _ in self._split.buckets]
        firsts = np.searchsorted(self._numbers, [first for _, first in starts])
        counts = np.diff(firsts, append=self.rows)
        return [
            (length, first, count)
            for (length, _), first, count in zip(
                starts, firsts.tolist(), counts.tolist(), strict=True
            )
            if count
        ]

    @property
    def max_length(self) -> int:
        """Length of the longest row, without the end."""
        return max((length for length, _, _ in self.buckets), default=0)

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Number of tokens of each row, without the end."""
        return self._split.lengths(self._numbers[rows])

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids [N, T], ended and padded, and lengths [N] with the end."""
        return self._split.padded(self._numbers[rows])


def part(split: Rows, limit: int, seed: int) -> Rows:
    """So many rows of a split, drawn by the seed: 8 bytes of memory each, or all of them."""
    numbers = subset(split.rows, limit, seed)
    return split if numbers is None else Part(split, numbers)


def ids(batches: Iterable[Batch]) -> list[list[int]]:
    """The sentences of batches as ids, without their ends."""
    return [row for batch in batches for row in _unended(batch.tokens, batch.lengths)]


def target_ids(batches: Iterable[Batch]) -> list[list[int]]:
    """The parallel sides of batches as ids, without their ends."""
    rows = []
    for batch in batches:
        assert batch.targets is not None and batch.target_lengths is not None
        rows += _unended(batch.targets, batch.target_lengths)
    return rows


def _unended(tokens: Tensor, lengths: Tensor) -> list[list[int]]:
    pairs = zip(tokens.tolist(), lengths.tolist(), strict=True)
    return [row[: length - 1] for row, length in pairs]


def read(split: Rows, limit: int | None = None, seed: int = 0) -> list[list[int]]:
    """The sentences of a split, or so many of them, as ids without their ends, in random order: a
    function of the seed."""
    limit = None if limit is None or limit >= split.rows else limit
    return shuffled(ids(sequential(split, _BATCH, limit_rows=limit, seed=seed)), seed)


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """The items in an order that the seed and their number determine."""
    if not items:
        return []
    order = feistel(len(items), mix(seed, len(items)))(np.arange(len(items)))
    return [items[i] for i in order.tolist()]
