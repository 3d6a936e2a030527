"""The vocabulary's cross-entropy in PyTorch, for a CPU: chunks of rows by tiles of words.

It runs on any device and is right there, but asks the device for values, which waits for it.

A tile of logits is still in cache when it is exponentiated and summed, and multiplied by the
weights for dx. The chunk's tiles are kept as e = exp(logit − shift); the softmax's denominator s,
known only after the last tile, scales the small matrices instead: dx = (e W) / s and
dW = eᵀ (x / s). The target's −1 is a row each of x and W, added at the end. So forward makes every
gradient with three GEMMs and no further pass over the logits; backward scales them.

Where the processor multiplies bfloat16, three times as fast as float32, inputs of that type are
multiplied as they are; logits and exponentials are rounded to it between products, and summed and
exponentiated in float32. Elsewhere, and for float16, they are multiplied in float32.

The shift is the target's own logit: then s ≥ 1 and the loss is log s. Where a logit exceeds the
target's by more than the format's range (88 in float32), the chunk is done again with the maximum.
"""

from __future__ import annotations

from math import ceil
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .products import add_product, multiplies_bfloat16

CHUNK_BYTES = {"cpu": 32 * 2**20}
"""Most memory that the exponentials of a chunk of rows take, by type of device; else 512 MiB.

On a CPU the C library maps anything larger afresh at each call: 8,600 page faults and a tenth of
the time.
"""

LEAST_ROWS = 64
"""Least rows of a chunk, however much they take; fewer than twice as many are not cut. W is read,
and dW read and written, once a chunk, which with fewer takes longer than the products do. Of
800,000 words, 64 take 200 MB."""

TILE_BYTES = {"cpu": 4 * 2**20}
"""Size of a tile of them: small enough for the cache, large enough for the GEMM; else a chunk."""

BFLOAT16_ROWS = 64
"""Rows are made up to a multiple of so many where a CPU multiplies bfloat16: a kernel is compiled
for each shape of a product, and the last thousand of them are kept with room to work in."""


class Options(NamedTuple):
    label_smoothing: float
    ignore_index: int
    reduction: str


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        target: Tensor,
        bias: Tensor | None,
        options: Options,
    ) -> Tensor:
        ctx.options, ctx.gradients = options, None
        ctx.save_for_backward(x, weight, target, bias)
        if options.reduction == "none":
            losses, _ = _sweep(x, weight, target, bias, options, None, (False, False, False))
            return losses
        scale = torch.ones_like(target, dtype=_working_dtype(x))
        if options.reduction == "mean":
            scale /= (target != options.ignore_index).sum()
        ctx.scale = scale
        losses, ctx.gradients = _sweep(x, weight, target, bias, options, scale, _needed(ctx))
        return torch.dot(losses, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("linear_cross_entropy can be differentiated once only")
        # Given away, so that dW, as large as W, is scaled in place; a second backward, of a graph
        # that was retained, computes them anew.
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            x, weight, target, bias = ctx.saved_tensors
            scale = grad if ctx.options.reduction == "none" else ctx.scale * grad
            _, gradients = _sweep(x, weight, target, bias, ctx.options, scale, _needed(ctx))
        elif grad.device.type != "cpu" or grad.item() != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(grad)
        dx, dw, db = gradients
        return dx, dw, None, db, None


def _needed(ctx: Any) -> tuple[bool, bool, bool]:
    return ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[3]


def _working_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def _sweep(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    options: Options,
    scale: Tensor | None,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor, Gradients]:
    """Give the losses [N], and dx, dW, db of Σ scale·loss where ``needed`` asks for them."""
    given, real = (x, weight, bias), None
    if bool((target == options.ignore_index).any()):
        real = torch.nonzero(target != options.ignore_index).squeeze(1)
        x, target = x.index_select(0, real), target.index_select(0, real)
        scale = None if scale is None else scale.index_select(0, real)
    dtype = _working_dtype(x)
    if not multiplies_bfloat16(x):
        x, weight = x.to(dtype), weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    scale = x.new_zeros(len(x), dtype=dtype) if scale is None else scale.to(dtype)
    count = len(x)
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        more = -count % BFLOAT16_ROWS
        x, target, scale = (
            F.pad(x, (0, 0, 0, more)),
            F.pad(target, (0, more)),
            F.pad(scale, (0, more)),
        )

    with torch.autocast(x.device.type, enabled=False):  # the products are in x's type
        losses, (dx, dw, db) = _over_real_rows(
            x, weight, target, bias, scale, options.label_smoothing, needed
        )
    losses, dx = losses[:count], None if dx is None else dx[:count]
    if real is not None:
        rows = len(given[0])
        losses = losses.new_zeros(rows).index_copy_(0, real, losses)
        dx = None if dx is None else dx.new_zeros(rows, dx.shape[1]).index_copy_(0, real, dx)
    gradients = (
        None if d is None or of is None else d.to(of.dtype)
        for d, of in zip((dx, dw, db), given, strict=True)
    )
    return losses, tuple(gradients)  # type: ignore[return-value]


def _over_real_rows(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    smoothing: float,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor, Gradients]:
    count, vocabulary, dtype = len(x), len(weight), scale.dtype
    losses = x.new_zeros(count, dtype=dtype)
    dx = x.new_zeros(x.shape, dtype=dtype) if needed[0] else None
    dw = weight.new_empty(weight.shape, dtype=dtype) if needed[1] else None
    db = weight.new_zeros(vocabulary, dtype=dtype) if needed[2] else None
    if dw is not None and count == 0:
        dw.zero_()
    # A smoothed target takes share s/V of every word's logit: s times their mean.
    mean_weight = weight.mean(dim=0, dtype=dtype) if smoothing else None
    mean_bias = bias.mean() if smoothing and bias is not None else 0.0

    keep = dw is not None or db is not None
    limit = torch.finfo(dtype).max ** 0.75  # leaves room for the products with W
    room_bytes = CHUNK_BYTES.get(x.device.type, 512 * 2**20)
    chunks = max(1, ceil(count * vocabulary * x.element_size() / room_bytes))
    chunks = min(chunks, max(1, count // LEAST_ROWS))
    rows = max(1, ceil(count / chunks))
    width = _tile_width(rows, x, vocabulary)
    room = x.new_empty(rows * (vocabulary if keep else width))
    for start in range(0, count, rows):
        part = slice(start, start + rows)
        x_part, dx_part = x[part], None if dx is None else dx[part]
        x_wide = x_part.to(dtype)
        w_target = weight.index_select(0, target[part]).to(dtype)
        at_target = (x_wide * w_target).sum(dim=1)
        if bias is not None:
            at_target += bias.index_select(0, target[part])
        shift = at_target
        tiles, total = _exponentials(x_part, weight, bias, shift, dx_part, room, width)
        # The target's own term is 1, unless its logit is so large that rounding it moves it.
        if not bool(((total > 0.5) & (total < limit)).all()):
            shift = torch.maximum(_largest_logit(x_part, weight, bias, width), at_target)
            tiles, total = _exponentials(x_part, weight, bias, shift, dx_part, room, width)
            total.clamp_min_(1)
        torch.sub(shift, at_target, out=losses[part]).add_(total.log())
        if mean_weight is not None:
            losses[part].add_(at_target - x_wide @ mean_weight - mean_bias, alpha=smoothing)

        each = (scale[part] / total).unsqueeze(1)
        if dx_part is not None:
            row = scale[part].unsqueeze(1)
            dx_part.mul_(each).addcmul_(w_target, row, value=smoothing - 1)
            if mean_weight is not None:
                dx_part.addcmul_(mean_weight, row, value=-smoothing)
        scaled = (x_wide * each).to(x.dtype)
        for left, tile in reversed(tiles):
            words = slice(left, left + tile.shape[1])
            if dw is not None:
                add_product(dw[words], tile.T, scaled, first=start == 0)
            if db is not None:
                db[words].addmv_(tile.T.to(dtype), each.squeeze(1))

    if dw is not None:
        scaled = x.to(dtype) * scale.unsqueeze(1)
        dw.index_add_(0, target, scaled, alpha=smoothing - 1)
        if smoothing:
            dw.sub_(scaled.sum(dim=0), alpha=smoothing / vocabulary)
    if db is not None:
        db.index_add_(0, target, scale, alpha=smoothing - 1)
        if smoothing:
            db.sub_(scale.sum(), alpha=smoothing / vocabulary)
    return losses, (dx, dw, db)


def _exponentials(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shift: Tensor,
    dx: Tensor | None,
    room: Tensor,
    width: int,
) -> tuple[list[tuple[int, Tensor]], Tensor]:
    """Give exp(logits − shift) in tiles of ``width`` words, and their sum over the vocabulary.

    Writes exp(logits − shift) · weight into ``dx``. The tiles are views of ``room``; where that is
    too small for all of them they share it and are not given.
    """
    rows, vocabulary = len(x), len(weight)
    keep = len(room) >= rows * vocabulary
    total = torch.zeros_like(shift)
    wide = shift.new_empty(rows * width if x.dtype != shift.dtype else 0)
    tiles = []
    column = shift.unsqueeze(1)
    for left in range(0, vocabulary, width):
        words = slice(left, min(left + width, vocabulary))
        begin, size = rows * left if keep else 0, rows * (words.stop - left)
        tile = room[begin : begin + size].view(rows, -1)
        if len(wide):
            logits = wide[:size].view(rows, -1).copy_(torch.mm(x, weight[words].T, out=tile))
            logits.sub_(column)
            total += (logits if bias is None else logits.add_(bias[words])).exp_().sum(dim=1)
            tile.copy_(logits)
        elif bias is None:
            total += torch.mm(x, weight[words].T, out=tile).sub_(column).exp_().sum(dim=1)
        else:
            torch.sub(bias[words], column, out=tile).addmm_(x, weight[words].T)
            total += tile.exp_().sum(dim=1)
        if dx is not None:
            add_product(dx, tile, weight[words], first=left == 0)
        if keep:
            tiles.append((left, tile))
    return tiles, total


def _largest_logit(x: Tensor, weight: Tensor, bias: Tensor | None, width: int) -> Tensor:
    """Give each row's largest logit, ``width`` words at a time."""
    dtype = _working_dtype(x)
    largest = x.new_full((len(x),), -torch.inf, dtype=dtype)
    for left in range(0, len(weight), width):
        tile = (x @ weight[left : left + width].T).to(dtype)
        if bias is not None:
            tile += bias[left : left + width]
        largest = torch.maximum(largest, tile.amax(dim=1))
    return largest


def _tile_width(rows: int, x: Tensor, vocabulary: int) -> int:
    """Words to a tile: a multiple of 16, so that its rows stay aligned, or all of them."""
    size = TILE_BYTES.get(x.device.type)
    if size is None:
        return vocabulary
    return min(vocabulary, max(16, size // (rows * x.element_size()) // 16 * 16))
