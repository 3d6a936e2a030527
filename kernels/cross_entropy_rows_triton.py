"""The row kernel of the cross-entropy over a vocabulary: softmax, loss and gradient in Triton.

A program takes a row, and reads it once for the loss and once more for the gradient, when the row
(60 KB of 30,000 words in half) is still in the chip's cache.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .compiled import Variant

BLOCK = 2048
"""Words a program holds at once: 8 to each of 256 threads, one load of 16 bytes in half."""

WARPS = 8

_RUNTIME = ["target_stride", "scale_stride", "ignore_index", "plane", "left", "width", "vocabulary"]


@triton.jit
def _load(logits, bias, at, stride, width, BIASED: tl.constexpr):
    """Words ``at`` of a row in float32, −∞ beyond the tile's."""
    # The mask is of the padded row, so that the load stays whole.
    z = tl.load(logits + at, mask=at < stride, other=0.0).to(tl.float32)
    if BIASED:
        z += tl.load(bias + at, mask=at < stride, other=0.0)
    return tl.where(at < width, z, float("-inf"))


@triton.jit(do_not_specialize=_RUNTIME)
def softmax_rows(
    logits,  # [rows, stride], the tile's words first; with GRADIENT overwritten
    bias,  # [stride] float32, the tile's; any pointer where not BIASED
    target,
    scale,  # what the loss of each row is multiplied by
    state,  # [3, plane] float32: the rows' largest logit, Σ exp(logit − largest), target's share
    stride,
    target_stride,
    scale_stride,
    ignore_index,
    plane,
    left,  # first word of the tile
    width,  # words of the tile
    vocabulary,
    smoothing,
    BIASED: tl.constexpr,
    SMOOTHED: tl.constexpr,
    FIRST: tl.constexpr,  # the tile is the row's first
    LOSS: tl.constexpr,  # bring the state up to date with this tile
    GRADIENT: tl.constexpr,  # write the gradient, the state being that of the whole row
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * stride
    state += row
    word = tl.load(target + row * target_stride)
    real = word != ignore_index
    valid = (word >= 0) & (word < vocabulary)
    here = tl.where(word < left + width, word - left, -1)  # a block may reach into the next tile
    columns = tl.arange(0, BLOCK)
    uniform = smoothing / vocabulary

    if LOSS:
        largest = tl.full((), 0.0, tl.float32)
        total = tl.full((), 1.0, tl.float32)
        share = tl.full((), 0.0, tl.float32)
        if real:
            # Each lane keeps its own maximum and sum: one exponential a word and no barrier.
            lane_largest = tl.full((BLOCK,), -3.0e38, tl.float32)
            lane_total = tl.zeros((BLOCK,), tl.float32)
            lane_share = tl.zeros((BLOCK,), tl.float32)
            for start in range(0, width, BLOCK):
                at = start + columns
                z = _load(logits, bias, at, stride, width, BIASED)
                of_target = tl.where(at == here, z, 0.0)
                if SMOOTHED:
                    of_target *= 1.0 - smoothing
                    of_target += tl.where(at < width, z, 0.0) * uniform
                lane_share += of_target
                over = z - lane_largest
                e = tl.exp(-tl.abs(over))
                lane_total = tl.where(over > 0, lane_total * e + 1.0, lane_total + e)
                lane_largest = tl.maximum(lane_largest, z)
            largest = tl.max(lane_largest, axis=0)
            total = tl.sum(lane_total * tl.exp(lane_largest - largest), axis=0)
            share = tl.sum(lane_share, axis=0)
            share = tl.where(valid, share, float("nan"))
            if not FIRST:
                before = tl.load(state)
                most = tl.maximum(before, largest)
                total *= tl.exp(largest - most)
                total += tl.load(state + plane) * tl.exp(before - most)
                largest = most
                share += tl.load(state + 2 * plane)
        tl.store(state, largest)
        tl.store(state + plane, total)
        tl.store(state + 2 * plane, share)

    if GRADIENT:
        if not LOSS:
            largest = tl.load(state)
            total = tl.load(state + plane)
        weight = tl.load(scale + row * scale_stride).to(tl.float32)
        weight = tl.where(valid, weight, float("nan"))
        each = weight / total
        at_target = weight * (1.0 - smoothing)
        for start in range(0, width, BLOCK):
            at = start + columns
            g = tl.zeros((BLOCK,), tl.float32)
            if real:
                z = _load(logits, bias, at, stride, width, BIASED)
                g = tl.exp(z - largest) * each - tl.where(at == here, at_target, 0.0)
                if SMOOTHED:
                    g -= weight * uniform
            tl.store(logits + at, g.to(logits.dtype.element_ty), mask=at < stride)


def softmax_in_place(
    logits: Tensor,
    bias: Tensor | None,
    target: Tensor,
    scale: Tensor | None,
    state: Tensor,
    ignore_index: int,
    left: int,
    vocabulary: int,
    smoothing: float,
    loss: bool,
) -> None:
    """Bring ``state`` [3, N] up to date with a tile of logits [N, W], words ``left`` and on.

    Its rows are the largest logit, Σ exp(logit − largest) and the share (1 − s) logit_target +
    s mean(logit), so that the loss is log Σ + largest − share; 0, 1 and 0 where the target is
    ``ignore_index``, NaN for the share where it is not of the vocabulary. That is done where
    ``loss``. With ``scale`` [N] the gradient of Σ scale · loss is then written over the logits,
    and ``state`` has to be of all words: ``loss`` must be False or the tile the whole vocabulary.

    The logits' rows are padded to a multiple of 16 elements, and ``bias`` (float32) likewise.
    """
    rows, width = logits.shape
    softmax_rows[(rows,)](
        logits,
        state if bias is None else bias,
        target,
        state if scale is None else scale,
        state,
        logits.stride(0),
        target.stride(0),
        0 if scale is None else scale.stride(0),
        ignore_index,
        state.stride(0),
        left,
        width,
        vocabulary,
        smoothing,
        BIASED=bias is not None,
        SMOOTHED=smoothing != 0,
        FIRST=left == 0,
        LOSS=loss,
        GRADIENT=scale is not None,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


def variants() -> list[Variant]:
    """The kernel as each way launches it, with bias and smoothing, which take the most.

    float16 compiles as bfloat16 does.
    """
    ways = (
        ("losses", {"LOSS": True, "GRADIENT": False}),
        ("gradients", {"LOSS": False, "GRADIENT": True}),
        ("by rows", {"LOSS": True, "GRADIENT": True}),
    )
    pointers = {"bias": "*fp32", "target": "*i64", "scale": "*fp32", "state": "*fp32"}
    integers = dict.fromkeys(_RUNTIME, "i32")
    rest = {**pointers, **integers, "stride": "i32:16", "smoothing": "fp32"}
    return [
        Variant(
            f"linear_cross_entropy/{way} {dtype}",
            softmax_rows,
            {"logits": f"*{dtype}", **rest},
            {"BIASED": True, "SMOOTHED": True, "FIRST": way == "by rows", "BLOCK": BLOCK, **flags},
            WARPS,
            num_stages=3,
        )
        for dtype in ("fp32", "bf16")
        for way, flags in ways
    ]
