from __future__ import annotations

import torch

from lvtrain.modules.mlp import mlp
from lvtrain.objectives.adversarial import LipschitzConfig, clip_weights, critic_loss, penalty


def test_one_pass_over_both_halves_equals_two() -> None:
    critic = mlp([4, 8, 1], "leaky_relu", "layer").double()
    real, fake = torch.randn(2, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(
        critic_loss(critic, real, fake), critic(real).mean() - critic(fake).mean()
    )


def test_a_critic_with_batch_normalisation_sees_each_half_by_itself() -> None:
    critic = mlp([4, 8, 8, 1], "leaky_relu", "batch", first_norm=False).double()
    real, fake = torch.randn(2, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(
        critic_loss(critic, real, fake), critic(real).mean() - critic(fake).mean()
    )


def test_the_penalty_vanishes_for_a_critic_of_slope_one() -> None:
    critic = torch.nn.Sequential(torch.nn.Linear(3, 1)).double()
    with torch.no_grad():
        critic[0].weight.copy_(torch.tensor([[0.6, 0.0, 0.8]]))
    real, fake = torch.randn(2, 5, 3, dtype=torch.float64)
    mix = torch.rand(5, 1, dtype=torch.float64)
    assert penalty(critic, real, fake, mix, LipschitzConfig()).item() < 1e-12


def test_the_reference_penalty_lets_slopes_grow_to_the_batch_size() -> None:
    critic = torch.nn.Sequential(torch.nn.Linear(3, 1)).double()
    with torch.no_grad():
        critic[0].weight.copy_(torch.tensor([[5.0, 0.0, 0.0]]))
    real, fake = torch.randn(2, 5, 3, dtype=torch.float64)
    mix = torch.rand(5, 1, dtype=torch.float64)
    reference = LipschitzConfig(per_sample=False)
    assert penalty(critic, real, fake, mix, reference).item() < 1e-12


def test_clipping_bounds_every_weight() -> None:
    critic = mlp([4, 8, 1], "relu")
    clip_weights(critic, 0.01)
    assert all(p.abs().max() <= 0.01 for p in critic.parameters())
