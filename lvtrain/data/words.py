"""Many texts cut into words at once: arrays, not lists of strings.

A text repeats its words. All texts of a chunk are one string of bytes, its words one Arrow array
that points into it, and a hash table of Arrow's numbers them: what is then done in Python is done
once for each different word of the chunk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self
from zlib import crc32

import numpy as np
import pyarrow as pa

from lvtrain.data.arrow import to_numpy

SPACE: Final = 32
NEWLINE: Final = 10
# White space to str.split: the bytes 9 to 13 and 28 to 32, and what this finds.
WIDE_SPACE: Final = re.compile(r"[^\S\x00-\x7f]")


@dataclass(frozen=True)
class Words:
    """Texts as words."""

    unique: list[str]
    """The words that occur, some of them more than once in this list."""
    codes: np.ndarray
    """Place in `unique` of each word, text after text: `[words]` int32."""
    lengths: np.ndarray
    """Words of each text: `[texts]` int64."""
    text: bytes | None = None
    """The texts, a line each, words parted by single spaces; only before any were left out."""

    @classmethod
    def split(cls, texts: Sequence[str], lowercase: bool = False) -> Self:
        """Cut each text as `str.split` does, lower-cased before if asked for."""
        joined = "\n".join(texts)
        if lowercase:
            joined = joined.lower()
        if joined.count("\n") == max(0, len(texts) - 1) and (
            joined.isascii() or not WIDE_SPACE.search(joined)
        ):
            found = cls._of_lines(joined, len(texts))
            if found is not None:
                return found
        lines = [" ".join((text.lower() if lowercase else text).split()) for text in texts]
        found = cls._of_lines("\n".join(lines), len(texts))
        assert found is not None
        return found

    @classmethod
    def _of_lines(cls, joined: str, count: int) -> Self | None:
        """Cut lines whose words are parted by single spaces; None if there are others."""
        # Half a surrogate pair is no UTF-8, but a text in memory may hold one.
        text = joined.encode("utf-8", "surrogatepass")
        data = np.frombuffer(text, dtype=np.uint8)
        white = (data - np.uint8(9) <= 4) | (data - np.uint8(28) <= 4)
        before = np.concatenate([[True], white[:-1]]) if len(data) else white
        starts = np.flatnonzero(before & ~white)
        ends = np.append(np.flatnonzero(data == NEWLINE), len(data))
        lengths = np.diff(np.searchsorted(starts, ends), prepend=0)[:count]
        gaps = len(starts) - np.count_nonzero(lengths)
        spaces = np.count_nonzero(data == SPACE)
        if spaces != gaps or np.count_nonzero(white) != gaps + len(ends) - 1:
            return None
        offsets = np.append(starts, len(data) + 1)
        # Each element is a word and the white space after it; the last one needs such a byte.
        small = offsets[-1] < 1 << 31
        kind = pa.binary() if small else pa.large_binary()
        bounds = offsets.astype(np.int32 if small else np.int64)
        array = pa.Array.from_buffers(
            kind, len(starts), [None, pa.py_buffer(bounds), pa.py_buffer(text + b"\n")]
        ).dictionary_encode()
        unique = [
            word.rstrip(b" \n").decode("utf-8", "surrogatepass")
            for word in array.dictionary.to_pylist()
        ]
        return cls(unique, to_numpy(array.indices), lengths, text)

    def __len__(self) -> int:
        return len(self.lengths)

    def only(self, keep: np.ndarray) -> Words:
        """Return the texts that `keep` marks."""
        if keep.all():
            return self
        return Words(self.unique, self.codes[np.repeat(keep, self.lengths)], self.lengths[keep])

    @cached_property
    def lines(self) -> list[bytes]:
        """The texts, words parted by single spaces."""
        assert self.text is not None
        return self.text.split(b"\n") if len(self) else []

    def hashes(self, seed: int) -> np.ndarray:
        """Return the CRC-32 of each text: `[texts]` int64."""
        return np.array([crc32(line, seed) for line in self.lines], dtype=np.int64)

    def counts(self) -> list[tuple[str, int]]:
        """Return how often words occur, some of them in more than one entry."""
        found = np.bincount(self.codes, minlength=len(self.unique))
        return [(self.unique[i], n) for i, n in enumerate(found.tolist()) if n]


def spans(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the indices of many ranges, one range after the other: `[sum of sizes]`."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - sizes), sizes)
