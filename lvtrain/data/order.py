"""Which rows of a split each batch of an epoch has: a function of (seed, epoch, batch) alone.

Rows are numbered from the shortest to the longest. An epoch is a Feistel permutation of them, or,
`by_length`, one of each group of adjacent lengths and one of the batches, so that a batch holds
sentences of about one length. With `locality`, row j of a batch comes from the j-th of as many
ranges of its group, in an order in which the rows that a rank takes, r, r + world, …, come from
ranges side by side: each rank reads a part of the store that hardly any other reads, and yet the
batches are those of any number of ranks.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lvtrain.data.feistel import Permutation, feistel, mix


class Order:
    """The batches of an epoch of `rows` rows; each row occurs once, but for the `rows % batch_size`
    of a last, smaller batch, which are other ones each epoch. Fewer rows than a batch are repeated.

    `groups` are the numbers of the first rows of the groups that are permuted each in itself, of at
    least a batch where there are several; None where all rows are one. `locality` needs groups.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        seed: int,
        groups: list[int] | None = None,
        locality: bool = False,
    ) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.per_epoch = max(1, rows // batch_size)
        self._by_length = groups is not None
        self._starts = np.array([*(groups or [0]), rows])
        self._ranges = _ranges(batch_size) if locality else None
        self._permuted: tuple[int, list[Permutation]] = (-1, [])

    def batches(self, epoch: int, numbers: np.ndarray) -> np.ndarray:
        """Return the rows of some batches of an epoch: `[batches, B]`."""
        size, key = self.batch_size, mix(self.seed, epoch)
        if self._by_length:
            numbers = feistel(self.per_epoch, mix(key, 1))(numbers)
        places = numbers[:, None] * size + np.arange(size)
        left = self.rows - self.per_epoch * size
        if left < 0:
            places %= self.rows
        elif self._ranges is not None:
            flat = self._permute_ranges(self._ranges, places.reshape(-1), key)
            return flat.reshape(places.shape)
        elif self._by_length:
            # Places are ordered by length: leave out those before a batch chosen at random, lest
            # it should always be the longest sentences.
            places += left * (numbers >= mix(key, 2) % (self.per_epoch + 1))[:, None]
        flat = self._permute(self._permutations(epoch, key), places.reshape(-1))
        return flat.reshape(places.shape)

    def _permutations(self, epoch: int, key: int) -> list[Permutation]:
        """Return the permutation of each group in an epoch."""
        of_epoch, permutations = self._permuted
        if epoch != of_epoch:
            sizes = np.diff(self._starts).tolist()
            permutations = [feistel(n, mix(key, 3, i)) for i, n in enumerate(sizes)]
            self._permuted = epoch, permutations  # at once: a thread may read it
        return permutations

    def _permute(self, permutations: list[Permutation], places: np.ndarray) -> np.ndarray:
        """Permute each group of rows in itself."""
        if len(permutations) == 1:
            return permutations[0](places)
        rows = np.empty_like(places)
        for group, own in _by_group(self._starts, places):
            start = self._starts[group]
            rows[own] = permutations[group](places[own] - start) + start
        return rows

    def _permute_ranges(self, ranges: np.ndarray, places: np.ndarray, key: int) -> np.ndarray:
        """Permute each range of each group in itself; `ranges` has that of each row of a batch.

        What is left over is left out of one group, drawn by its size, and of ranges drawn with it,
        so that each row is about as likely to be left out as any other.
        """
        size, left = self.batch_size, self.rows % self.batch_size
        drawn = np.searchsorted(self._starts, mix(key, 2) % self.rows, side="right") - 1
        spare = (mix(key, 4) % size + np.arange(size)) % size < left
        starts = self._starts - left * (np.arange(len(self._starts)) > drawn)
        rows = np.empty_like(places)
        for group, own in _by_group(starts, places):
            start, stop = starts[group : group + 2].tolist()
            # Row of a batch that the group's first place is, and then how many places are row j.
            first = start % size
            sizes = _before(first + stop - start, size) - _before(first, size)
            if group == drawn:
                sizes += spare
            in_order = np.argsort(ranges)
            begins = np.empty_like(sizes)
            begins[in_order] = np.cumsum(sizes[in_order])
            begins -= sizes
            place, j = np.divmod(places[own] - start + first, size)
            place -= j < first
            permuted = np.empty_like(place)
            for count in np.unique(sizes[j]).tolist():  # three at most
                these = sizes[j] == count
                permuted[these] = feistel(count, mix(key, 3, group))(place[these], j[these])
            rows[own] = self._starts[group] + begins[j] + permuted
        return rows


def _by_group(starts: np.ndarray, places: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return the groups that occur, and where."""
    group = np.searchsorted(starts, places, side="right") - 1
    order = np.argsort(group, kind="stable")
    bounds = np.searchsorted(group[order], np.arange(len(starts))).tolist()
    return [(i, order[a:b]) for i, (a, b) in enumerate(pairwise(bounds)) if b > a]


def _before(place: int, size: int) -> np.ndarray:
    """Return how many of the places before one are row 0, 1, … of a batch."""
    return (place - np.arange(size) + size - 1) // size


def _ranges(count: int) -> np.ndarray:
    """Return the range of each row of a batch: the rows r, r + 2ᵏ, r + 2·2ᵏ, … have ranges side by
    side, for every 2ᵏ that divides their number."""
    if count % 2:
        return np.arange(count)
    half = _ranges(count // 2)
    return np.stack([half, half + count // 2], axis=1).reshape(-1)
