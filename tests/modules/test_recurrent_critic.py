"""The recurrent critic and the penalty on its gradient."""

from __future__ import annotations

import torch

from lvtrain.kernels.gradient_penalty import gradient_penalty
from lvtrain.modules.recurrent_critic import OfSources, RecurrentCritic


def test_the_penalty_pulls_every_slope_to_one() -> None:
    """Through the twice-differentiable LSTM: a slope is a gradient of all embeddings of a row."""
    torch.manual_seed(0)
    critic = RecurrentCritic(10, 6, 5, 8)
    sources, lengths = torch.randint(4, 10, (16, 4)), torch.full((16,), 4)
    targets = torch.randn(16, 7, 5)
    target_lengths = torch.randint(2, 8, (16,))
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)

    def slopes() -> torch.Tensor:
        points = targets.clone().requires_grad_()
        scores = critic(critic.read(sources, lengths), points, target_lengths)
        (gradient,) = torch.autograd.grad(scores.sum(), points)
        beyond = torch.arange(7) >= target_lengths[:, None]
        assert gradient[beyond].abs().max() == 0
        return gradient.flatten(1).norm(dim=1)

    assert (slopes() - 1).abs().max() > 0.3
    for _ in range(200):
        code = critic.read(sources, lengths)
        cost = gradient_penalty(OfSources(critic, code, target_lengths), targets.flatten(1), 10.0)
        optimizer.zero_grad()
        cost.backward()
        assert all(p.grad is not None for p in critic.layer.parameters())
        optimizer.step()
    assert (slopes() - 1).abs().max() < 0.15


def test_a_score_depends_on_the_source() -> None:
    torch.manual_seed(0)
    critic = RecurrentCritic(10, 6, 5, 8)
    lengths = torch.full((2,), 4)
    codes = critic.read(torch.tensor([[4, 5, 6, 2], [7, 8, 9, 2]]), lengths)
    targets = torch.randn(1, 7, 5).expand(2, -1, -1)
    first, second = critic(codes, targets, lengths).flatten().tolist()
    assert first != second
