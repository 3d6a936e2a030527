from __future__ import annotations

import pytest
import torch

from lvtrain.kernels import noise
from lvtrain.kernels.dispatch import forced

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PATHS = ["torch", "triton"]


def seed(value: int) -> torch.Tensor:
    return torch.tensor(value, device=DEVICE)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("draw", [noise.normal, noise.uniform])
def test_ranks_draw_their_rows_of_one_stream(draw, path):
    with forced(path):
        whole = draw(seed(5), 6, 3)
        for rank in range(3):
            assert torch.equal(draw(seed(5), 2, 3, rank=rank, world=3), whole[rank::3])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("draw", [noise.normal, noise.uniform])
def test_the_seed_alone_decides(draw, path):
    with forced(path):
        first = draw(seed(5), 4, 5)
        assert torch.equal(first, draw(seed(5), 4, 5))
        assert not torch.equal(first, draw(seed(6), 4, 5))


def test_all_64_bits_of_a_seed_count_in_the_kernel():
    # torch's generator of a CPU takes 32 of them.
    with forced("triton"):
        assert not torch.equal(noise.normal(seed(5), 4, 5), noise.normal(seed(5 + (1 << 40)), 4, 5))


@pytest.mark.parametrize("path", PATHS)
def test_draws_have_their_distributions(path):
    with forced(path):
        x, u = noise.normal(seed(1), 200, 300), noise.uniform(seed(1), 60_000)
    assert abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02
    assert abs(x.pow(4).mean() - 3) < 0.15 and x.unique().numel() > 59_000
    assert u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.01 and abs(u.var() - 1 / 12) < 0.002
    # Neighbouring rows and columns know nothing of each other.
    assert abs((x[1:] * x[:-1]).mean()) < 0.02 and abs((x[:, 1:] * x[:, :-1]).mean()) < 0.02


@pytest.mark.parametrize("path", PATHS)
def test_no_rows_draw_nothing(path):
    with forced(path):
        assert noise.normal(seed(1), 0, 3).shape == (0, 3)
