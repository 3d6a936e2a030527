"""Sentences in memory, read as a split of a store is, so that batches can be made of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
from torch import Tensor

from lvtrain.data.batches import Batch, Rows, sequential
from lvtrain.data.feistel import feistel, mix
from lvtrain.data.tokenizer import EOS, PAD

Item = TypeVar("Item")

_BATCH = 4096


class MemorySplit:
    """Rows of ids, numbered from the shortest to the longest, else in the order given."""

    labelled = parallel = False

    def __init__(self, sentences: Iterable[Sequence[int]]) -> None:
        ordered = sorted(sentences, key=len)
        self._lengths = np.array([len(row) for row in ordered], dtype=np.int64)
        self._starts = np.cumsum(self._lengths) - self._lengths
        self.rows = len(ordered)
        self.tokens = int(self._lengths.sum()) + self.rows
        flat = chain.from_iterable(ordered)
        # One more, so that there is something to index where all sentences are empty.
        self._flat = np.append(np.fromiter(flat, dtype=np.int64, count=self.tokens - self.rows), 0)

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
