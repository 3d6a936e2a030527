"""Draws from a seed that lies on the device: Philox4x32-10 (Salmon et al. 2011), one kernel.

The numbers of row b and column j follow from the seed, b and j alone, so that a rank draws its rows
of a global batch without drawing the others'; and since the seed is read by the kernel, work that
was recorded as a CUDA graph draws anew whenever the seed is another.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .compiled import Variant
from .reparameterize_triton import box_muller, philox

BLOCK = 1024


@triton.jit(do_not_specialize=["count", "first", "step"])
def draw(seed, out, count, width, first, step, NORMAL: tl.constexpr, BLOCK: tl.constexpr):
    """out[i, j] of row first + i · step of the stream: normal, or in [0, 1)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row, column = first + at // width * step, at % width
    a, b, _, _ = philox(tl.load(seed), row, column)
    if NORMAL:
        value, _ = box_muller(a, b)
    else:
        # 24 bits: every value is a float32 below 1.
        value = (a >> 8).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
    tl.store(out + at, value, mask=at < count)


def drawn(seed: Tensor, shape: tuple[int, ...], normal: bool, rank: int, world: int) -> Tensor:
    """Draws of shape [B, …] for rows rank, rank + world, … of the stream of ``seed``."""
    out = torch.empty(shape, device=seed.device)
    if count := out.numel():
        width = max(1, count // shape[0])
        grid = (triton.cdiv(count, BLOCK),)
        with torch.cuda.device_of(seed):
            draw[grid](
                seed, out, count, width, rank, world, NORMAL=normal, BLOCK=BLOCK, num_warps=4
            )
    return out


def variants() -> list[Variant]:
    """The kernel as it is launched, for the record of what it takes of a chip."""
    signature = {"seed": "*i64", "out": "*fp32", "count": "i32", "width": "i32", "first": "i32",
                 "step": "i32"}  # fmt: skip
    found = []
    for normal in (True, False):
        constants: dict[str, Any] = {"NORMAL": normal, "BLOCK": BLOCK}
        name = f"noise/{'normal' if normal else 'uniform'}"
        found.append(Variant(name, draw, signature, constants, num_warps=4, num_stages=3))
    return found
