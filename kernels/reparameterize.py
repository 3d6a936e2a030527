"""Reparameterised Gaussian sample and its KL, with the noise recomputed instead of stored."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import dispatch, reference


def _wide(*tensors: Tensor) -> list[Tensor]:
    """The tensors in float32 where they are half."""
    return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


class _Reparameterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mu: Tensor, logvar: Tensor, seed: Tensor, rank: int, world: int
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mu, logvar, seed)
        ctx.place = rank, world
        dtype = mu.dtype
        mu, logvar = _wide(mu, logvar)
        std = torch.exp(logvar * 0.5)
        kl = torch.expm1(logvar).sub_(logvar).addcmul_(mu, mu).mul_(0.5)
        z = reference.noise(seed, mu.shape, mu.dtype, mu.device, rank, world).mul_(std).add_(mu)
        return z.to(dtype), kl

    @staticmethod
    def backward(
        ctx: Any, dz: Tensor | None, dkl: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError("reparameterize can be differentiated once only")
        mu, logvar, seed = ctx.saved_tensors
        dtype = mu.dtype
        mu, logvar = _wide(mu, logvar)
        dz = None if dz is None else dz.to(mu.dtype)
        dmu, dlogvar = dz, None
        if ctx.needs_input_grad[0] and dkl is not None:
            dmu = dkl * mu if dz is None else torch.addcmul(dz, dkl, mu)
        if ctx.needs_input_grad[1]:
            if dz is not None:
                dlogvar = reference.noise(seed, mu.shape, mu.dtype, mu.device, *ctx.place)
                dlogvar.mul_(torch.exp(logvar * 0.5)).mul_(dz).mul_(0.5)
            if dkl is not None:
                from_kl = torch.expm1(logvar).mul_(dkl).mul_(0.5)
                dlogvar = from_kl if dlogvar is None else dlogvar.add_(from_kl)
        return (
            None if dmu is None else dmu.to(dtype),
            None if dlogvar is None else dlogvar.to(dtype),
            None,
            None,
            None,
        )


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        mu: Tensor,
        logvar: Tensor,
        seed: Tensor,
        mean: Tensor,
        component_logvar: Tensor,
        logit: Tensor,
        rank: int,
        world: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mu, logvar, seed, mean, component_logvar, logit)
        ctx.place = rank, world
        dtype = mu.dtype
        mu, logvar = _wide(mu, logvar)
        eps = reference.noise(seed, mu.shape, mu.dtype, mu.device, rank, world)
        z = torch.exp(logvar * 0.5).mul_(eps).add_(mu)
        _, _, terms = _components(z, mean, component_logvar, logit)
        kl = (logvar + eps.square()).sum(1).mul_(-0.5).sub_(terms.logsumexp(1))
        return z.to(dtype), kl

    @staticmethod
    def backward(ctx: Any, dz: Tensor | None, dkl: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("reparameterize_mixture can be differentiated once only")
        mu, logvar, seed, *prior = ctx.saved_tensors
        dtype = mu.dtype
        mu, logvar = _wide(mu, logvar)
        eps = reference.noise(seed, mu.shape, mu.dtype, mu.device, *ctx.place)
        moved = torch.exp(logvar * 0.5).mul_(eps)
        dmu = torch.zeros_like(mu) if dz is None else dz.to(mu.dtype)
        dprior: list[Tensor | None] = [None, None, None]
        if dkl is not None:
            away, slope, terms = _components(moved + mu, *prior)
            share = terms.softmax(1).mul_(dkl.unsqueeze(1))
            pull = slope.mul_(share.unsqueeze(2))
            dmu = dmu + pull.sum(1)
            total = share.sum(0)
            bend = total.unsqueeze(1) - pull.mul(away).sum(0)
            dlogit = prior[2].softmax(0) * total.sum() - total
            dprior = [
                d.to(p.dtype)
                for d, p in zip((-pull.sum(0), bend * 0.5, dlogit), prior, strict=True)
            ]
        dlogvar = moved.mul_(dmu)
        if dkl is not None:
            dlogvar -= dkl.unsqueeze(1)
        return dmu.to(dtype), dlogvar.mul_(0.5).to(dtype), None, *dprior, None, None


def _components(
    z: Float[Tensor, "B Z"],
    mean: Float[Tensor, "K Z"],
    logvar: Float[Tensor, "K Z"],
    logit: Float[Tensor, "K"],
) -> tuple[Float[Tensor, "B K Z"], Float[Tensor, "B K Z"], Float[Tensor, "B K"]]:
    """z − m_k, (z − m_k) / s_k² and log π_k N(z; m_k, s_k²) + Z/2 log 2π."""
    away = z.unsqueeze(1) - mean
    slope = away * torch.exp(-logvar)
    far = (away * slope).sum(2).add_(logvar.sum(1))
    return away, slope, logit.log_softmax(0) - 0.5 * far


def reparameterize(
    mu: Float[Tensor, "B Z"],
    logvar: Float[Tensor, "B Z"],
    seed: Int[Tensor, ""],
    *,
    rank: int = 0,
    world: int = 1,
) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
    """Sample z ~ N(μ, σ²) and give KL(N(μ, σ²) ‖ N(0, I)) of each element.

    z = μ + exp(log σ² / 2) ε, ε drawn from ``seed``; KL = (μ² + σ² − 1 − log σ²) / 2
    (Kingma & Welling 2014). ε is not stored: backward draws it again from the same seed.
    Free bits and β stay outside. z has the dtype of ``mu``; the KL too, but never half.

    Args:
        seed: an int64 scalar tensor; the same seed gives the same noise on the same device.
        rank: these are rows rank, rank + world, … of the whole batch, and their noise too.

    Raises:
        ValueError: shapes, dtypes or devices that do not agree, a seed that is no int64 scalar, or
            a rank that ``world`` does not have.
    """
    _check_posterior(mu, logvar, seed, rank, world)
    if dispatch.choose("reparameterize", mu.device, mu.dtype).path == "triton":
        from . import reparameterize_triton

        return reparameterize_triton.sample(mu, logvar, seed, rank, world)
    return _Reparameterize.apply(mu, logvar, seed, rank, world)


def reparameterize_mixture(
    mu: Float[Tensor, "B Z"],
    logvar: Float[Tensor, "B Z"],
    seed: Int[Tensor, ""],
    component_mean: Float[Tensor, "K Z"],
    component_logvar: Float[Tensor, "K Z"],
    component_logit: Float[Tensor, "K"],
    *,
    rank: int = 0,
    world: int = 1,
) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B"]]:
    """Sample z ~ N(μ, σ²) and estimate KL(N(μ, σ²) ‖ p) of each row by log q(z|x) − log p(z).

    p = Σ_k softmax(logit)_k N(m_k, diag s_k²), a mixture such as VampPrior's (Tomczak & Welling
    2018). The estimate has one sample and is unbiased; its gradient reaches μ, log σ² and the
    mixture's parameters. z is what ``reparameterize`` draws from the same seed for the same rank.
    The KL has the dtype of ``mu``, but never half.

    Raises:
        ValueError: shapes, dtypes or devices that do not agree, a seed that is no int64 scalar, or
            a rank that ``world`` does not have.
    """
    _check_posterior(mu, logvar, seed, rank, world)
    _check_mixture(mu, component_mean, component_logvar, component_logit)
    prior = (component_mean, component_logvar, component_logit)
    if dispatch.choose("reparameterize", mu.device, mu.dtype).path == "triton":
        from . import reparameterize_mixture_triton

        drawn = reparameterize_mixture_triton.sample_mixture(mu, logvar, seed, *prior, rank, world)
        return drawn[:2]
    return _Mixture.apply(mu, logvar, seed, *prior, rank, world)


def _check_posterior(mu: Tensor, logvar: Tensor, seed: Tensor, rank: int, world: int) -> None:
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
    if seed.device != mu.device:
        raise ValueError(f"seed: expected a tensor on {mu.device} like mu, found {seed.device}")
    if not 0 <= rank < world:
        raise ValueError(f"rank: expected 0 ≤ rank < world = {world}, found {rank}")


def _check_mixture(mu: Tensor, mean: Tensor, logvar: Tensor, logit: Tensor) -> None:
    if logit.ndim != 1 or len(logit) == 0:
        raise ValueError(f"component_logit: expected shape [K], K ≥ 1, found {list(logit.shape)}")
    shape = torch.Size([len(logit), mu.shape[1]])
    for name, given, wanted in (
        ("component_mean", mean, shape),
        ("component_logvar", logvar, shape),
        ("component_logit", logit, logit.shape),
    ):
        if given.shape != wanted:
            raise ValueError(f"{name}: expected shape {list(wanted)}, found {list(given.shape)}")
        if not given.is_floating_point() or given.device != mu.device:
            raise ValueError(
                f"{name}: expected a floating-point tensor on {mu.device} like mu, "
                f"found {given.dtype} on {given.device}"
            )
