"""Walks in latent space: between codes, along attributes, and a Gaussian fitted to codes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lvtrain.errors import UserError
from lvtrain.generation.weights import read_tensors, write_tensors
from lvtrain.modules.latent import SMALLEST_NORM


def lerp(
    a: Float[Tensor, "B C"], b: Float[Tensor, "B C"], steps: int
) -> Float[Tensor, "steps B C"]:
    """Codes on the straight line from a to b, both ends included."""
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device).view(-1, 1, 1)
    return torch.lerp(a, b, t)


def slerp(
    a: Float[Tensor, "B C"], b: Float[Tensor, "B C"], steps: int
) -> Float[Tensor, "steps B C"]:
    """Codes on the great circle from a to b, the way between codes on a sphere (Shoemake 1985).

    sin((1−t)ω)/sin ω · a + sin(tω)/sin ω · b with ω the angle between them; nearly parallel codes
    are joined by the straight line, which is the limit.
    """
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device).view(-1, 1, 1)
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1)
    omega = torch.arccos(cosine)[:, None]
    sine = omega.sin()
    arc = (((1 - t) * omega).sin() * a + (t * omega).sin() * b) / sine.clamp_min(SMALLEST_NORM)
    return torch.where(sine.abs() < 1e-4, lerp(a, b, steps), arc)


class CodeGaussian(NamedTuple):
    """N(mean, factor factorᵀ): the prior an autoencoder lacks, fitted to its codes."""

    mean: Tensor
    factor: Tensor

    def sample(self, noise: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Codes from standard normal noise."""
        return self.mean + noise @ self.factor.t()


def fit_gaussian(codes: Float[Tensor, "N C"]) -> CodeGaussian:
    """The full-covariance Gaussian with the moments of `codes`, as Zhao et al. 2018 sample from a
    plain autoencoder. Worked in float64; directions without variance stay without."""
    x = codes.double()
    mean = x.mean(0)
    covariance = torch.cov(x.t()).reshape(len(mean), len(mean))
    values, vectors = torch.linalg.eigh(covariance)
    factor = vectors * values.clamp_min(0).sqrt()
    return CodeGaussian(mean.to(codes.dtype), factor.to(codes.dtype).contiguous())


def write_gaussian(path: Path, gaussian: CodeGaussian, step: int) -> None:
    """Keep the Gaussian that was fitted to the codes of a step."""
    write_tensors(path, {**gaussian._asdict(), "step": torch.tensor(step)})


def read_gaussian(path: Path, step: int, width: int) -> CodeGaussian | None:
    """The Gaussian that was kept for codes of a width at a step, or None where none can be read."""
    try:
        kept = read_tensors(path)
        shapes = [kept[name].shape for name in ("mean", "factor", "step")]
    except (UserError, KeyError):
        return None
    if shapes != [(width,), (width, width), ()] or int(kept["step"]) != step:
        return None
    return CodeGaussian(kept["mean"], kept["factor"])
