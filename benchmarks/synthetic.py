"""Sentences made up in memory: the lengths of short captions, words by Zipf's law."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np

from lvtrain.data.tokenizer import EOS, PAD, SPECIALS

MEAN_WORDS: Final = 10.92
SPREAD: Final = 2.5
SHORTEST: Final = 3
LONGEST: Final = 15
"""Lengths are normal, rounded and cut off; with the end a sentence has 11.8 words."""


class SyntheticSplit:
    """Random sentences behind the interface of a store's split."""

    labelled = False
    parallel = False

    def __init__(self, *, sentences: int, vocab_size: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        drawn = np.rint(generator.normal(MEAN_WORDS, SPREAD, sentences)).astype(np.int64)
        self.rows = sentences
        self._lengths = np.sort(drawn.clip(SHORTEST, LONGEST))
        words = vocab_size - len(SPECIALS)
        cumulative = np.cumsum(1 / np.arange(1, words + 1))
        uniform = generator.random((sentences, self.max_length + 1)) * cumulative[-1]
        tokens = len(SPECIALS) + np.searchsorted(cumulative, uniform).clip(max=words - 1)
        place, end = np.arange(self.max_length + 1), self._lengths[:, None]
        self._tokens = np.where(place < end, tokens, np.where(place == end, EOS, PAD))

    @property
    def max_length(self) -> int:
        return int(self._lengths[-1])

    @cached_property
    def buckets(self) -> list[tuple[int, int, int]]:
        lengths, firsts, counts = np.unique(self._lengths, return_index=True, return_counts=True)
        return list(zip(lengths.tolist(), firsts.tolist(), counts.tolist(), strict=True))

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        return self._lengths[rows]

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        lengths = self._lengths[rows] + 1
        return self._tokens[rows, : int(lengths.max())], lengths
