"""Latents and priors: the unit sphere, the diagonal Gaussian, mixtures of Gaussians."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Below this norm a code's direction is noise; dividing by less would blow up its gradient.
SMALLEST_NORM = 1e-6


def on_sphere(h: Float[Tensor, "B C"], radius: float = 1.0) -> Float[Tensor, "B C"]:
    """c = radius · h / ‖h‖₂, guarded at the origin."""
    return h * (radius / h.norm(dim=1, keepdim=True).clamp_min(SMALLEST_NORM))


class Gaussian(nn.Module):
    """q(z | x) = N(μ(h), diag σ²(h)): one affine map to μ and log σ²."""

    def __init__(self, hidden: int, latent: int) -> None:
        super().__init__()
        self.affine = nn.Linear(hidden, 2 * latent)

    def forward(self, h: Float[Tensor, "B H"]) -> tuple[Tensor, Tensor]:
        """μ and log σ², each [B, Z]."""
        mu, logvar = self.affine(h).chunk(2, dim=1)
        return mu, logvar


def gaussian_log_density(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(z; μ, diag σ²), summed over the last dimension."""
    return -0.5 * (math.log(2 * math.pi) + logvar + (z - mu).square() / logvar.exp()).sum(-1)


class MixturePrior(nn.Module):
    """p(z) = Σ_k π_k N(z; m_k, diag s_k²), learnt with the model; a single one is N(0, I)."""

    def __init__(self, latent: int, components: int) -> None:
        super().__init__()
        self.latent, self.components = latent, components
        learnt = components if components > 1 else 0
        self.mean = nn.Parameter(torch.zeros(learnt, latent))
        self.logvar = nn.Parameter(torch.zeros(learnt, latent))
        self.weight = nn.Parameter(torch.zeros(learnt))

    @torch.no_grad()
    def spread(self, scale: float) -> None:
        """Start the components apart: equal ones would stay equal."""
        self.mean.normal_(0, scale)

    def log_density(self, z: Float[Tensor, "*B Z"]) -> Float[Tensor, "*B"]:
        """log p(z)."""
        if self.components == 1:
            zero = z.new_zeros(())
            return gaussian_log_density(z, zero, zero.expand(self.latent))
        each = gaussian_log_density(z.unsqueeze(-2), self.mean, self.logvar)
        return torch.logsumexp(each + self.weight.log_softmax(0), dim=-1)

    def sample(
        self, noise: Float[Tensor, "B Z"], choice: Float[Tensor, " B"]
    ) -> Float[Tensor, "B Z"]:
        """z from standard normal `noise` and U[0, 1) draws `choice` of the component."""
        if self.components == 1:
            return noise
        k = torch.searchsorted(self.weight.softmax(0).cumsum(0), choice)
        k = k.clamp_max(self.components - 1)
        return self.mean[k] + (0.5 * self.logvar[k]).exp() * noise
