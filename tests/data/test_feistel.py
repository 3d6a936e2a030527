"""Permutations without memory."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.data.feistel import BLOCK, feistel, mix

KEYS = st.integers(-(1 << 63), (1 << 64) - 1)


@given(st.integers(1, 5000), KEYS)
def test_each_index_is_met_once(n: int, key: int) -> None:
    assert np.array_equal(np.sort(feistel(n, key)(np.arange(n))), np.arange(n))


@given(st.integers(1, (1 << 62) - 1), KEYS, st.lists(st.integers(0, 1 << 62), min_size=1))
def test_large_ranges_stay_in_range_without_collisions(n: int, key: int, raw: list[int]) -> None:
    indices = np.unique(np.array([value % n for value in raw], dtype=np.int64))
    images = feistel(n, key)(indices)
    assert images.min() >= 0
    assert images.max() < n
    assert len(np.unique(images)) == len(indices)


def test_an_index_goes_to_the_same_place_alone_or_among_many() -> None:
    permutation = feistel(3 * BLOCK, 7)
    images = permutation(np.arange(3 * BLOCK).reshape(3, BLOCK))
    for i in (0, BLOCK - 1, BLOCK, 3 * BLOCK - 1):
        assert permutation(np.array([i]))[0] == images.reshape(-1)[i]


def test_each_tweak_names_a_permutation_of_its_own() -> None:
    n, tweaks = 40, 600
    everywhere = np.broadcast_to(np.arange(n), (tweaks, n))
    images = feistel(n, 5)(everywhere, np.repeat(np.arange(tweaks), n).reshape(tweaks, n))
    assert all(np.array_equal(np.sort(image), np.arange(n)) for image in images)
    assert len({tuple(image) for image in images.tolist()}) == tweaks
    # Neighbours agree no oftener than by chance: one element of each pair on average.
    assert abs((images[1:] == images[:-1]).sum(axis=1).mean() - 1) < 0.25
    some = np.array([3, 39, 0])
    assert np.array_equal(feistel(n, 5)(some, np.array([7, 7, 599])), images[[7, 7, 599], some])


def test_values_are_those_of_every_machine_and_version() -> None:
    # Runs are resumed on other machines; a change of these numbers changes what they read.
    assert feistel(10, 0)(np.arange(10)).tolist() == [1, 6, 2, 5, 3, 9, 0, 7, 8, 4]
    assert feistel(10**9, 1)(np.arange(3)).tolist() == [465540841, 279881903, 189321060]
    assert mix(1, 2, 3) == 7702586659592502839


@pytest.mark.parametrize("n", [10, 50, 150])
def test_an_index_goes_to_every_place_equally_often(n: int) -> None:
    keys = 40 * n
    places = np.array([feistel(n, key)(np.array([0, n // 2, n - 1])) for key in range(keys)])
    for column in places.T:
        expected = keys / n
        chi_square = float(((np.bincount(column, minlength=n) - expected) ** 2 / expected).sum())
        assert abs(chi_square - (n - 1)) < 5 * (2 * (n - 1)) ** 0.5


def test_every_order_of_a_few_elements_occurs() -> None:
    orders = Counter(tuple(feistel(4, key)(np.arange(4)).tolist()) for key in range(2400))
    assert len(orders) == 24
    assert max(orders.values()) < 200


def test_neighbours_do_not_stay_neighbours() -> None:
    n = 10_000
    images = feistel(n, 3)(np.arange(n))
    assert abs(np.corrcoef(np.arange(n), images)[0, 1]) < 0.05
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.05
    assert np.mean(feistel(n, 4)(np.arange(n)) == images) < 0.01


@pytest.mark.parametrize("index", [-1, 5])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(IndexError):
        feistel(5, 0)(np.array([index]))
    with pytest.raises(ValueError, match="permutation of 0"):
        feistel(0, 0)
