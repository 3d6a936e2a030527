"""Cross-entropy of a linear layer over a large vocabulary on a GPU.

The logits of a block of rows by a tile of words are one GEMM of cuBLAS into a buffer of at most
``CHUNK_BYTES``. The kernel of `cross_entropy_rows_triton.py` brings the rows' softmax up to date
with them, and writes the loss's gradient with respect to them in their place; dx = dlogits W and
dW = dlogitsᵀ x are cuBLAS again. Two ways to go over the [N, V] logits, neither of which waits for
the device:

- *by rows*: chunks of rows by the whole vocabulary, the gradients made in forward while the chunk
  is at hand (3 GEMMs; Hsu et al. 2024, Liger Kernel). Backward scales them into new tensors, as
  what is saved may be wanted again. dW is read and written once a chunk, in float32: 4·V·H bytes
  beside it where the weights are half. Worth it from about 500 rows a chunk.
- *by words*: tiles of words by all rows, once in forward for the loss and once in backward for the
  gradients (4 GEMMs). A tile's dW is finished in one product, and nothing of the vocabulary's size
  is kept between the two; dx is summed in float32, 4·N·H bytes. So go larger vocabularies.

Losses that are not reduced have their gradients made in backward, and so have float16's, which
would underflow before the loss is scaled.

A logit costs 6·H FLOPs and about five passes of its 2 or 4 bytes. At N 7,680, H 512 and V 30,000
in bfloat16 that is 0.7 TFLOP and 2.3 GB by rows, and 0.12 GB of dW for each of 5 chunks. Beside x
and W it has 161 MB in use at most: a chunk, dW in float32 and dx. Logits, log-softmax and gradient
in full are 1,382.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .cross_entropy_rows_triton import softmax_in_place
from .products import add_product

CHUNK_BYTES = 96 * 2**20
"""Most memory for logits: 1,600 rows of 30,000 words in half, enough for GEMMs to run at rate."""

LEAST_ROWS = 512
"""Rows to a chunk of the whole vocabulary under which dW's traffic costs more than a GEMM more."""

MOST_ROWS = 8192
"""Rows to a tile of words: more would make the tiles narrow and the GEMMs slow."""

ALIGN = 64
"""Elements a row of logits is padded to, so that rows are read 16 bytes at a time and by TMA."""


class Problem(NamedTuple):
    """What is asked, but for the reduction."""

    x: Tensor
    weight: Tensor
    target: Tensor
    bias: Tensor | None
    smoothing: float
    ignore_index: int


def goes_by_rows(count: int, vocabulary: int, element_size: int) -> bool:
    """Tell whether tiles of logits have all the words, there being room for enough rows of them."""
    return _rows_in_room(vocabulary, element_size) >= min(count, LEAST_ROWS)


def plan(count: int, vocabulary: int, element_size: int) -> tuple[int, int]:
    """Give the rows and the words of a tile of logits; tiles are about equal."""
    if goes_by_rows(count, vocabulary, element_size):
        chunks = ceil_div(count, _rows_in_room(vocabulary, element_size))
        return min(count, ceil_div(count, 16 * chunks) * 16), vocabulary
    rows = min(count, MOST_ROWS)
    widest = max(ALIGN, CHUNK_BYTES // (rows * element_size) // ALIGN * ALIGN)
    tiles = ceil_div(vocabulary, widest)
    return rows, min(vocabulary, _padded(ceil_div(vocabulary, tiles)))


def _rows_in_room(vocabulary: int, element_size: int) -> int:
    return CHUNK_BYTES // (_padded(vocabulary) * element_size)


def _padded(words: int) -> int:
    return ceil_div(words, ALIGN) * ALIGN


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _sweep(
    p: Problem, state: Tensor, scale: Tensor | None, loss: bool, needed: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Go over all logits: with ``loss`` fill ``state``, with ``scale`` give dx, dW, db.

    Both at once need tiles of all the words. A gradient that is not needed is an empty tensor.
    """
    count, vocabulary = len(p.x), len(p.weight)
    if count == 0:
        dx, dw, db = _gradients_like(p.x, p.weight, needed)
        return dx, dw.zero_(), db.zero_()
    rows, width = plan(count, vocabulary, p.x.element_size())
    whole = width == vocabulary
    # Sums over tiles are in float32. dW of the whole vocabulary is cast when the logits are gone.
    half = p.x.dtype != torch.float32
    dw_sum = None
    if half and needed[1] and rows < count:
        dw_sum = p.x.new_empty(width, p.x.shape[1], dtype=torch.float32)
    cast_last = dw_sum is not None and whole
    dx, dw, db = _gradients_like(p.x, p.weight, (needed[0], needed[1] and not cast_last, needed[2]))
    dx_sum = dx if whole else torch.empty_like(dx, dtype=torch.float32)
    db_sum = torch.empty_like(db, dtype=torch.float32)
    with torch.autocast(p.x.device.type, enabled=False), torch.cuda.device_of(p.x):
        _over_tiles(p, rows, width, state, scale, loss, needed, dx_sum, dw, dw_sum, db_sum)
    if dw_sum is not None and whole:
        dw = dw_sum.to(p.x.dtype)
    return dx_sum.to(p.x.dtype), dw, db_sum.to(p.x.dtype)


def _over_tiles(
    p: Problem,
    rows: int,
    width: int,
    state: Tensor,
    scale: Tensor | None,
    loss: bool,
    needed: Sequence[bool],
    dx: Tensor,
    dw: Tensor,
    dw_sum: Tensor | None,
    db: Tensor,
) -> None:
    """Fill ``state``, dx, dW and db; ``dw_sum`` is where a tile's dW is summed, if not in dW."""
    x, weight = p.x, p.weight
    count, vocabulary = len(x), len(weight)
    room = x.new_empty(rows * _padded(width))
    bias = None
    if p.bias is not None:  # padded, as the logits are
        bias = x.new_zeros(_padded(vocabulary), dtype=torch.float32)
        bias[:vocabulary] = p.bias
    for left in range(0, vocabulary, width):
        words = slice(left, min(left + width, vocabulary))
        size = words.stop - left
        tile = room[: rows * _padded(size)].view(rows, -1)
        tile[:, size:] = 0  # what new memory holds may be no number
        dw_tile = dw[words] if dw_sum is None else dw_sum[:size]
        for top in range(0, count, rows):
            part = slice(top, min(top + rows, count))
            logits = tile[: part.stop - top, :size]
            torch.mm(x[part], weight[words].T, out=logits)
            softmax_in_place(
                logits,
                None if bias is None else bias[left:],
                p.target[part],
                None if scale is None else scale[part],
                state[:, part],
                p.ignore_index,
                left,
                vocabulary,
                p.smoothing,
                loss,
            )
            if scale is not None and needed[0]:
                add_product(dx[part], logits, weight[words], first=left == 0)
            if scale is not None and needed[1]:
                add_product(dw_tile, logits.T, x[part], first=top == 0)
            if scale is not None and needed[2]:
                column = logits.sum(dim=0, dtype=torch.float32)
                db[words] = column if top == 0 else db[words] + column
        if dw_sum is not None and width < vocabulary:
            dw[words] = dw_tile


def _gradients_like(
    x: Tensor, weight: Tensor, needed: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (x.shape, weight.shape, weight.shape[:1])
    dx, dw, db = (x.new_empty(s if n else (0,)) for s, n in zip(shapes, needed, strict=True))
    return dx, dw, db


def _new_state(p: Problem) -> Tensor:
    return p.x.new_empty(3, len(p.x), dtype=torch.float32)


def _losses_of(state: Tensor) -> Tensor:
    largest, total, share = state
    return (largest - share) + total.log()


@torch.library.custom_op(
    "lvtrain::cross_entropy_by_rows",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor target, Tensor? bias, float smoothing, "
    "int ignore_index, bool mean, bool[] needed) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _by_rows(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    smoothing: float,
    ignore_index: int,
    mean: bool,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Give the loss, summed or of the mean target, and its gradients."""
    p = Problem(x, weight, target, bias, smoothing, ignore_index)
    scale, count = x.new_ones(1, dtype=torch.float32), None
    if mean:
        count = (target != ignore_index).sum()
        scale /= count.clamp(min=1)  # no target, no gradient: zero, not NaN
    state = _new_state(p)
    dx, dw, db = _sweep(p, state, scale.expand(len(x)), True, needed)
    loss = _losses_of(state).sum()
    return loss if count is None else loss / count, dx, dw, db


@_by_rows.register_fake
def _(x, weight, target, bias, smoothing, ignore_index, mean, needed):  # type: ignore[no-untyped-def]
    return x.new_empty((), dtype=torch.float32), *_gradients_like(x, weight, needed)


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.needed = inputs[-1]
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _by_rows_backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    _refuse_second_derivative()
    scaled = _scale(grad, list(ctx.saved_tensors))
    dx, dw, db = (d if n else None for d, n in zip(scaled, ctx.needed, strict=True))
    return dx, dw, None, db, None, None, None, None


_by_rows.register_autograd(_by_rows_backward, setup_context=_keep_gradients)


@torch.library.custom_op(
    "lvtrain::cross_entropy_scale",
    mutates_args=(),
    schema="(Tensor grad, Tensor[] gradients) -> Tensor[]",
)
def _scale(grad: Tensor, gradients: list[Tensor]) -> list[Tensor]:
    """Multiply new copies of ``gradients`` by ``grad``, rounding the product alone."""
    factor = grad.reshape(1).float()  # a tensor of no dimension would be cast to half first
    return [torch.mul(d, factor, out=torch.empty_like(d)) for d in gradients]


@_scale.register_fake
def _(grad, gradients):  # type: ignore[no-untyped-def]
    return [torch.empty_like(d) for d in gradients]


@torch.library.custom_op(
    "lvtrain::cross_entropy_losses",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor target, Tensor? bias, float smoothing, "
    "int ignore_index, bool[] needed) -> (Tensor, Tensor)",
)
def _losses(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    smoothing: float,
    ignore_index: int,
    needed: list[bool],
) -> tuple[Tensor, Tensor]:
    """Give each row's loss, and the state of its softmax for ``_gradients``."""
    p = Problem(x, weight, target, bias, smoothing, ignore_index)
    state = _new_state(p)
    _sweep(p, state, None, True, (False, False, False))
    return _losses_of(state), state


@_losses.register_fake
def _(x, weight, target, bias, smoothing, ignore_index, needed):  # type: ignore[no-untyped-def]
    return (
        x.new_empty(len(x), dtype=torch.float32),
        x.new_empty(3, len(x), dtype=torch.float32),
    )


def _keep_state(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, target, bias, ctx.smoothing, ctx.ignore_index, ctx.needed = inputs
    ctx.save_for_backward(x, weight, target, bias, output[1])
    ctx.mark_non_differentiable(output[1])


def _losses_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    _refuse_second_derivative()
    found = _gradients(grad, *ctx.saved_tensors, ctx.smoothing, ctx.ignore_index, ctx.needed)
    dx, dw, db = (d if n else None for d, n in zip(found, ctx.needed, strict=True))
    return dx, dw, None, db, None, None, None


_losses.register_autograd(_losses_backward, setup_context=_keep_state)


@torch.library.custom_op(
    "lvtrain::cross_entropy_gradients",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, Tensor target, Tensor? bias, Tensor state, "
    "float smoothing, int ignore_index, bool[] needed) -> (Tensor, Tensor, Tensor)",
)
def _gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    state: Tensor,
    smoothing: float,
    ignore_index: int,
    needed: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Give dx, dW, db of the losses weighted by ``grad``, the logits made again."""
    p = Problem(x, weight, target, bias, smoothing, ignore_index)
    return _sweep(p, state, grad, False, needed)


@_gradients.register_fake
def _(grad, x, weight, target, bias, state, smoothing, ignore_index, needed):  # type: ignore[no-untyped-def]
    return _gradients_like(x, weight, needed)


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError("linear_cross_entropy can be differentiated once only")


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    """Give what ``cross_entropy.linear_cross_entropy`` does, in float32; arguments checked there.

    A target out of range makes its row's loss and gradients NaN.
    """
    grad = torch.is_grad_enabled()
    needed = [grad and t is not None and t.requires_grad for t in (x, weight, bias)]
    once = goes_by_rows(len(x), len(weight), x.element_size()) and x.dtype != torch.float16
    if reduction != "none" and once and any(needed):
        mean = reduction == "mean"
        given = x, weight, target, bias, label_smoothing, ignore_index
        return _by_rows(*given, mean, needed)[0]
    losses, _ = _losses(x, weight, target, bias, label_smoothing, ignore_index, needed)
    if reduction == "none":
        return losses
    return losses.sum() / (target != ignore_index).sum() if reduction == "mean" else losses.sum()
