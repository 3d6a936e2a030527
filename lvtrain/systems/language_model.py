"""Recurrent neural network language model (Mikolov et al. 2010): p(x) = ∏ p(x_t | x_{<t}).

The baseline of the family, and the judge of reverse perplexity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvtrain.config import OptimizerConfig
from lvtrain.data.batches import Batch
from lvtrain.modules.decoder import Decoder
from lvtrain.modules.encoder import uniform_init
from lvtrain.randomness import Key
from lvtrain.training.engine import Engine, EngineFactory
from lvtrain.training.game import Game, Metrics, Tensors


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Shapes and optimiser of a language model."""

    embedding: int = 300
    """Size of the word embeddings."""
    hidden: int = 300
    """Size of the LSTM."""
    layers: int = 1
    """LSTM layers."""
    dropout: float = 0.0
    """Dropout before each layer and before the output."""
    tied: bool = False
    """Share the embeddings with the output layer (embedding = hidden)."""
    init: float = 0.1
    """Parameters start from U(−init, init)."""
    forget_bias: float = 1.0
    """Added to the forget gates' biases at the start."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(clip=1.0))
    """Optimiser."""


class LanguageModel(nn.Module):
    """A decoder without a code."""

    def __init__(self, config: LanguageModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.decoder = Decoder(
            vocab_size, config.embedding, config.hidden, 0, config.layers, config.tied
        )
        uniform_init(self, config.init, config.forget_bias)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules of a checkpoint, by name."""
        return {"model": self}

    def sample_codes(self, n: int, key: Key, device: torch.device) -> Float[Tensor, "n 0"]:
        """Codes of size 0: the sampling of words is all there is."""
        return torch.empty(n, 0, device=device)

    def game(self, engine: EngineFactory) -> Game:
        """A game of one."""
        player = LanguageModelPlayer(self, engine("model", self, self.config.optimizer))
        return Game(model=player)


class LanguageModelPlayer:
    """The language model as a player that proposes nothing."""

    def __init__(self, model: LanguageModel, engine: Engine) -> None:
        self.model, self.engine = model, engine
        self.engines: Mapping[str, Engine] = {"model": engine}

    def propose(self, batch: Batch, key: Key) -> Tensors:
        self._batch, self._key = batch, key
        return {}

    def show(self, batches: Sequence[Batch], key: Key) -> list[Tensors]:
        return [{} for _ in batches]

    def decode(self) -> None:
        self.model.train()
        batch, rate = self._batch, self.model.config.dropout
        dropout = self._key.fold("dropout").generator(batch.tokens.device) if rate else None
        self._loss = self.model.decoder.cross_entropy(
            None, batch.tokens, batch.lengths, dropout=dropout, rate=rate
        )

    def learn(self, answer: Tensors | None) -> Metrics:
        self.engine.backward(self._loss)
        norm = self.engine.step(self._key.step)
        return {"cross_entropy": self._loss.item(), "gradient_norm": norm}
