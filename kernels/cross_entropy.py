"""Cross-entropy of a linear layer over a large vocabulary, without the [N, V] logits in memory.

The rows are taken a chunk at a time and the vocabulary a tile at a time, so that a tile of logits
is still in cache when it is exponentiated and summed, and multiplied by the weights for dx. The
chunk's tiles are kept as e = exp(logit − shift); the softmax's denominator s, known only after the
last tile, scales the small matrices instead: dx = (e W) / s and dW = eᵀ (x / s). The target's −1 is
a row each of x and W, added at the end. So forward makes every gradient with three GEMMs and no
further pass over the logits; backward scales them.

The shift is the target's own logit: then s ≥ 1 and the loss is log s. Where a logit exceeds the
target's by more than the format's range (88 in float32), the chunk is done again with the maximum.
"""

from __future__ import annotations

from math import ceil
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_BYTES = 64 * 2**20
"""Most memory that the exponentiated logits of a chunk of rows take."""

TILE_BYTES = 2 * 2**20
"""Size of a tile of them: small enough for the cache, large enough for the GEMM."""


class _Options(NamedTuple):
    label_smoothing: float
    ignore_index: int
    reduction: str


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        target: Tensor,
        bias: Tensor | None,
        options: _Options,
    ) -> Tensor:
        ctx.options = options
        needed = _needed(ctx)
        scale = None
        if options.reduction == "none":
            ctx.save_for_backward(x, weight, target, bias)
        elif options.reduction == "sum":
            scale = torch.ones_like(target, dtype=x.dtype)
        else:
            count = (target != options.ignore_index).sum().to(x.dtype)
            scale = count.reciprocal().expand(len(target))
        if scale is None or not any(needed):
            losses, *_ = _sweep(x, weight, target, bias, options, None, (False, False, False))
        else:
            losses, *gradients = _sweep(x, weight, target, bias, options, scale, needed)
            ctx.save_for_backward(*gradients)
        if options.reduction == "none":
            return losses
        total = losses.sum()
        return total / count if options.reduction == "mean" else total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("linear_cross_entropy can be differentiated once only")
        if ctx.options.reduction == "none":
            x, weight, target, bias = ctx.saved_tensors
            _, dx, dw, db = _sweep(x, weight, target, bias, ctx.options, grad, _needed(ctx))
        else:
            dx, dw, db = ctx.saved_tensors
            if grad.device.type != "cpu" or grad.item() != 1:
                dx, dw, db = (None if d is None else d * grad for d in (dx, dw, db))
        return dx, dw, None, db, None


def _needed(ctx: Any) -> tuple[bool, bool, bool]:
    return ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[3]


def _sweep(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    options: _Options,
    scale: Tensor | None,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Give the losses [N], and dx, dW, db of Σ scale·loss where ``needed`` asks for them."""
    dtype = x.dtype
    kept = None
    if bool((target == options.ignore_index).any()):
        kept = torch.nonzero(target != options.ignore_index).squeeze(1)
        whole = len(x)
        x, target = x.index_select(0, kept), target.index_select(0, kept)
        scale = None if scale is None else scale.index_select(0, kept)
    if dtype in (torch.float16, torch.bfloat16):
        x, weight = x.float(), weight.float()
        bias = None if bias is None else bias.float()
    scale = None if scale is None else scale.to(x.dtype)
    count, vocabulary = len(x), len(weight)
    losses = x.new_empty(count)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format) if needed[0] else None
    dw = None
    if needed[1]:
        dw = (weight.new_empty if count else weight.new_zeros)(weight.shape)
    db = weight.new_zeros(vocabulary) if needed[2] else None

    limit = torch.finfo(x.dtype).max ** 0.75  # leaves room for the products with W
    smoothing = options.label_smoothing
    mean_weight = weight.mean(dim=0) if smoothing else None
    mean_bias = bias.mean() if smoothing and bias is not None else None
    chunks = ceil(count * vocabulary * x.element_size() / CHUNK_BYTES)
    rows = ceil(count / max(1, chunks))
    discard = dw is None and db is None
    for start in range(0, count, max(1, rows)):
        part = slice(start, start + rows)
        x_part, chosen = x[part], target[part]
        w_chosen = weight.index_select(0, chosen)
        at_target = (x_part * w_chosen).sum(dim=1)
        if bias is not None:
            at_target += bias.index_select(0, chosen)
        dx_part = None if dx is None else dx[part]
        shift = at_target
        tiles, total = _exponentials(x_part, weight, bias, shift, dx_part, discard)
        if not bool((total < limit).all()):
            shift = _maximum(x_part, weight, bias)
            tiles, total = _exponentials(x_part, weight, bias, shift, dx_part, discard)
        loss = total.log()
        if shift is not at_target:
            loss += shift - at_target
        if mean_weight is not None:
            mean_logit = x_part @ mean_weight
            if mean_bias is not None:
                mean_logit += mean_bias
            loss.add_(at_target - mean_logit, alpha=smoothing)
        losses[part] = loss
        if scale is None:
            continue
        row = scale[part].unsqueeze(1)
        each = row / total.unsqueeze(1)
        if dx_part is not None:
            dx_part.mul_(each).addcmul_(w_chosen, row, value=smoothing - 1)
            if mean_weight is not None:
                dx_part.addcmul_(mean_weight, row, value=-smoothing)
        scaled = x_part * each
        for left, tile in reversed(tiles):
            right = left + tile.shape[1]
            if dw is not None:
                torch.addmm(
                    dw[left:right], tile.T, scaled, beta=1 if start else 0, out=dw[left:right]
                )
            if db is not None:
                db[left:right].addmv_(tile.T, each.squeeze(1))
    if scale is not None:
        weighted = None if dw is None else x * scale.unsqueeze(1)
        if dw is not None and weighted is not None:
            dw.index_add_(0, target, weighted, alpha=smoothing - 1)
            if smoothing:
                dw.sub_(weighted.sum(dim=0), alpha=smoothing / vocabulary)
        if db is not None:
            db.index_add_(0, target, scale, alpha=smoothing - 1)
            if smoothing:
                db.sub_(scale.sum(), alpha=smoothing / vocabulary)
    if kept is not None:
        losses = losses.new_zeros(whole).index_copy_(0, kept, losses)
        dx = None if dx is None else dx.new_zeros(whole, dx.shape[1]).index_copy_(0, kept, dx)
    if dtype != x.dtype:
        losses = losses.to(dtype)
        dx, dw, db = (None if d is None else d.to(dtype) for d in (dx, dw, db))
    return losses, dx, dw, db


def _tile_width(rows: int, element_size: int) -> int:
    """Width of a tile of the vocabulary, a multiple of 16 so that rows of it stay aligned."""
    return max(16, TILE_BYTES // (rows * element_size) // 16 * 16)


def _exponentials(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shift: Tensor,
    dx: Tensor | None,
    discard: bool,
) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Give exp(logits − shift) in tiles of the vocabulary, and their sum over it.

    Writes exp(logits − shift) · weight into ``dx``. With ``discard`` the tiles share one buffer
    and are not given.
    """
    rows, vocabulary = len(x), len(weight)
    width = min(vocabulary, _tile_width(rows, x.element_size()))
    room = x.new_empty(rows * (width if discard else vocabulary))
    total = x.new_zeros(rows)
    tiles = []
    column = shift.unsqueeze(1)
    for left in range(0, vocabulary, width):
        part = slice(left, min(left + width, vocabulary))
        size = rows * (part.stop - left)
        begin = 0 if discard else rows * left
        tile = room[begin : begin + size].view(rows, -1)
        if bias is None:
            torch.mm(x, weight[part].T, out=tile).sub_(column)
        else:
            torch.sub(bias[part], column, out=tile).addmm_(x, weight[part].T)
        total += tile.exp_().sum(dim=1)
        if dx is not None:
            torch.addmm(dx, tile, weight[part], beta=1 if left else 0, out=dx)
        if not discard:
            tiles.append((left, tile))
    return tiles, total


def _maximum(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Give each row's largest logit, a tile of the vocabulary at a time."""
    width = _tile_width(len(x), x.element_size())
    largest = x.new_full((len(x),), -torch.inf)
    for left in range(0, len(weight), width):
        tile = x @ weight[left : left + width].T
        if bias is not None:
            tile += bias[left : left + width]
        largest = torch.maximum(largest, tile.amax(dim=1))
    return largest


def linear_cross_entropy(
    x: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    target: Int[Tensor, "N"],
    bias: Float[Tensor, "V"] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Give the cross-entropy of softmax(x Wᵀ + b) against ``target``.

    ℓ_n = (1 − s) (lse_n − logit_{n, target}) + s (lse_n − mean_v logit_{n, v}), s the smoothing
    (Szegedy et al. 2016). ``"mean"`` is over the targets that are not ``ignore_index``.
    Differentiable once.

    Raises:
        ValueError: shapes, dtypes or devices that do not agree, a target outside 0..V−1 that is
            not ``ignore_index``, a smoothing outside 0..1, or an unknown reduction.
    """
    _check(x, weight, target, bias, label_smoothing, ignore_index, reduction)
    options = _Options(label_smoothing, ignore_index, reduction)
    return _LinearCrossEntropy.apply(x, weight, target, bias, options)


def _check(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> None:
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"x: expected floats of shape [N, H], found {x.dtype} {list(x.shape)}")
    if weight.ndim != 2 or weight.shape[1] != x.shape[1] or len(weight) == 0:
        raise ValueError(
            f"weight: expected shape [V, {x.shape[1]}] with V ≥ 1, found {list(weight.shape)}"
        )
    if bias is not None and list(bias.shape) != [len(weight)]:
        raise ValueError(f"bias: expected shape [{len(weight)}], found {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and (tensor.dtype != x.dtype or tensor.device != x.device):
            raise ValueError(
                f"{name}: expected {x.dtype} on {x.device} like x, "
                f"found {tensor.dtype} on {tensor.device}"
            )
    if target.dtype != torch.int64 or list(target.shape) != [len(x)]:
        raise ValueError(
            f"target: expected int64 of shape [{len(x)}], found {target.dtype} {list(target.shape)}"
        )
    if target.device != x.device:
        raise ValueError(f"target: expected on {x.device} like x, found {target.device}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: expected 0..1, found {label_smoothing}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', found {reduction!r}")
    if target.device.type == "cpu":
        wrong = (target != ignore_index) & ((target < 0) | (target >= len(weight)))
        if wrong.any():
            raise ValueError(
                f"target: expected 0..{len(weight) - 1} or ignore_index {ignore_index}, "
                f"found {int(target[wrong][0])}"
            )
