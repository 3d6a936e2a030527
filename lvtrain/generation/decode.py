"""Codes to sentences: greedy decoding and sampling, in large batches whose finished rows leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lvtrain.data.tokenizer import BOS, EOS, PAD
from lvtrain.modules.decoder import Decoder
from lvtrain.randomness import Key


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How words are chosen."""

    max_words: int = 50
    """Words after which a sentence is cut."""
    temperature: float = 0.0
    """0 takes the likeliest word; otherwise words are drawn from softmax(logits / temperature)."""
    top_k: int = 0
    """Draw from the k likeliest words only; 0 draws from all."""
    batch_size: int = 1024
    """Sentences decoded at a time."""


@torch.inference_mode()
def decode(
    decoder: Decoder, codes: Float[Tensor, "N C"], config: DecodeConfig, key: Key
) -> list[list[int]]:
    """The words of each code's sentence, as ids without the sentence end.

    A pure function of its arguments; which batch a code falls into decides its draws.
    """
    sentences: list[list[int]] = []
    for start in range(0, len(codes), config.batch_size):
        part = codes[start : start + config.batch_size]
        sentences += _decode_batch(decoder, part, config, key.fold(start))
    return sentences


def _decode_batch(
    decoder: Decoder, codes: Float[Tensor, "B C"], config: DecodeConfig, key: Key
) -> list[list[int]]:
    rows, device = len(codes), codes.device
    memory = decoder.start(codes if codes.shape[1] else None, rows)
    words = torch.full((rows,), BOS, device=device)
    written = torch.full((rows, config.max_words), PAD, device=device)
    alive = torch.arange(rows, device=device)
    generator = key.generator(device) if config.temperature else None
    for t in range(config.max_words):
        logits, memory = decoder.step(words, memory)
        logits[:, (PAD, BOS)] = float("-inf")
        words = _choose(logits, config, generator)
        running = words != EOS
        if not running.all():
            rest = running.nonzero().squeeze(1)
            alive, words, memory = alive[rest], words[rest], memory.keep(rest)
        written[alive, t] = words
        if not len(alive):
            break
    lengths = (written != PAD).sum(1).tolist()
    return [row[:n] for row, n in zip(written.tolist(), lengths, strict=True)]


def _choose(
    logits: Float[Tensor, "B V"], config: DecodeConfig, generator: torch.Generator | None
) -> Tensor:
    if generator is None:
        return logits.argmax(1)
    if config.top_k:
        least = logits.topk(min(config.top_k, logits.shape[1]), dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    # Inverting the cumulated distribution takes one random number a row instead of one a word.
    total = (logits / config.temperature).softmax(1).cumsum(1)
    uniform = torch.rand(len(logits), 1, generator=generator, device=logits.device)
    chosen = torch.searchsorted(total, uniform * total[:, -1:], right=True).squeeze(1)
    return chosen.clamp_max(logits.shape[1] - 1)
