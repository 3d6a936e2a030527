"""Reparameterised Gaussian sample and its KL, with the noise recomputed instead of stored."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import reference


class _Reparameterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mu: Tensor, logvar: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mu, logvar, seed)
        std = torch.exp(logvar * 0.5)
        kl = torch.expm1(logvar).sub_(logvar).addcmul_(mu, mu).mul_(0.5)
        z = reference.noise(seed, mu.shape, mu.dtype, mu.device).mul_(std).add_(mu)
        return z, kl

    @staticmethod
    def backward(
        ctx: Any, dz: Tensor | None, dkl: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("reparameterize can be differentiated once only")
        mu, logvar, seed = ctx.saved_tensors
        dmu, dlogvar = dz, None
        if ctx.needs_input_grad[0] and dkl is not None:
            dmu = dkl * mu if dz is None else torch.addcmul(dz, dkl, mu)
        if ctx.needs_input_grad[1]:
            if dz is not None:
                dlogvar = reference.noise(seed, mu.shape, mu.dtype, mu.device)
                dlogvar.mul_(torch.exp(logvar * 0.5)).mul_(dz).mul_(0.5)
            if dkl is not None:
                from_kl = torch.expm1(logvar).mul_(dkl).mul_(0.5)
                dlogvar = from_kl if dlogvar is None else dlogvar.add_(from_kl)
        return dmu, dlogvar, None


def reparameterize(
    mu: Float[Tensor, "B Z"], logvar: Float[Tensor, "B Z"], seed: Int[Tensor, ""]
) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
    """Sample z ~ N(μ, σ²) and give KL(N(μ, σ²) ‖ N(0, I)) of each element.

    z = μ + exp(log σ² / 2) ε, ε drawn from ``seed``; KL = (μ² + σ² − 1 − log σ²) / 2
    (Kingma & Welling 2014). ε is not stored: backward draws it again from the same seed.
    Free bits and β stay outside.

    Args:
        seed: an int64 scalar tensor; the same seed gives the same noise on the same device.

    Raises:
        ValueError: shapes, dtypes or devices that do not agree, or a seed that is no int64 scalar.
    """
    if mu.ndim != 2:
        raise ValueError(f"mu: expected shape [B, Z], found {list(mu.shape)}")
    if not mu.is_floating_point():
        raise ValueError(f"mu: expected a floating-point tensor, found {mu.dtype}")
    if logvar.shape != mu.shape:
        raise ValueError(f"logvar: expected shape {list(mu.shape)}, found {list(logvar.shape)}")
    if logvar.dtype != mu.dtype or logvar.device != mu.device:
        raise ValueError(
            f"logvar: expected {mu.dtype} on {mu.device} like mu, "
            f"found {logvar.dtype} on {logvar.device}"
        )
    if not isinstance(seed, Tensor) or seed.dtype != torch.int64 or seed.numel() != 1:
        raise ValueError(f"seed: expected one int64 in a tensor, found {seed!r}")
    return _Reparameterize.apply(mu, logvar, seed)
