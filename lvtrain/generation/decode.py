"""Codes to sentences: greedy decoding and sampling, in large batches whose finished rows leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lvtrain.config import Count, Natural, NotNegative, check
from lvtrain.data.tokenizer import BOS, EOS, PAD
from lvtrain.modules.decoder import Decoder
from lvtrain.modules.sampling import drawn
from lvtrain.randomness import Key

MOST_LOGITS = 2**27
"""Of a batch at a step: 512 MiB."""


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How codes become words. Raises UserError, naming the flag, for a value that cannot be."""

    max_words: Count = 50
    """Words after which a sentence is cut."""
    temperature: NotNegative = 0.0
    """0 takes the likeliest word; otherwise words are drawn from softmax(logits / temperature)."""
    top_k: Natural = 0
    """Draw from the k likeliest words only; 0 draws from all."""
    code_noise: NotNegative = 0.0
    """Standard deviation of Gaussian noise added to codes before they are decoded; the
    autoencoder's own `noise` makes the decoder read what it was trained on."""
    batch_size: Count = 1024
    """Sentences decoded at a time; fewer where the vocabulary is so large that their logits would
    take more than 512 MiB."""

    def __post_init__(self) -> None:
        check(self)

    def conflict(self) -> str | None:
        """What is wrong with the fields together."""
        if self.top_k and not self.temperature:
            return (
                f"--top-k {self.top_k}: expected with a --temperature above 0, without which words "
                "are not drawn"
            )
        return None


class Memory(Protocol):
    """What decoding carries from word to word."""

    def keep(self, rows: Tensor) -> Self:
        """The memory of some rows only: finished sentences leave the batch."""
        ...


Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""Last words [B] and memory to logits of the next [B, V] and the new memory."""
Uniform = Callable[[Tensor, int], Tensor]
"""U[0, 1) draws [N, 1] for the rows [N] that are not finished, and the place of the next word."""


@torch.inference_mode()
def decode(
    decoder: Decoder, codes: Float[Tensor, "N C"], config: DecodeConfig, key: Key
) -> list[list[int]]:
    """The words of each code's sentence, as ids without the sentence end: x ~ p(x | c + σ ε) with
    ε ~ N(0, I) and σ the code noise.

    A pure function of its arguments. The noise on a code follows from its row among all codes; the
    draws of its words follow from the batch that it falls into.
    """
    if config.code_noise and codes.shape[1]:
        noise = key.fold("code noise").normal(*codes.shape, device=codes.device)
        codes = codes + (config.code_noise * noise).to(codes.dtype)
    sentences: list[list[int]] = []
    most = max(1, min(config.batch_size, MOST_LOGITS // len(decoder.output)))
    for start in range(0, len(codes), most):
        part = codes[start : start + most]
        memory = decoder.start(part if part.shape[1] else None, len(part))
        limits = torch.full((len(part),), config.max_words, device=part.device)
        uniform = _by_batch(key.fold(start), part.device) if config.temperature else None
        sentences += write(decoder.step, memory, limits, config, uniform)
    return sentences


def _by_batch(key: Key, device: torch.device) -> Uniform:
    generator = key.generator(device)

    def uniform(rows: Tensor, place: int) -> Tensor:
        return torch.rand(len(rows), 1, generator=generator, device=device)

    return uniform


def write(
    step: Step,
    memory: Memory,
    limits: Int64[Tensor, " B"],
    config: DecodeConfig,
    uniform: Uniform | None = None,
) -> list[list[int]]:
    """The words that a decoder writes from a memory, a row each and no more than its limit: drawn
    by the temperature and top-k of `config`, the likeliest without `uniform`."""
    rows, device = len(limits), limits.device
    words = torch.full((rows,), BOS, device=device)
    columns: list[Tensor] = []
    alive = torch.arange(rows, device=device)
    for _ in range(int(limits.max())):
        logits, memory = step(words, memory)
        logits[:, (PAD, BOS)] = float("-inf")
        words = _draw(logits, config, uniform(alive, len(columns))) if uniform else logits.argmax(1)
        running = (words != EOS) & (limits > len(columns))
        if not running.all():
            rest = running.nonzero().squeeze(1)
            alive, words, memory = alive[rest], words[rest], memory.keep(rest)
            limits = limits[rest]
        if not len(alive):
            break
        columns.append(torch.full((rows,), PAD, device=device).index_copy_(0, alive, words))
    written = torch.stack(columns, 1) if columns else torch.full((rows, 0), PAD)
    lengths = (written != PAD).sum(1).tolist()
    return [row[:n] for row, n in zip(written.tolist(), lengths, strict=True)]


def _draw(
    logits: Float[Tensor, "B V"], config: DecodeConfig, uniform: Float[Tensor, "B 1"]
) -> Tensor:
    if config.top_k:
        least = logits.topk(min(config.top_k, logits.shape[1]), dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    # The largest becomes 0, which stays 0 however low the temperature is.
    logits = logits - logits.amax(1, keepdim=True)
    temperature = max(config.temperature, torch.finfo(logits.dtype).tiny)
    return drawn(logits / temperature, uniform)
