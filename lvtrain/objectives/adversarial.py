"""The Wasserstein game on codes (Arjovsky et al. 2017; Gulrajani et al. 2017).

The critic D minimises E D(c) − E D(c̃): low on real codes c, high on generated ones c̃. It is kept
1-Lipschitz by clipping its weights or by the penalty λ E(‖∇D(ĉ)‖ − 1)² at points ĉ between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvtrain.config import NotNegative, Positive
from lvtrain.kernels.gradient_penalty import gradient_penalty


@dataclass(frozen=True, kw_only=True)
class LipschitzConfig:
    """What keeps the critic 1-Lipschitz."""

    kind: Literal["penalty", "clip"] = "penalty"
    """Gradient penalty, or weight clipping."""
    weight: NotNegative = 10.0
    """λ of the gradient penalty."""
    clip: Positive = 0.01
    """Bound on each weight under clipping."""
    per_sample: bool = True
    """Penalise each row's slope; False penalises the slope of the batch mean, a defect of the 2018
    reference that lets slopes grow to the batch size."""


def critic_loss(
    critic: nn.Module, real: Float[Tensor, "B C"], fake: Float[Tensor, "B C"]
) -> Float[Tensor, ""]:
    """E D(real) − E D(fake): minus an estimate of the Wasserstein distance.

    One pass over both halves, unless the critic normalises over the batch, where each half must be
    normalised by itself.
    """
    if any(isinstance(layer, nn.BatchNorm1d) for layer in critic.modules()):
        return critic(real).mean() - critic(fake).mean()
    scores = critic(torch.cat([real, fake]))
    return scores[: len(real)].mean() - scores[len(real) :].mean()


def penalty(
    critic: nn.Module,
    real: Float[Tensor, "B C"],
    fake: Float[Tensor, "B C"],
    mix: Float[Tensor, "B 1"],
    config: LipschitzConfig,
) -> Float[Tensor, ""]:
    """λ E(‖∇D(ĉ)‖ − 1)² at ĉ = mix·real + (1 − mix)·fake, with mix from U[0, 1)."""
    # Under autocast either may be of half precision; the points between are not.
    between = torch.lerp(fake.to(mix.dtype), real.to(mix.dtype), mix)
    return gradient_penalty(critic, between, config.weight, per_sample=config.per_sample)


def slope(scores: Float[Tensor, "..."], points: Float[Tensor, "B ..."]) -> Tensor:
    """∂ Σ D(x) / ∂x at the points: what the adversary answers. The graph is gone after it."""
    # Under autocast, what was computed in half goes back in half; nothing else is to be rounded.
    with torch.autocast(points.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(scores.sum(), points)
    return gradient


@torch.no_grad()
def clip_weights(critic: nn.Module, bound: float) -> None:
    """Force every weight into [−bound, bound]."""
    for parameter in critic.parameters():
        parameter.clamp_(-bound, bound)
