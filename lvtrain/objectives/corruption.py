"""Noise on words: what a denoising autoencoder undoes, and what a VAE's decoder goes without."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from lvtrain.config import NotNegative, Probability
from lvtrain.data.tokenizer import EOS, PAD, UNK
from lvtrain.randomness import Key


@dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """Noise on the encoder's input (Hill et al. 2016; Artetxe et al. 2018; Lample et al. 2018)."""

    drop: Probability = 0.0
    """Probability that a word is left out."""
    blank: Probability = 0.0
    """Probability that a word becomes <unk>."""
    swap: Probability = 0.0
    """Probability that a pair of neighbours changes places."""
    shuffle: NotNegative = 0.0
    """Words move less than this many places (local shuffle)."""

    @property
    def active(self) -> bool:
        return bool(self.drop or self.blank or self.swap or self.shuffle)


def corrupt(
    tokens: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"], config: CorruptionConfig, key: Key
) -> tuple[Int64[Tensor, "B T"], Int64[Tensor, " B"]]:
    """The sentences with noise, and their new lengths; the sentence end stays last.

    Every kind of noise is a change of the words' sort keys or identities, so a batch takes a few
    tensor operations. A sentence never loses all its words.
    """
    rows, width = tokens.shape
    device = tokens.device
    place = torch.arange(width, device=device, dtype=torch.float32).expand(rows, width)
    words = place < (lengths[:, None] - 1)
    if config.blank:
        blank = key.fold("blank").uniform(rows, width, device=device) < config.blank
        tokens = tokens.masked_fill(blank & words, UNK)
    order = place
    if config.swap:
        # An even or odd pairing of neighbours, chosen for each sentence; each pair swaps or not.
        start = (key.fold("pairing").uniform(rows, 1, device=device) < 0.5).long()
        column = torch.arange(width, device=device)
        partner = ((column - start) ^ 1) + start
        inside = (partner >= 0) & (partner < (lengths[:, None] - 1)) & words
        draw = key.fold("swap").uniform(rows, width, device=device)
        first = torch.minimum(column.expand_as(partner), partner).clamp_min(0)
        swapped = inside & (draw.gather(1, first) < config.swap)
        order = torch.where(swapped, partner.float(), order)
    if config.shuffle:
        jitter = key.fold("shuffle").uniform(rows, width, device=device) * config.shuffle
        order = torch.where(words, order + jitter, order)
    dropped = torch.zeros_like(words)
    if config.drop:
        draw = key.fold("drop").uniform(rows, width, device=device).masked_fill(~words, -1.0)
        dropped = words & (draw < config.drop) & (draw < draw.amax(1, keepdim=True))
    # Words in their new order, then the sentence end, then what was dropped and the padding.
    end = place == (lengths[:, None] - 1)
    order = order.masked_fill(end, width + config.shuffle)
    order = order.masked_fill(dropped | (place > (lengths[:, None] - 1)), float("inf"))
    tokens = tokens.gather(1, order.argsort(dim=1, stable=True))
    lengths = lengths - dropped.sum(1)
    beyond = torch.arange(width, device=device) >= lengths[:, None]
    return tokens.masked_fill(beyond, PAD), lengths


def drop_words(inputs: Int64[Tensor, "B T"], rate: float, key: Key) -> Int64[Tensor, "B T"]:
    """Word dropout (Bowman et al. 2016): the decoder reads <unk> for a share `rate` of its words,
    so that it must ask the code for them. The sentence start stays."""
    if not rate:
        return inputs
    drop = key.uniform(*inputs.shape, device=inputs.device) < rate
    drop[:, 0] = False
    return inputs.masked_fill(drop & (inputs != PAD) & (inputs != EOS), UNK)
