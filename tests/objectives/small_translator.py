"""A translator of a few hundred parameters, for what is done with translators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvtrain.modules.decoder import Decoder, Memory, shifted
from lvtrain.modules.encoder import uniform_init


@dataclass
class Sources:
    codes: Tensor

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.codes[rows])


@dataclass
class State:
    memory: Memory

    def select(self, rows: Tensor) -> Self:
        return type(self)(self.memory.keep(rows))


class SmallTranslator(nn.Module):
    """A bag of source words, and an LSTM that reads it at each step."""

    def __init__(self, vocab_size: int, hidden: int = 8, init: float = 1.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, hidden)
        self.decoder = Decoder(vocab_size, hidden, hidden, hidden)
        uniform_init(self, init)

    def encode(self, sources: Tensor, lengths: Tensor) -> Sources:
        real = torch.arange(sources.shape[1], device=sources.device) < lengths[:, None]
        return Sources((self.embedding(sources) * real[..., None]).sum(1) / lengths[:, None])

    def start(self, memory: Sources) -> State:
        return State(self.decoder.start(memory.codes, len(memory.codes)))

    def step(self, memory: Sources, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        logits, after = self.decoder.step(tokens, state.memory)
        return logits, State(after)

    def logits(self, memory: Sources, targets: Tensor) -> Tensor:
        lengths = (targets != 0).sum(1)
        y = self.decoder.states(memory.codes, shifted(targets), lengths)
        return F.linear(y, self.decoder.output, self.decoder.output_bias)

    def nll(self, memory: Sources, targets: Tensor) -> Tensor:
        """−log G of each word; 0 in the padding."""
        logits = self.logits(memory, targets)
        logits[..., :2] = float("-inf")
        nll = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=0)
        return nll
