"""Variational autoencoder for sentences (Bowman et al. 2016, arXiv 1511.06349).

    q(z | x) = N(μ(x), diag σ²(x)) from the encoder's last state
    loss     = E_q[−log p(x | z)] + β · KL(q(z | x) ‖ p(z))          (nats a sentence)

with p(z) = N(0, I) or a learnt mixture of Gaussians, β annealed from 0, free bits and word dropout
against posterior collapse.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lvtrain.config import Count, Natural, NotNegative, OptimizerConfig, Positive, Probability
from lvtrain.data.batches import Batch
from lvtrain.kernels.reparameterize import reparameterize, reparameterize_mixture
from lvtrain.modules.decoder import Decoder, shifted
from lvtrain.modules.encoder import Encoder, uniform_init
from lvtrain.modules.latent import Gaussian, MixturePrior
from lvtrain.objectives.corruption import drop_words
from lvtrain.objectives.divergence import KLConfig, kl_term
from lvtrain.randomness import Key
from lvtrain.training.engine import EngineFactory
from lvtrain.training.game import Game, Metrics, SoloPlayer


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Shapes, divergence and optimiser of a sentence VAE."""

    embedding: Count = 300
    """Size of the word embeddings."""
    hidden: Count = 300
    """Size of the LSTMs."""
    latent: Count = 32
    """Dimensions of z."""
    layers: Count = 1
    """LSTM layers of encoder and decoder."""
    dropout: Probability = 0.0
    """Dropout between layers."""
    word_dropout: Probability = 0.0
    """Share of the decoder's input words replaced by <unk>."""
    sampled_softmax: Natural = 0
    """Draws that training estimates the vocabulary's softmax with, 0 for the whole of it: for words
    in the hundreds of thousands on a CPU. Its loss is an estimate from below."""
    components: Count = 1
    """Gaussians in the prior; 1 is N(0, I)."""
    init: Positive = 0.1
    """Parameters start from U(−init, init)."""
    forget_bias: NotNegative = 1.0
    """Added to the forget gates' biases at the start."""
    kl: KLConfig = field(default_factory=KLConfig)
    """Weight of the KL term."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(clip=5.0))
    """Optimiser of the model."""


class VAE(nn.Module):
    """Encoder, Gaussian posterior, prior and decoder."""

    def __init__(self, config: VAEConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        sparse = config.optimizer.kind == "sgd"
        self.encoder = Encoder(
            vocab_size, config.embedding, config.hidden, config.layers, sparse=sparse
        )
        self.posterior_head = Gaussian(config.hidden, config.latent)
        self.decoder = Decoder(
            vocab_size, config.embedding, config.hidden, config.latent, config.layers,
            sparse=sparse, sampled_softmax=config.sampled_softmax,
        )  # fmt: skip
        uniform_init(self, config.init, config.forget_bias)
        self.prior = MixturePrior(config.latent, config.components)
        self.prior.spread(1.0)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules of a checkpoint, by name."""
        return {"model": self}

    def posterior(
        self,
        tokens: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"],
        dropout: Key | None = None,
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """μ and log σ² of q(z | x)."""
        h = self.encoder(tokens, lengths, dropout, self.config.dropout)
        mu, logvar = self.posterior_head(h)
        return mu, logvar

    def encode(
        self, tokens: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B Z"]:
        """The posterior means of sentences."""
        return self.posterior(tokens, lengths)[0]

    def sample_codes(self, n: int, key: Key, device: torch.device) -> Float[Tensor, "n Z"]:
        """n draws from the prior."""
        noise = key.fold("noise").normal(n, self.config.latent, device=device)
        return self.prior.sample(noise, key.fold("component").uniform(n, device=device))

    def loss(self, batch: Batch, key: Key) -> tuple[Tensor, Metrics]:
        """The negative ELBO with what is free of its KL term, a mean over sentences."""
        self.train()
        config, device, rows = self.config, batch.tokens.device, len(batch.rows)
        mu, logvar = self.posterior(batch.tokens, batch.lengths, key.fold("encoder dropout"))
        seed, rank, world = key.fold("z").seed_tensor(device), key.rank, key.world
        if config.components > 1:
            prior = (self.prior.mean, self.prior.logvar, self.prior.weight)
            z, kl = reparameterize_mixture(mu, logvar, seed, *prior, rank=rank, world=world)
        else:
            z, kl = reparameterize(mu, logvar, seed, rank=rank, world=world)
        inputs = drop_words(shifted(batch.tokens), config.word_dropout, key.fold("word dropout"))
        nll = self.decoder.cross_entropy(
            z, batch.tokens, batch.lengths, inputs, key.fold("decoder dropout"), config.dropout,
            reduction="sum", sampling=key.fold("softmax"),
        )  # fmt: skip
        beta = key.number("beta", config.kl.weight)
        loss = nll / rows + beta * kl_term(kl, config.kl)
        return loss, {
            "loss": loss.detach(),
            "reconstruction": batch.share * nll.detach() / batch.lengths.sum(),
            "kl": kl.detach().sum() / rows,
            "elbo": -(nll.detach() + kl.detach().sum()) / rows,
            "beta": beta,
        }

    def game(self, engine: EngineFactory) -> Game:
        """A game of one."""
        return Game(model=SoloPlayer(self.loss, engine("model", self, self.config.optimizer)))
