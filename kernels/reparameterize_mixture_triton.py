"""The reparameterised sample in Triton, its KL estimated against a mixture of Gaussians.

A program keeps its rows of z in registers and goes over the components, log p(z) by an online
log-sum-exp; backward goes over them again rather than keep B·K responsibilities. The gradients of
the prior's parameters are sums over the batch: each program writes its own rows' and the parts are
added in their order, so that they are the same bits every time.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .compiled import Variant
from .reparameterize_triton import (
    LANES,
    Case,
    normal,
    sample_backward,
    std,
    variants_of,
    warps_for,
)

# Rows of a program, at most, and elements [rows, Z] it holds, four to a thread: with more it would
# spill, as a row of 8,192 does. The parts of the prior's gradients take B K Z / 2 bytes at 16 rows
# (Z ≤ 64): an eighth of one [B, K, Z] tensor of the formula written out; at one row, two of them.
ROWS = 16
TILE = 1024


@triton.jit
def _sample(mu, logvar, seed, height, width, mu_row, mu_col, logvar_row, logvar_col, rank, world,
            B: tl.constexpr, Z: tl.constexpr):  # fmt: skip
    """Rows [B, 1], columns [1, Z], which of them are there, log σ², ε, σ ε and z of a program."""
    first = tl.program_id(0) * B
    rows, columns = first + tl.arange(0, B)[:, None], tl.arange(0, Z)[None, :]
    here = (rows < height) & (columns < width)
    at = rows.to(tl.int64)
    m = tl.load(mu + (at * mu_row + columns * mu_col), here, other=0).to(tl.float32)
    s = tl.load(logvar + (at * logvar_row + columns * logvar_col), here, other=0).to(tl.float32)
    eps = tl.where(here, normal(tl.load(seed), rank + rows * world, columns), 0)
    moved = std(s) * eps
    return rows, columns, here, s, eps, moved, m + moved


@triton.jit
def _log_weights(logit, components, K: tl.constexpr):
    """log Σ_k exp(logit_k)."""
    k = tl.arange(0, K)
    given = tl.load(logit + k, k < components, other=-float("inf")).to(tl.float32)
    largest = tl.max(given, axis=0)
    return largest + tl.log(tl.sum(tl.exp(given - largest), axis=0))


@triton.jit
def _component(z, mean, logvar, k, columns, width):
    """z − m_k, exp(−log s_k²) and (log s_k² + (z − m_k)² / s_k²) summed over the columns."""
    there = columns < width
    m = tl.load(mean + k * width + columns, there, other=0).to(tl.float32)
    s = tl.load(logvar + k * width + columns, there, other=0).to(tl.float32)
    precision = tl.exp(-s)
    away = z - m
    return away, precision, tl.sum(s + away * away * precision, axis=1)


@triton.jit(do_not_specialize=["height", "rank", "world"])
def forward(
    mu, logvar, seed, mean, component_logvar, logit, z, kl, log_prior, height, width, components,
    mu_row, mu_col, logvar_row, logvar_col, rank, world,
    B: tl.constexpr, Z: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """z, log q(z|x) − log p(z), and log p(z), the last without its −Z/2 log 2π."""
    rows, columns, here, s, eps, _moved, sample = _sample(
        mu, logvar, seed, height, width, mu_row, mu_col, logvar_row, logvar_col, rank, world, B, Z
    )
    tl.store(z + (rows.to(tl.int64) * width + columns), sample.to(z.dtype.element_ty), here)
    norm = _log_weights(logit, components, K)
    # A finite start: −∞ − −∞ would not be a number where a first weight is 0.
    best, total = tl.full([B], -1e38, tl.float32), tl.zeros([B], tl.float32)
    for k in range(components):
        _away, _precision, far = _component(sample, mean, component_logvar, k, columns, width)
        term = tl.load(logit + k).to(tl.float32) - norm - 0.5 * far
        higher = tl.maximum(best, term)
        total = total * tl.exp(best - higher) + tl.exp(term - higher)
        best = higher
    prior = best + tl.log(total)
    posterior = -0.5 * tl.sum(s + eps * eps, axis=1)
    row = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(kl + row, posterior - prior, row < height)
    tl.store(log_prior + row, prior, row < height)


@triton.jit(do_not_specialize=["height", "rank", "world"])
def backward(
    mu, logvar, seed, mean, component_logvar, logit, log_prior, dz, dkl, dmu, dlogvar,
    sums, weights, height, width, components,
    mu_row, mu_col, logvar_row, logvar_col, dz_row, dz_col, dkl_row, rank, world,
    HAS_DZ: tl.constexpr, B: tl.constexpr, Z: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    """With a = dKL · p(k | z) and d = (z − m_k) / s_k²: dz += Σ_k a d, from which dμ and dlog σ²;
    this program's rows' sums of −a d, a (1 − d (z − m_k)) / 2 and a, for the prior's parameters.
    """
    rows, columns, here, _s, _eps, moved, sample = _sample(
        mu, logvar, seed, height, width, mu_row, mu_col, logvar_row, logvar_col, rank, world, B, Z
    )
    at = rows.to(tl.int64)
    g = tl.zeros([B, Z], tl.float32)
    if HAS_DZ:
        g = tl.load(dz + (at * dz_row + columns * dz_col), here, other=0).to(tl.float32)
    row = tl.program_id(0) * B + tl.arange(0, B)
    prior = tl.load(log_prior + row, row < height, other=float("inf"))
    cost = tl.load(dkl + row.to(tl.int64) * dkl_row, row < height, other=0).to(tl.float32)
    norm = _log_weights(logit, components, K)
    part = tl.program_id(0).to(tl.int64) * components
    of_mean = sums + 2 * part * width + columns
    of_logvar = of_mean + components * width
    there = columns < width
    for k in range(components):
        away, precision, far = _component(sample, mean, component_logvar, k, columns, width)
        share = cost * tl.exp(tl.load(logit + k).to(tl.float32) - norm - 0.5 * far - prior)
        slope = away * precision
        pull = share[:, None] * slope
        g += pull
        tl.store(of_mean + k * width, -tl.sum(pull, axis=0)[None, :], there)
        bend = tl.sum(share[:, None] - pull * away, axis=0)
        tl.store(of_logvar + k * width, 0.5 * bend[None, :], there)
        tl.store(weights + (part + k), tl.sum(share, axis=0))
    out = at * width + columns
    tl.store(dmu + out, g.to(dmu.dtype.element_ty), here)
    to_logvar = 0.5 * (g * moved - cost[:, None])
    tl.store(dlogvar + out, to_logvar.to(dlogvar.dtype.element_ty), here)


def _tiles(width: int, components: int, lanes: int = LANES) -> dict[str, Any]:
    """The constants and warps of a program."""
    across = max(16, triton.next_power_of_2(width))
    rows = max(1, min(ROWS, TILE // across))
    warps = warps_for(rows * across // 4, lanes)
    return {"B": rows, "Z": across, "K": triton.next_power_of_2(components), "num_warps": warps}


@torch.library.custom_op("lvtrain::reparameterize_mixture", mutates_args=())
def sample_mixture(
    mu: Tensor,
    logvar: Tensor,
    seed: Tensor,
    mean: Tensor,
    component_logvar: Tensor,
    logit: Tensor,
    rank: int,
    world: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """z in μ's dtype; in float32 log q(z|x) − log p(z) of each row, and log p(z) + Z/2 log 2π."""
    (height, width), components = mu.shape, len(logit)
    z = mu.new_empty(height, width)
    kl, log_prior = (mu.new_empty(height, dtype=torch.float32) for _ in range(2))
    constants = _tiles(width, components)
    with torch.cuda.device_of(mu):
        forward[(triton.cdiv(height, constants["B"]),)](
            mu, logvar, seed, mean.contiguous(), component_logvar.contiguous(), logit.contiguous(),
            z, kl, log_prior, height, width, components, *mu.stride(), *logvar.stride(),
            rank, world, **constants,
        )  # fmt: skip
    return z, kl, log_prior


@sample_mixture.register_fake
def _(
    mu: Tensor,
    logvar: Tensor,
    seed: Tensor,
    mean: Tensor,
    component_logvar: Tensor,
    logit: Tensor,
    rank: int,
    world: int,
) -> tuple[Tensor, Tensor, Tensor]:
    kl, log_prior = (mu.new_empty(len(mu), dtype=torch.float32) for _ in range(2))
    return mu.new_empty(mu.shape), kl, log_prior


@torch.library.custom_op("lvtrain::reparameterize_mixture_backward", mutates_args=())
def sample_mixture_backward(
    mu: Tensor,
    logvar: Tensor,
    seed: Tensor,
    mean: Tensor,
    component_logvar: Tensor,
    logit: Tensor,
    log_prior: Tensor,
    dz: Tensor | None,
    dkl: Tensor,
    rank: int,
    world: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of μ, log σ², of the components' means and log variances [2, K, Z] in float32,
    and Σ_b dKL p(k | z) [K], summed in the order of the programs.
    """
    (height, width), components = mu.shape, len(logit)
    constants = _tiles(width, components)
    programs = triton.cdiv(height, constants["B"])
    dmu, dlogvar = mu.new_empty(height, width), mu.new_empty(height, width)
    sums = mu.new_empty(programs, 2, components, width, dtype=torch.float32)
    weights = mu.new_empty(programs, components, dtype=torch.float32)
    dz_strides = (0, 0) if dz is None else dz.stride()
    with torch.cuda.device_of(mu):
        backward[(programs,)](
            mu, logvar, seed, mean.contiguous(), component_logvar.contiguous(), logit.contiguous(),
            log_prior, dz, dkl, dmu, dlogvar, sums, weights, height, width, components,
            *mu.stride(), *logvar.stride(), *dz_strides, dkl.stride(0), rank, world,
            HAS_DZ=dz is not None, **constants,
        )  # fmt: skip
    return dmu, dlogvar, sums.sum(0), weights.sum(0)


@sample_mixture_backward.register_fake
def _(
    mu: Tensor,
    logvar: Tensor,
    seed: Tensor,
    mean: Tensor,
    component_logvar: Tensor,
    logit: Tensor,
    log_prior: Tensor,
    dz: Tensor | None,
    dkl: Tensor,
    rank: int,
    world: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sums = mu.new_empty(2, *mean.shape, dtype=torch.float32)
    weights = mu.new_empty(len(logit), dtype=torch.float32)
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape), sums, weights


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, rank, world = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[2])
    ctx.place = rank, world


def _differentiate(
    ctx: Any, dz: Tensor | None, dkl: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("reparameterize_mixture can be differentiated once only")
    *inputs, log_prior = ctx.saved_tensors
    mu, logvar, seed, mean, component_logvar, logit = inputs
    if dkl is None:
        dmu = dlogvar = None
        if dz is not None:
            dmu, dlogvar = sample_backward(mu, logvar, seed, dz, None, *ctx.place)
        return dmu, dlogvar, None, None, None, None, None, None
    dmu, dlogvar, sums, weights = sample_mixture_backward(*inputs, log_prior, dz, dkl, *ctx.place)
    dmean, dcomponent_logvar = sums.unbind(0)
    dlogit = torch.softmax(logit.float(), 0) * weights.sum() - weights
    return (
        dmu,
        dlogvar,
        None,
        dmean.to(mean.dtype),
        dcomponent_logvar.to(component_logvar.dtype),
        dlogit.to(logit.dtype),
        None,
        None,
    )


sample_mixture.register_autograd(_differentiate, setup_context=_keep)


def variants() -> list[Variant]:
    """Small and large latents, an absent gradient; 16 components."""
    cases: tuple[Case, ...] = (
        ("forward", forward, "fp32", 32, {}),
        ("forward", forward, "bf16", 300, {}),
        ("forward", forward, "bf16", 4096, {}),
        ("backward", backward, "fp32", 32, {"HAS_DZ": True}),
        ("backward", backward, "fp32", 128, {"HAS_DZ": True}),
        ("backward", backward, "bf16", 300, {"HAS_DZ": True}),
        ("backward", backward, "bf16", 4096, {"HAS_DZ": True}),
        ("backward of KL", backward, "bf16", 32, {"HAS_DZ": False, "dz": None}),
    )
    return variants_of("reparameterize_mixture", cases, lambda z, lanes: _tiles(z, 16, lanes))
