"""Adversarially regularised autoencoder (Zhao, Kim, Zhang, Rush and LeCun 2018, arXiv 1706.04223).

    1  autoencoder    minimise −log p(x | c + ε),        c = enc(x)/‖enc(x)‖
    2  critic, n ×    minimise E D(c) − E D(g(s)) + λ E(‖∇D(ĉ)‖ − 1)²,   s ~ N(0, I)
    3  encoder        minimise −E D(c), times a scale: real codes move towards the generated ones
    4  generator      minimise E D(g(s))

Sentences are drawn by decoding g(s). The overlapped schedule takes 1 and 3 in one backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

import torch
import tyro
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lvtrain.config import Count, Natural, NotNegative, OptimizerConfig
from lvtrain.modules.decoder import Decoder
from lvtrain.modules.latent import on_sphere
from lvtrain.modules.mlp import Activation, Norm, mlp, normal_init
from lvtrain.objectives.adversarial import (
    LipschitzConfig,
    clip_weights,
    critic_loss,
    penalty,
    slope,
)
from lvtrain.randomness import Key
from lvtrain.systems.autoencoder import Autoencoder, AutoencoderConfig, AutoencoderPlayer
from lvtrain.training.engine import Engine, EngineFactory
from lvtrain.training.game import Game, Lag, Metrics, Schedule, Tensors


def _adam() -> OptimizerConfig:
    return OptimizerConfig(lr=1e-4, betas=(0.5, 0.999))


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The generator g: noise to codes."""

    noise: Count = 100
    """Dimension of the noise s."""
    layers: tuple[Count, ...] = (300, 300)
    """Sizes of the hidden layers."""
    activation: Activation = "relu"
    """Activation of the hidden layers."""
    norm: Norm = "batch"
    """Normalisation of the hidden layers."""
    normalize: bool = True
    """Put generated codes on the sphere that real ones lie on."""
    init: NotNegative = 0.02
    """Weights start from N(0, init²); 0 takes torch's start."""
    init_norm_gain: bool = False
    """Draw the normalisation's gains from N(0, init²) too: a defect of the 2018 reference."""
    optimizer: OptimizerConfig = field(default_factory=_adam)
    """Optimiser of the generator."""


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """The critic D: codes to scores."""

    layers: tuple[Count, ...] = (300, 300)
    """Sizes of the hidden layers."""
    activation: Activation = "leaky_relu"
    """Activation of the hidden layers."""
    norm: Norm = "none"
    """Normalisation of the hidden layers. Batch normalisation couples the rows, which the gradient
    penalty assumes independent."""
    init: NotNegative = 0.02
    """Weights start from N(0, init²); 0 takes torch's start."""
    init_norm_gain: bool = False
    """Draw the normalisation's gains from N(0, init²) too: a defect of the 2018 reference."""
    rounds: Count = 5
    """Updates of the critic an iteration."""
    lipschitz: LipschitzConfig = field(default_factory=LipschitzConfig)
    """What keeps it 1-Lipschitz."""
    optimizer: OptimizerConfig = field(default_factory=_adam)
    """Optimiser of the critic."""


@dataclass(frozen=True, kw_only=True)
class ARAEConfig:
    """An autoencoder, and the generator and critic that play on its codes."""

    autoencoder: Annotated[AutoencoderConfig, tyro.conf.arg(name="")] = field(
        default_factory=AutoencoderConfig
    )
    """The text side."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """Noise to codes."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """Codes to scores."""
    answer_scale: NotNegative = 1.0
    """Factor on the critic's gradient for the encoder."""
    schedule: Schedule = "overlapped"
    """Both losses of the encoder in one update, or the reference's order."""
    fresh: Natural = 1
    """Batches an overlapped iteration encodes for the critic besides the one it learns from."""
    lag: Lag = 0
    """Iterations that the critic from which the encoder learns is behind. With 1, the adversary on
    a cluster has a whole iteration for its updates; more could hide no more."""

    def conflict(self) -> str | None:
        """What is wrong with the fields together."""
        if self.lag and self.schedule == "alternating":
            return "--lag 1: expected 0 with the alternating schedule, whose players take turns"
        return None

    @property
    def smallest_batch(self) -> int:
        """Batch normalisation has nothing to normalise a single row by."""
        return 2 if "batch" in (self.generator.norm, self.critic.norm) else 1


class ARAE(nn.Module):
    """An autoencoder whose codes a generator imitates."""

    def __init__(self, config: ARAEConfig, vocab_size: int) -> None:
        super().__init__()
        self.config, self.vocab_size = config, vocab_size
        self.autoencoder = Autoencoder(config.autoencoder, vocab_size)
        size, g, d = config.autoencoder.code_size, config.generator, config.critic
        self.generator = mlp([g.noise, *g.layers, size], g.activation, g.norm)
        self.critic = mlp([size, *d.layers, 1], d.activation, d.norm, first_norm=False)
        for module, part in ((self.generator, g), (self.critic, d)):
            if part.init:
                normal_init(module, part.init, part.init_norm_gain)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules of a checkpoint, by name."""
        return {"model": self.autoencoder, "generator": self.generator, "critic": self.critic}

    @property
    def decoder(self) -> Decoder:
        return self.autoencoder.decoder

    def encode(
        self, tokens: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B C"]:
        """The codes of sentences."""
        return self.autoencoder.encode(tokens, lengths)

    def generated(self, noise: Float[Tensor, "B Z"]) -> Float[Tensor, "B C"]:
        """c̃ = g(s)."""
        codes = self.generator(noise)
        if not self.config.generator.normalize:
            return codes
        return on_sphere(codes, self.config.autoencoder.radius)

    def sample_codes(self, n: int, key: Key, device: torch.device) -> Float[Tensor, "n C"]:
        """Codes of n sentences from the generator."""
        return self.generated(key.normal(n, self.config.generator.noise, device=device))

    def game(self, engine: EngineFactory) -> Game:
        """The autoencoder against generator and critic."""
        config = self.config
        model = engine("model", self.autoencoder, config.autoencoder.optimizer)
        critic = engine("critic", self.critic, config.critic.optimizer)
        generator = engine("generator", self.generator, config.generator.optimizer)
        return Game(
            model=AutoencoderPlayer(self.autoencoder, model),
            adversary=CodeAdversary(self, critic, generator),
            schedule=config.schedule,
            fresh=config.fresh,
            lag=config.lag,
        )


class CodeAdversary:
    """Generator and critic as the adversary of an autoencoder's codes."""

    def __init__(self, arae: ARAE, critic: Engine, generator: Engine) -> None:
        self.arae = arae
        self.engines: Mapping[str, Engine] = {"critic": critic, "generator": generator}

    @property
    def rounds(self) -> int:
        return self.arae.config.critic.rounds

    def criticise(self, proposal: Tensors, key: Key) -> Metrics:
        arae, config, real = self.arae, self.arae.config.critic, proposal["codes"]
        arae.generator.train()
        arae.critic.train()
        with torch.no_grad():
            fake = arae.sample_codes(len(real), key.fold("noise"), real.device)
        loss = critic_loss(arae.critic, real, fake)
        metrics: Metrics = {"wasserstein": -loss.detach()}
        if config.lipschitz.kind == "penalty":
            mix = key.fold("mix").uniform(len(real), 1, device=real.device)
            cost = penalty(arae.critic, real, fake, mix, config.lipschitz)
            metrics["penalty"] = cost.detach()
            loss = loss + cost
        self.engines["critic"].backward(loss, key)
        self.engines["critic"].step(key)
        if config.lipschitz.kind == "clip":
            clip_weights(arae.critic, config.lipschitz.clip)
        return metrics

    def answer(self, proposal: Tensors) -> Tensors:
        """∂(−scale · D(c)) / ∂c of each row."""
        _, gradient = self._scores(proposal["codes"])
        return {"codes": -self.arae.config.answer_scale * gradient}

    def generate(self, rows: int, key: Key) -> Metrics:
        arae = self.arae
        arae.generator.train()
        device = next(arae.generator.parameters()).device
        fake = arae.sample_codes(rows, key.fold("noise"), device)
        scores, gradient = self._scores(fake.detach())
        # The chain rule cut at the codes: the critic's parameters need no gradient here.
        self.engines["generator"].backward((fake * gradient).sum(dim=1).mean(), key)
        self.engines["generator"].step(key)
        return {"generator": scores.mean(), "generated_norm": fake.detach().norm(dim=1).mean()}

    def _scores(
        self, codes: Float[Tensor, "B C"]
    ) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "B C"]]:
        """D(c) and its gradient in c."""
        codes = codes.detach().requires_grad_()
        scores = self.arae.critic(codes)
        return scores.detach(), slope(scores, codes)
