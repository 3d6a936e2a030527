"""Recurrent neural network language model (Mikolov et al. 2010): p(x) = ∏ p(x_t | x_{<t}).

The baseline of the family, and the judge of reverse perplexity.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvtrain.config import Count, Natural, NotNegative, OptimizerConfig, Positive, Probability
from lvtrain.data.batches import Batch
from lvtrain.modules.decoder import Decoder
from lvtrain.modules.encoder import uniform_init
from lvtrain.randomness import Key
from lvtrain.training.engine import EngineFactory
from lvtrain.training.game import Game, Metrics, SoloPlayer


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Shapes and optimiser of a language model."""

    embedding: Count = 300
    """Size of the word embeddings."""
    hidden: Count = 300
    """Size of the LSTM."""
    layers: Count = 1
    """LSTM layers."""
    dropout: Probability = 0.0
    """Dropout before each layer and before the output."""
    tied: bool = False
    """Share the embeddings with the output layer (embedding = hidden)."""
    sampled_softmax: Natural = 0
    """Draws that training estimates the vocabulary's softmax with, 0 for the whole of it: for words
    in the hundreds of thousands on a CPU. Its loss is an estimate from below."""
    init: Positive = 0.1
    """Parameters start from U(−init, init)."""
    forget_bias: NotNegative = 1.0
    """Added to the forget gates' biases at the start."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(clip=1.0))
    """Optimiser of the model."""

    def conflict(self) -> str:
        """What is wrong with the fields together, or nothing."""
        if self.tied and self.embedding != self.hidden:
            return (
                f"--tied: expected --embedding equal to --hidden, found {self.embedding} and "
                f"{self.hidden}"
            )
        return ""


class LanguageModel(nn.Module):
    """A decoder without a code."""

    def __init__(self, config: LanguageModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.decoder = Decoder(
            vocab_size, config.embedding, config.hidden, 0, config.layers, config.tied,
            sparse=config.optimizer.kind == "sgd", sampled_softmax=config.sampled_softmax,
        )  # fmt: skip
        uniform_init(self, config.init, config.forget_bias)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules of a checkpoint, by name."""
        return {"model": self}

    def sample_codes(self, n: int, key: Key, device: torch.device) -> Float[Tensor, "n 0"]:
        """Codes of size 0: the sampling of words is all there is."""
        return torch.empty(n, 0, device=device)

    def loss(self, batch: Batch, key: Key) -> tuple[Tensor, Metrics]:
        """−log p(x), a mean over words."""
        self.train()
        loss = batch.share * self.decoder.cross_entropy(
            None, batch.tokens, batch.lengths,
            dropout=key.fold("dropout"), rate=self.config.dropout, sampling=key.fold("softmax"),
        )  # fmt: skip
        return loss, {"cross_entropy": loss.detach()}

    def game(self, engine: EngineFactory) -> Game:
        """A game of one."""
        return Game(model=SoloPlayer(self.loss, engine("model", self, self.config.optimizer)))
