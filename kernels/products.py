"""Products of halves whose sums are float32, where the device has them."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def add_product(out: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """Set ``out`` to a b where ``first``, else add it; ``out`` may be float32 where they are half.

    Where torch cannot add halves in float32, their product is rounded before it is added.
    """
    if out.dtype == a.dtype:
        torch.addmm(out, a, b, beta=0 if first else 1, out=out)
    elif _adds_halves_in_float(a.device, a.dtype):
        torch.addmm(out, a, b, out_dtype=out.dtype, beta=0 if first else 1, out=out)
    elif first:
        out.copy_(torch.mm(a, b))
    else:
        out.add_(torch.mm(a, b))


@cache
def _adds_halves_in_float(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether ``torch.addmm`` adds products of ``dtype`` to float32 on ``device``."""
    out = torch.zeros(16, 16, device=device)
    a = torch.zeros(16, 16, device=device, dtype=dtype)
    try:
        torch.addmm(out, a, a, out_dtype=torch.float32, out=out)
    except (RuntimeError, TypeError):  # what it raises where it has no such overload or kernel
        return False
    return True


def multiplies_bfloat16(x: Tensor) -> bool:
    """Tell whether x is bfloat16 on a processor that has instructions to multiply it."""
    return x.dtype == torch.bfloat16 and (x.device.type != "cpu" or _cpu_multiplies_bfloat16())


@cache
def _cpu_multiplies_bfloat16() -> bool:
    named = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private: asked for by name
    return any(getattr(torch.cpu, name, bool)() for name in named)
