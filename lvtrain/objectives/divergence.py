"""The variational side: KL divergences, their schedule, and free bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from lvtrain.config import Natural, NotNegative
from lvtrain.modules.latent import MixturePrior, gaussian_log_density


@dataclass(frozen=True, kw_only=True)
class KLConfig:
    """How much the KL term weighs, and when."""

    beta: NotNegative = 1.0
    """Final weight of the KL term."""
    anneal: Literal["none", "linear", "sigmoid"] = "linear"
    """How the weight rises from 0 (Bowman et al. 2016)."""
    anneal_steps: Natural = 2_000
    """Steps until the weight is reached (linear) or half reached (sigmoid)."""
    free_bits: NotNegative = 0.0
    """Nats of KL that cost nothing (Kingma et al. 2016)."""
    free_bits_per: Literal["dimension", "total"] = "dimension"
    """Whether the free nats are for each latent dimension or for all together."""

    def weight(self, step: int) -> float:
        """β at a training step."""
        if self.anneal == "none" or not self.anneal_steps:
            return self.beta
        if self.anneal == "linear":
            return self.beta * min(1.0, step / self.anneal_steps)
        # A sigmoid that has risen to 0.5 at anneal_steps and starts below 1 %.
        return self.beta / (1.0 + math.exp(-5.0 * (step / self.anneal_steps - 1.0)))


def mixture_kl(
    z: Float[Tensor, "B Z"], mu: Float[Tensor, "B Z"], logvar: Float[Tensor, "B Z"],
    prior: MixturePrior,
) -> Float[Tensor, " B"]:  # fmt: skip
    """One-sample estimate of KL(q(z|x) ‖ p(z)) = E_q[log q(z|x) − log p(z)], unbiased."""
    return gaussian_log_density(z, mu, logvar) - prior.log_density(z)


def kl_term(kl: Float[Tensor, "B Z"] | Float[Tensor, " B"], config: KLConfig) -> Float[Tensor, ""]:
    """The KL that costs: its batch mean, less what is free.

    Per dimension, Σ_z max(λ, E_B KL_z); in total, max(λ, E_B KL). A KL that comes as one number a
    row (a mixture prior's) has no dimensions to count by.
    """
    if kl.dim() == 2 and config.free_bits_per == "dimension":
        return kl.mean(0).clamp_min(config.free_bits).sum()
    total = (kl.sum(-1) if kl.dim() == 2 else kl).mean()
    # A mixture's estimate may be negative: where nothing is free, a floor of 0 would bias it.
    return total.clamp_min(config.free_bits) if config.free_bits else total
