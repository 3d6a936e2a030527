"""Autoencoder and denoising autoencoder: the text side of every latent game.

c = h_T / ‖h_T‖₂ from an LSTM encoder; the decoder is an LSTM that reads the code at every step;
the loss is −log p(x | c + ε), a mean over words, with Gaussian noise ε on the code (Zhao et al.
2018). The denoising autoencoder encodes a corrupted sentence and decodes the original one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lvtrain.config import (
    Count,
    Natural,
    NotNegative,
    OptimizerConfig,
    Positive,
    Probability,
    Share,
)
from lvtrain.data.batches import Batch
from lvtrain.data.tokenizer import PAD
from lvtrain.modules.decoder import Decoder
from lvtrain.modules.encoder import Encoder, uniform_init
from lvtrain.modules.latent import on_sphere
from lvtrain.objectives.corruption import CorruptionConfig, corrupt
from lvtrain.randomness import Key
from lvtrain.training.engine import Engine, EngineFactory
from lvtrain.training.game import Game, Metrics, Tensors


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Shapes, noise and optimiser of an autoencoder."""

    embedding: Count = 300
    """Size of the word embeddings."""
    hidden: Count = 300
    """Size of the LSTMs."""
    code: Natural = 0
    """Size of the code; 0 takes the hidden state itself as the code."""
    layers: Count = 1
    """LSTM layers of encoder and decoder."""
    dropout: Probability = 0.0
    """Dropout between layers."""
    sampled_softmax: Natural = 0
    """Draws that training estimates the vocabulary's softmax with, 0 for the whole of it: for words
    in the hundreds of thousands on a CPU. Its loss is an estimate from below."""
    noise: NotNegative = 0.1
    """Standard deviation of the Gaussian noise on the code, in training only."""
    noise_decay: Share = 0.9995
    """Factor on the noise every 100 steps."""
    normalize: bool = True
    """Put codes on a sphere."""
    radius: Positive = 1.0
    """Of the sphere: 1 in the paper. With √C the components of a code have the size of any other
    input, which is what adaptive optimisers and the critic want."""
    init: Positive = 0.1
    """Parameters start from U(−init, init)."""
    forget_bias: NotNegative = 1.0
    """Added to the forget gates' biases at the start."""
    corruption: CorruptionConfig = field(default_factory=CorruptionConfig)
    """Noise on the encoder's words."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(clip=1.0))
    """Optimiser of encoder and decoder."""

    @property
    def code_size(self) -> int:
        return self.code or self.hidden


class Autoencoder(nn.Module):
    """Encoder and decoder with a code between them."""

    def __init__(self, config: AutoencoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        sparse = config.optimizer.kind == "sgd"
        self.encoder = Encoder(
            vocab_size, config.embedding, config.hidden, config.layers, sparse=sparse
        )
        self.to_code = nn.Linear(config.hidden, config.code) if config.code else None
        self.decoder = Decoder(
            vocab_size, config.embedding, config.hidden, config.code_size, config.layers,
            sparse=sparse, sampled_softmax=config.sampled_softmax,
        )  # fmt: skip
        uniform_init(self, config.init, config.forget_bias)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules of a checkpoint, by name."""
        return {"model": self}

    def encode(
        self,
        tokens: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"],
        dropout: Key | None = None,
    ) -> Float[Tensor, "B C"]:
        """The codes of sentences, free of noise."""
        h = self.encoder(tokens, lengths, dropout, self.config.dropout)
        c = h if self.to_code is None else self.to_code(h)
        return on_sphere(c, self.config.radius) if self.config.normalize else c

    def game(self, engine: EngineFactory) -> Game:
        """A game of one."""
        return Game(model=AutoencoderPlayer(self, engine("model", self, self.config.optimizer)))


class AutoencoderPlayer:
    """The autoencoder as a model player: it proposes its codes."""

    def __init__(self, autoencoder: Autoencoder, engine: Engine) -> None:
        self.autoencoder, self.engine = autoencoder, engine
        self.engines: Mapping[str, Engine] = {"model": engine}
        self._clear()

    def _clear(self) -> None:
        self._batch: Batch | None = None
        self._codes: Tensor | None = None
        self._loss: Tensor | None = None

    def propose(self, batch: Batch, key: Key) -> Tensors:
        self._batch, self._key = batch, key
        self._codes = self._encode(*self._corrupted(batch, key), key)
        return {"codes": self._codes.detach()}

    @torch.no_grad()
    def show(self, batches: Sequence[Batch], key: Key) -> list[Tensors]:
        keys = [key.fold("shown", place) for place in range(len(batches))]
        seen = [self._corrupted(batch, k) for batch, k in zip(batches, keys, strict=True)]
        if self.autoencoder.config.dropout or not seen:
            # Each batch's dropout is drawn by its own key.
            return [{"codes": self._encode(*s, k)} for s, k in zip(seen, keys, strict=True)]
        width = max(tokens.shape[1] for tokens, _ in seen)
        tokens = torch.cat([F.pad(t, (0, width - t.shape[1]), value=PAD) for t, _ in seen])
        codes = self._encode(tokens, torch.cat([lengths for _, lengths in seen]), key)
        return [{"codes": part} for part in codes.split([len(batch.rows) for batch in batches])]

    def _corrupted(self, batch: Batch, key: Key) -> tuple[Tensor, Tensor]:
        """What the encoder reads of a batch."""
        corruption = self.autoencoder.config.corruption
        if not corruption.active:
            return batch.tokens, batch.lengths
        return corrupt(batch.tokens, batch.lengths, corruption, key.fold("corruption"))

    def _encode(self, tokens: Tensor, lengths: Tensor, key: Key) -> Tensor:
        self.autoencoder.train()
        return self.autoencoder.encode(tokens, lengths, key.fold("encoder dropout"))

    def decode(self) -> None:
        assert self._batch is not None and self._codes is not None, "decode follows propose"
        config, key, batch = self.autoencoder.config, self._key, self._batch
        codes = self._codes
        if config.noise:
            std = key.number(
                "code noise", lambda step: config.noise * config.noise_decay ** (step // 100)
            )
            noise = key.fold("code noise").normal(*codes.shape, device=codes.device)
            codes = codes + std * noise
        self._loss = batch.share * self.autoencoder.decoder.cross_entropy(
            codes, batch.tokens, batch.lengths,
            dropout=key.fold("decoder dropout"), rate=config.dropout, sampling=key.fold("softmax"),
        )  # fmt: skip

    def learn(self, answer: Tensors | None) -> Metrics:
        assert self._codes is not None, "learn follows propose"
        figures: dict[str, Tensor] = {}
        terms = []
        if self._loss is not None:
            figures["reconstruction"] = self._loss.detach()
            terms.append(self._loss)
        if answer is not None:
            terms.append((self._codes * answer["codes"]).sum(dim=1).mean())
            figures["answer_norm"] = answer["codes"].norm() / len(answer["codes"])
        # Told apart: of their sum nobody could say which of the players went astray.
        self.engine.backward(torch.stack(terms).sum(), self._key, figures)
        metrics: Metrics = dict(figures)
        stepped = self.engine.step(self._key)
        if self._loss is not None:
            metrics |= stepped
        self._clear()
        return metrics
