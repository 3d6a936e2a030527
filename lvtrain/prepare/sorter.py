"""What becomes of each sentence of `prepare`: the split that it goes to, or why it is dropped.

A function of the sentence alone: every pass agrees, a second run gives the same bytes, and a corpus
that grows keeps its splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Final

import numpy as np

from lvtrain.data.words import Words
from lvtrain.text.sources import Chunk

HASH_RANGE: Final = 1 << 32


@dataclass(frozen=True)
class SplitRows:
    """Sentences of one chunk that go into one split."""

    words: Words
    labels: Sequence[str] | None
    targets: Words | None

    def only(self, keep: np.ndarray) -> SplitRows:
        """Return the rows that `keep` marks."""
        if keep.all():
            return self
        return SplitRows(
            self.words.only(keep),
            None if self.labels is None else list(compress(self.labels, keep.tolist())),
            None if self.targets is None else self.targets.only(keep),
        )


@dataclass(frozen=True, kw_only=True)
class Sorter:
    """Decides what becomes of each sentence, the same way in all passes."""

    lowercase: bool
    max_words: int
    seed: int
    threshold: int
    """Training sentences with a hash below it are for validation."""

    def rows(self, chunk: Chunk) -> tuple[SplitRows, np.ndarray, np.ndarray]:
        """Return a chunk as words, and which of its sentences are empty and which too long."""
        words = Words.split(chunk.texts, self.lowercase)
        targets = None if chunk.targets is None else Words.split(chunk.targets, self.lowercase)
        shortest = longest = words.lengths
        if targets is not None:
            shortest = np.minimum(shortest, targets.lengths)
            longest = np.maximum(longest, targets.lengths)
        empty = shortest == 0
        return SplitRows(words, chunk.labels, targets), empty, ~empty & (longest > self.max_words)

    def sort(
        self, chunk: Chunk, split: str, duplicate: np.ndarray | None = None
    ) -> tuple[dict[str, SplitRows], dict[str, Counter[str]], np.ndarray]:
        """Return the rows of each split, those dropped of each by reason, the hashes of the kept.

        What is dropped is of the split that it would have gone to; an empty line, which is no
        sentence to be held out, of that of its file.
        """
        rows, empty, too_long = self.rows(chunk)
        keep = ~(empty | too_long)
        reasons = {"too_long": too_long}
        if duplicate is not None:
            reasons["duplicate"] = keep & duplicate
            keep &= ~duplicate
        hashes = np.empty(0, dtype=np.int64)
        members = {split: np.ones(len(keep), dtype=bool)}
        if split == "train" and self.threshold:
            hashes = rows.words.hashes(self.seed)
            held_out = hashes < self.threshold
            members = {"train": ~held_out, "valid": held_out}
            hashes = hashes[keep]
        parts, dropped = {}, {}
        for name, own in members.items():
            if name == split or (keep & own).any():
                parts[name] = rows.only(keep & own)
            counts = Counter({why: int((which & own).sum()) for why, which in reasons.items()})
            counts["empty"] = int(empty.sum()) if name == split else 0
            if +counts:
                dropped[name] = +counts
        return parts, dropped, hashes
