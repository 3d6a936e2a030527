"""Sentence BLEU of a batch, on ids: a reward for every sampled translation at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lvtrain.data.tokenizer import UNK

ORDER = 4


def sentence_bleu(
    hypotheses: Int[Tensor, "M L"],
    hypothesis_lengths: Int[Tensor, " M"],
    references: Int[Tensor, "M R"],
    reference_lengths: Int[Tensor, " M"],
) -> Float[Tensor, " M"]:
    """BLEU-4 of each row against its one reference, from 0 to 1 (Papineni et al. 2002).

        min(1, exp(1 − r/h)) · (∏ p_n)^{1/N},   p_n = clipped matches / n-grams of the hypothesis

    The k-th order without a match has 1/2ᵏ of one (Chen & Cherry 2014, method 3), and orders longer
    than the hypothesis are left out: sacrebleu's `sentence_bleu`. A row without a match is 0. An
    unknown word of a reference is one that no hypothesis has, `<unk>` least of all.

    An n-gram is clipped where it stands: its k-th occurrence in the hypothesis matches if the
    reference has it k times. So all counting is of pairs of places with equal n-grams, and n-grams
    are equal where their first words and the (n − 1)-grams after these are.
    """
    own, reference = (_real(hypotheses, hypothesis_lengths), _real(references, reference_lengths))
    reference = reference & (F.pad(references, (0, ORDER - 1)) != UNK)
    words = F.pad(hypotheses, (0, ORDER - 1))
    word_self = (words[:, :, None] == words[:, None]) & own[:, :, None]
    word_both = (words[:, :, None] == F.pad(references, (0, ORDER - 1))[:, None]) & own[:, :, None]
    # Places beyond the end are equal to none: [M, L, L] and [M, L, R].
    same_self = word_self = word_self & own[:, None]
    same_both = word_both = word_both & reference[:, None]
    logs = torch.zeros(len(hypotheses), device=hypotheses.device)
    orders, missed, matched = (torch.zeros_like(logs) for _ in range(3))
    for order in range(1, ORDER + 1):
        if order > 1:
            same_self = word_self[:, : 1 - order, : 1 - order] & same_self[:, 1:, 1:]
            same_both = word_both[:, : 1 - order, : 1 - order] & same_both[:, 1:, 1:]
        earlier = same_self.tril(-1).sum(2)
        matches = (earlier < same_both.sum(2)).sum(1)
        grams = (hypothesis_lengths - (order - 1)).clamp_min(0)
        missed = missed + ((grams > 0) & (matches == 0))
        credit = torch.where(matches > 0, matches.to(logs.dtype), 0.5**missed)
        logs = logs + torch.where(grams > 0, (credit / grams.clamp_min(1)).log(), 0.0)
        orders, matched = orders + (grams > 0), matched + matches
    brevity = (1 - reference_lengths / hypothesis_lengths.clamp_min(1)).clamp_max(0)
    return torch.where(matched > 0, (brevity + logs / orders.clamp_min(1)).exp(), 0.0)


def _real(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Mask of the places that hold words, with room for an n-gram that starts at the last."""
    width = tokens.shape[1] + ORDER - 1
    return torch.arange(width, device=tokens.device) < lengths[:, None]
