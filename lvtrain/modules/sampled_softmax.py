"""Cross-entropy over a vocabulary too large to be read at every step, by importance sampling.

Jean et al., "On using very large target vocabulary for neural machine translation", ACL 2015;
Bengio & Senécal, "Adaptive importance sampling to accelerate training of a neural probabilistic
language model", 2008. The softmax's denominator is estimated from some words besides the target:

    S     K draws from q(v) = log((v + 2) / (v + 1)) / log(V + 1), each word once
    π_v   = 1 − (1 − q(v))ᴷ, the probability that v is in S
    Ẑ     = exp(o_t) + Σ_{v ∈ S, v ≠ t} exp(o_v) / π_v           o = W x + b, t the target
    loss  = log Ẑ − o_t

q is log-uniform, Zipf's law for words numbered from the most frequent, as a word-level vocabulary
is; the most frequent are nearly always in S and count for what they are.

Bias: E Ẑ = Z, but by Jensen's inequality E log Ẑ ≤ log Z, short of it by about Var Ẑ / 2Z². So the
loss is too small, and its gradient off, by a share that falls as 1 / K and with training, as the
target's own term, which is exact, becomes most of Z. Models are measured by the whole softmax.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from lvtrain.randomness import Key


def sampled_cross_entropy(
    x: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    target: Int64[Tensor, " N"],
    bias: Float[Tensor, " V"],
    samples: int,
    key: Key,
    sparse: bool = False,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """−log p(target | x) with the denominator estimated from `samples` draws, in memory of
    N × `samples` numbers a few times over.

    The draws are those of `key`, the same for all rows, ranks and parts of a batch. With `sparse`
    the gradient of `weight` has the rows of the words drawn and of the targets alone. A target of
    `ignore_index` costs nothing and does not count in the mean.
    """
    words, log_inclusion = proposed(len(weight), samples, key, x.device)
    real = target != ignore_index
    target = target.clamp_min(0)
    # One look-up for both, so that there is one gradient of the table.
    rows = F.embedding(torch.cat([words, target]), weight, sparse=sparse)
    of_words, of_targets = rows.split([len(words), len(target)])
    # Not indexed: of many words, the gradients of that would be added in any order.
    correction = bias.index_select(0, words) - log_inclusion.to(bias.dtype)
    logits = F.linear(x, of_words).to(x.dtype).add_(correction)
    # The target's own term is added once, in full. Not −∞, whose sum with nothing else has no
    # gradient.
    hit = words == target.unsqueeze(1)
    logits.masked_fill_(hit, torch.finfo(logits.dtype).min / 2)
    at_target = (x * of_targets).sum(dim=1) + bias.index_select(0, target)
    losses = F.softplus(logits.logsumexp(dim=1) - at_target).masked_fill(~real, 0)
    if reduction == "none":
        return losses
    return losses.sum() / real.sum() if reduction == "mean" else losses.sum()


def proposed(
    vocab_size: int, samples: int, key: Key, device: torch.device
) -> tuple[Int64[Tensor, " K"], Float64[Tensor, " K"]]:
    """The different words among so many draws, ascending, and log π of each.

    On a GPU, where their number would have to be waited for, a word drawn again is still there,
    with log π = ∞.
    """
    span = math.log1p(vocab_size)
    # Not aligned to rows: every rank draws the same. Two draws of 24 bits each, since one does not
    # tell the rarest of a million words apart.
    draws = replace(key, rank=0, world=1).uniform(samples, 2, device=device).double()
    uniform = draws[:, 0] + draws[:, 1] * 2.0**-24
    words = (uniform * span).exp().long().sub_(1).clamp_(0, vocab_size - 1)
    if device.type == "cpu":
        words, again = words.unique(), None
    else:
        words, _ = words.sort()
        again = torch.cat([words.new_zeros(1, dtype=torch.bool), words[1:] == words[:-1]])
    probability = torch.log1p(1 / (words + 1).double()) / span
    log_inclusion = torch.log(-torch.expm1(samples * torch.log1p(-probability)))
    if again is not None:
        log_inclusion = log_inclusion.masked_fill(again, math.inf)
    return words, log_inclusion
