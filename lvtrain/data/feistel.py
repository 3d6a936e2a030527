"""Random permutations that need no memory: the order of an epoch as a function.

A balanced Feistel network on pairs of digits, `x = left * a + right` with `a = ceil(sqrt(n))`,
rounds `left, right <- right, (left + F(key, round, right)) mod a`, and cycle-walking back into
`[0, n)` (Black & Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, §5). Digits to
base `a` leave at most `2 sqrt(n) + 1` numbers outside, where halves of whole bits would leave up
to `3 n`: next to no element walks more than one cycle.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

ROUNDS: Final = 8
"""Four make a good permutation of many elements; small domains need more to reach all orders."""

MASK: Final = (1 << 64) - 1
GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
BLOCK: Final = 1 << 14
"""Elements permuted together, so that the arrays of a round stay within the nearest cache."""


def mix(*parts: int) -> int:
    """Hash integers to one of 64 bits, as SplitMix64 chained over them (Steele et al. 2014)."""
    state = 0
    for part in parts:
        state = (state + (part & MASK) + int(GOLDEN)) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state


class Permutation:
    """A pseudo-random bijection of `[0, n)` chosen by `key`; call it with indices."""

    def __init__(self, n: int, key: int) -> None:
        if not 0 < n < 1 << 62:
            raise ValueError(f"a permutation of {n} elements: expected 1 to 2**62 - 1")
        self.n = n
        self._base = np.uint64(math.isqrt(n - 1) + 1)
        self._keys = [np.uint64(mix(key, n, r)) for r in range(ROUNDS)]

    def __call__(self, indices: np.ndarray, tweaks: np.ndarray | None = None) -> np.ndarray:
        """Return where each index goes; the shape stays, the type becomes int64.

        With `tweaks`, a number for each index, every number names a permutation of its own
        (Liskov, Rivest & Wagner, "Tweakable block ciphers", CRYPTO 2002).
        """
        flat = np.ascontiguousarray(indices).reshape(-1)
        if flat.size and (int(flat.min()) < 0 or int(flat.max()) >= self.n):
            raise IndexError(f"index outside [0, {self.n})")
        if tweaks is not None:
            # Multiples of an odd number: no two are alike.
            tweaks = (tweaks.reshape(-1).astype(np.uint64) + np.uint64(1)) * GOLDEN
        out = np.empty(flat.shape, dtype=np.int64)
        for start in range(0, len(flat), BLOCK):
            tweak = None if tweaks is None else tweaks[start : start + BLOCK]
            part = self._cycle(flat[start : start + BLOCK].astype(np.uint64), tweak)
            outside = np.flatnonzero(part >= self.n)
            while outside.size:
                own = None if tweak is None else tweak[outside]
                part[outside] = self._cycle(part[outside], own)
                outside = outside[part[outside] >= self.n]
            out[start : start + BLOCK] = part
        return out.reshape(indices.shape)

    def _cycle(self, x: np.ndarray, tweak: np.ndarray | None) -> np.ndarray:
        base = self._base
        left = x // base
        right = x - left * base
        for key in self._keys:
            left += _below(right ^ (key if tweak is None else key ^ tweak), base)
            # Both addends are below `base`; a difference that wraps around is the larger one.
            left, right = right, np.minimum(left, left - base)
        return left * base + right


def _below(h: np.ndarray, bound: np.uint64) -> np.ndarray:
    """Hash to `[0, bound)`: MurmurHash3's 64-bit finaliser, then the upper half times `bound`."""
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    h ^= h >> np.uint64(33)
    h >>= np.uint64(32)
    h *= bound
    h >>= np.uint64(32)
    return h


def feistel(n: int, key: int) -> Permutation:
    """Return the permutation of `[0, n)` that `key` names."""
    return Permutation(n, key)
