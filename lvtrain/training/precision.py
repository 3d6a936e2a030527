"""The precision of an iteration's products; parameters, losses and optimisers are always float32.

fp32   as they are.
tf32   factors rounded to 10 bits of mantissa inside the GPU's matrix units, sums in float32.
bf16   autocast (Micikevicius et al. 2018, arXiv 1710.03740, without its loss scale, which the
       exponent of bfloat16 makes needless): factors and what layers hand each other have 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lvtrain.config import Precision


@contextmanager
def products(precision: Precision, device: str) -> Iterator[None]:
    """Compute the products inside on `device` in `precision`."""
    if precision == "fp32":
        yield
    elif precision == "tf32":
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
    else:
        # Without the cache of rounded weights: the critic's change several times an iteration.
        with torch.autocast(device, torch.bfloat16, cache_enabled=False):
            yield
