"""The systems by name; a system's file is imported when it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lvtrain.errors import UserError, nearest

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from lvtrain.modules.decoder import Decoder
    from lvtrain.randomness import Key
    from lvtrain.training.engine import EngineFactory
    from lvtrain.training.game import Game


class System(Protocol):
    """What every system's class offers to training, generation and evaluation."""

    config: Any
    vocab_size: int

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules of a checkpoint, by name: together they hold every parameter once."""
        ...

    def game(self, engine: EngineFactory) -> Game:
        """The system's players around engines."""
        ...


class DecodingSystem(System, Protocol):
    """A system that makes sentences of codes; a language model's are of size 0."""

    @property
    def decoder(self) -> Decoder:
        """Codes to words."""
        ...


class LatentSystem(DecodingSystem, Protocol):
    """A system that gives sentences codes."""

    def encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Codes [B, C] of sentences [B, T]."""
        ...


class GenerativeSystem(DecodingSystem, Protocol):
    """A system with a prior over codes."""

    def sample_codes(self, n: int, key: Key, device: torch.device) -> Tensor:
        """Codes [n, C] from the prior."""
        ...


@dataclass(frozen=True)
class Entry:
    """Where a system is, without importing it."""

    module: str
    config: str
    system: str
    summary: str
    parallel: bool = False
    """Whether it learns from pairs of sentences."""

    def load(self) -> tuple[type, type]:
        """Its configuration class and its system class."""
        module = importlib.import_module(self.module)
        return getattr(module, self.config), getattr(module, self.system)


SYSTEMS = {
    "arae": Entry("lvtrain.systems.arae", "ARAEConfig", "ARAE",
                  "adversarially regularised autoencoder (Zhao et al. 2018)"),
    "ae": Entry("lvtrain.systems.autoencoder", "AutoencoderConfig", "Autoencoder",
                "autoencoder"),
    "dae": Entry("lvtrain.systems.autoencoder", "AutoencoderConfig", "Autoencoder",
                 "denoising autoencoder"),
    "vae": Entry("lvtrain.systems.vae", "VAEConfig", "VAE",
                 "variational autoencoder (Bowman et al. 2016)"),
    "lm": Entry("lvtrain.systems.language_model", "LanguageModelConfig", "LanguageModel",
                "recurrent language model"),
    "seq2seq": Entry("lvtrain.systems.seq2seq", "Seq2SeqConfig", "Seq2Seq",
                     "translation: RNNSearch (Bahdanau et al. 2015) or a Transformer",
                     parallel=True),
    "seq2seq-gan": Entry("lvtrain.systems.seq2seq_gan", "Seq2SeqGANConfig", "Seq2SeqGAN",
                         "translation against a discriminator (Yang et al. 2018; Wu et al. 2017)",
                         parallel=True),
}  # fmt: skip


def entry(name: str) -> Entry:
    """The system called `name`; raises UserError naming the nearest where there is none."""
    if name not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        raise UserError(f"unknown system '{name}': expected one of {known}{nearest(name, SYSTEMS)}")
    return SYSTEMS[name]
