"""Dropout whose mask follows from a key: row by row the same on any number of ranks."""

from __future__ import annotations

from torch import Tensor

from lvtrain.randomness import Key


def dropped(x: Tensor, key: Key | None, rate: float, locked: bool = False) -> Tensor:
    """Inverted dropout (Srivastava et al. 2014) of x [B, T, …]; the identity without a key.

    `locked` drops the same features at every step of a row (Gal & Ghahramani 2016).
    """
    if key is None or rate == 0.0:
        return x
    shape = (len(x), 1, *x.shape[2:]) if locked else x.shape
    keep = (key.uniform(*shape, device=x.device) >= rate).to(x.dtype)
    return x * keep.mul_(1.0 / (1.0 - rate))
