"""Which rows each batch of an epoch has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvtrain.data.order import Order

# First rows of groups, and the number of all rows.
GROUPS, ROWS = [0, 1_000, 5_003, 5_700], 9_001


def epoch(order: Order, number: int = 0) -> np.ndarray:
    return order.batches(number, np.arange(order.per_epoch))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 200), st.integers(0, 10**9), st.integers(0, 9),
    st.lists(st.integers(1, ROWS // 250 - 1), max_size=6, unique=True),
)  # fmt: skip
def test_with_locality_each_row_occurs_once_and_in_its_group(
    size: int, seed: int, number: int, starts: list[int]
) -> None:
    groups = [0, *(250 * start + start % 7 for start in sorted(starts))]
    rows = epoch(Order(ROWS, size, seed, groups, locality=True), number)
    assert len(np.unique(rows)) == rows.size == ROWS // size * size
    assert rows.min() >= 0
    assert rows.max() < ROWS
    of_group = np.searchsorted(groups, rows, side="right")
    # Where a group ends within a batch, the batch has rows of the next one.
    mixed = (of_group != of_group[:, :1]).any(axis=1)
    assert mixed.sum() <= len(groups)


@pytest.mark.parametrize("world", [2, 4, 8, 16])
@pytest.mark.parametrize("size", [16, 48])
def test_with_locality_each_rank_has_a_range_of_each_group(world: int, size: int) -> None:
    order = Order(ROWS, size, 3, GROUPS, locality=True)
    for number in range(2):
        rows = epoch(order, number)
        for rank in range(world):
            own = rows[:, rank::world].reshape(-1)
            for start, stop in zip(GROUPS, [*GROUPS[1:], ROWS], strict=True):
                inside = np.sort(own[(own >= start) & (own < stop)])
                # As many rows as the group has for each rank, side by side but for those left out.
                assert np.ptp(inside) + 1 <= (stop - start) / world + size


def test_ranks_take_turns_where_their_number_is_not_a_power_of_two() -> None:
    rows = epoch(Order(ROWS, 12, 3, GROUPS, locality=True))
    ranks = [set(rows[:, rank::3].reshape(-1).tolist()) for rank in range(3)]
    assert not ranks[0] & ranks[1] | ranks[1] & ranks[2] | ranks[0] & ranks[2]


def test_with_locality_the_same_rows_fall_to_a_rank_in_each_epoch() -> None:
    order = Order(ROWS, 16, 3, GROUPS, locality=True)
    first, second = (set(epoch(order, number)[:, ::2].reshape(-1).tolist()) for number in (0, 1))
    assert len(first & second) > 0.99 * len(first)
    assert (epoch(order, 0) != epoch(order, 1)).mean() > 0.99


def test_with_locality_each_row_is_about_as_likely_to_be_left_out() -> None:
    rows, size = 1_007, 10
    order = Order(rows, size, 0, [0, 400], locality=True)
    out = np.zeros(rows)
    for number in range(4_000):
        out[np.setdiff1d(np.arange(rows), epoch(order, number))] += 1
    expected = 4_000 * 7 / rows
    assert out.sum() == 4_000 * 7
    assert np.abs(out - expected).max() < 6 * expected**0.5
    for part in (out[:400], out[400:], out[:40], out[360:400], out[-60:]):
        assert abs(part.mean() - expected) < 6 * (expected / len(part)) ** 0.5
