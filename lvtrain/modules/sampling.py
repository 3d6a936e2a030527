"""Draws from softmax distributions over words."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def drawn(logits: Float[Tensor, "N V"], uniform: Float[Tensor, "N 1"]) -> Int64[Tensor, " N"]:
    """A word of each row from softmax(logits), by U[0, 1) draws.

    Inverting the cumulated distribution takes one random number a row instead of one a word.
    """
    total = logits.softmax(1).cumsum(1)
    chosen = torch.searchsorted(total, uniform * total[:, -1:], right=True).squeeze(1)
    return chosen.clamp_max(logits.shape[1] - 1)
