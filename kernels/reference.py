"""The definitions of the fused operations in plain, differentiable PyTorch: clear and slow.

Every fast path is tested against this file in float64, output and every gradient. Nothing here
is tuned; a reader who wants to know what an operation *means* reads it here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def lstm(
    x: Float[Tensor, "B T I"],
    w_ih: Float[Tensor, "G I"],
    w_hh: Float[Tensor, "G H"],
    bias: Float[Tensor, "G"] | Float[Tensor, "B G"],
    h0: Float[Tensor, "B H"] | None = None,
    c0: Float[Tensor, "B H"] | None = None,
    lengths: Int[Tensor, "B"] | None = None,
) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H"], Float[Tensor, "B H"]]:
    """Run one LSTM layer (Hochreiter & Schmidhuber 1997), one cell at a time; G = 4H.

    i, f, o = σ(·), g = tanh(·) of W_ih x_t + W_hh h_{t−1} + b;
    c_t = f c_{t−1} + i g;  h_t = o tanh(c_t).

    A row stops at its length: its state is frozen there and its output is zero beyond.
    """
    batch, time, _ = x.shape
    hidden = w_hh.shape[1]
    h = x.new_zeros(batch, hidden) if h0 is None else h0
    c = x.new_zeros(batch, hidden) if c0 is None else c0
    outputs = []
    for t in range(time):
        gates = x[:, t] @ w_ih.T + h @ w_hh.T + bias
        i, f, g, o = gates.chunk(4, dim=1)
        c_next = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h_next = torch.sigmoid(o) * torch.tanh(c_next)
        if lengths is None:
            h, c = h_next, c_next
            outputs.append(h)
        else:
            alive = (t < lengths).unsqueeze(1)
            h = torch.where(alive, h_next, h)
            c = torch.where(alive, c_next, c)
            outputs.append(torch.where(alive, h_next, torch.zeros_like(h_next)))
    return torch.stack(outputs, dim=1), h, c


def noise(
    seed: Int[Tensor, ""],
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
) -> Float[Tensor, "B Z"]:
    """Draw rows rank, rank + world, … of the standard normal noise that ``seed`` stands for."""
    generator = torch.Generator(device=device).manual_seed(int(seed))
    height, width = shape
    whole = torch.randn(height * world, width, generator=generator, dtype=dtype, device=device)
    # A copy, where there are others: theirs need not stay in memory.
    return whole[rank::world].contiguous()


def reparameterize(
    mu: Float[Tensor, "B Z"],
    logvar: Float[Tensor, "B Z"],
    seed: Int[Tensor, ""],
    *,
    rank: int = 0,
    world: int = 1,
) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
    """Sample z = μ + exp(log σ² / 2) ε and give KL(N(μ, σ²) ‖ N(0, I)) of each element.

    Kingma & Welling 2014: KL = (μ² + σ² − 1 − log σ²) / 2.
    """
    eps = noise(seed, mu.shape, mu.dtype, mu.device, rank, world)
    z = mu + torch.exp(logvar / 2) * eps
    kl = (mu.square() + torch.expm1(logvar) - logvar) / 2
    return z, kl


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    x: Float[Tensor, "B C"],
    weight: float,
    target: float = 1.0,
    per_sample: bool = True,
) -> Float[Tensor, ""]:
    """Give λ mean_b (‖∂D(x_b)/∂x_b‖ − target)² (Gulrajani et al. 2017) by double backward.

    With ``per_sample=False`` the output is averaged over the batch before it is differentiated,
    as the 2018 reference of ARAE does: the norms are then 1/B of the rows' own.
    """
    points = x.detach().requires_grad_(True)
    scores = critic(points)
    total = scores.sum() if per_sample else scores.mean()
    # What autocast computed in half goes back in half; nothing else is to be rounded.
    with torch.autocast(x.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(total, points, create_graph=True)
    return weight * (row_norm(gradient) - target).square().mean()


def row_norm(gradient: Float[Tensor, "B C"]) -> Float[Tensor, "B"]:
    """Take each row's Euclidean norm, with gradient 0 (not NaN) where the norm is 0."""
    squared = gradient.square().sum(dim=1)
    positive = squared > 0
    return torch.where(positive, squared, 1).sqrt() * positive


def linear_cross_entropy(
    x: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    target: Int[Tensor, "N"],
    bias: Float[Tensor, "V"] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Give the cross-entropy of softmax(x Wᵀ + b) against ``target``, logits in memory and all."""
    return F.cross_entropy(
        F.linear(x, weight, bias),
        target,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        reduction=reduction,
    )


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
    """Sample z ~ q = N(μ, σ²) and give log q(z) − log Σ_k softmax(logit)_k N(z; m_k, diag s_k²)."""
    eps = noise(seed, mu.shape, mu.dtype, mu.device, rank, world)
    z = mu + torch.exp(logvar / 2) * eps
    posterior = torch.distributions.Normal(mu, torch.exp(logvar / 2))
    components = torch.distributions.Normal(component_mean, torch.exp(component_logvar / 2))
    each = components.log_prob(z.unsqueeze(1)).sum(2) + component_logit.log_softmax(0)
    return z, posterior.log_prob(z).sum(1) - each.logsumexp(1)


def attention_lstm(
    x: Float[Tensor, "B T G"],
    memory: Float[Tensor, "B S M"],
    keys: Float[Tensor, "B S A"],
    mask: Bool[Tensor, "B S"],
    w_query: Float[Tensor, "A H"],
    v: Float[Tensor, "A"],
    w_context: Float[Tensor, "G M"],
    w_hh: Float[Tensor, "G H"],
    h0: Float[Tensor, "B H"],
    c0: Float[Tensor, "B H"],
    lengths: Int[Tensor, "B"] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run an LSTM that looks at a memory before each step (Bahdanau et al. 2015); G = 4H.

    e_ti = vᵀ tanh(W_q h_{t−1} + k_i);  α_t = softmax(e_t) over the real i;  a_t = Σ_i α_ti m_i;
    h_t, c_t = the cell of ``lstm`` with gates x_t + W_a a_t + W_hh h_{t−1}.

    Gives h [B, T, H], a [B, T, M], α [B, T, S] and c [B, T, H], zero beyond a row's length.
    """
    h, c = h0, c0
    outputs = []
    for t in range(x.shape[1]):
        scores = torch.tanh((h @ w_query.T).unsqueeze(1) + keys) @ v
        weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=1)
        context = (weights.unsqueeze(1) @ memory).squeeze(1)
        i, f, g, o = (x[:, t] + context @ w_context.T + h @ w_hh.T).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        outputs.append((h, context, weights, c))
    h, context, weights, c = (torch.stack(of, dim=1) for of in zip(*outputs, strict=True))
    if lengths is None:
        return h, context, weights, c
    alive = (torch.arange(x.shape[1], device=x.device) < lengths[:, None]).unsqueeze(2)
    return h * alive, context * alive, weights * alive, c * alive
