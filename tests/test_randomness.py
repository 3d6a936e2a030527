from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.randomness import Key

keys = st.builds(
    lambda seed, step: Key(seed=seed, step=step), st.integers(0, 2**63), st.integers(0, 2**40)
)


@given(keys, st.text(max_size=8))
def test_a_draw_is_a_pure_function_of_seed_step_and_tag(key: Key, tag: str) -> None:
    assert torch.equal(key.fold(tag).normal(3, 2), key.fold(tag).normal(3, 2))


@given(keys)
def test_seed_step_and_tag_each_change_the_draw(key: Key) -> None:
    others = [
        Key(seed=key.seed + 1, step=key.step),
        Key(seed=key.seed, step=key.step + 1),
        key.fold("a"),
        key.fold("b"),
        key.fold("a", "b"),
        key.fold("a", 1),
    ]
    values = {key.value(), *(other.value() for other in others)}
    assert len(values) == len(others) + 1


@given(keys, st.integers(1, 4), st.integers(1, 5))
def test_ranks_together_draw_what_one_process_draws(key: Key, world: int, rows: int) -> None:
    whole = key.uniform(rows * world, 3)
    for rank in range(world):
        own = Key(seed=key.seed, step=key.step, rank=rank, world=world)
        assert torch.equal(own.uniform(rows, 3), whole[rank::world])
        assert torch.equal(own.seed_tensor(), key.seed_tensor())


def test_draws_have_the_moments_they_should() -> None:
    key = Key(seed=1, step=2)
    x, u = key.normal(100_000), key.fold("u").uniform(100_000)
    assert abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.01
