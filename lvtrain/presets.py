"""Configurations with a name, for each system."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lvtrain.config import OptimizerConfig, TrainConfig
from lvtrain.errors import UserError, nearest
from lvtrain.objectives.adversarial import LipschitzConfig
from lvtrain.objectives.corruption import CorruptionConfig
from lvtrain.objectives.divergence import KLConfig
from lvtrain.objectives.policy_gradient import PolicyConfig
from lvtrain.systems.arae import ARAEConfig, CriticConfig, GeneratorConfig
from lvtrain.systems.autoencoder import AutoencoderConfig
from lvtrain.systems.language_model import LanguageModelConfig
from lvtrain.systems.seq2seq import Seq2SeqConfig
from lvtrain.systems.seq2seq_gan import Seq2SeqGANConfig
from lvtrain.systems.seq2seq_play import PlayConfig
from lvtrain.systems.seq2seq_policy import DiscriminatorConfig
from lvtrain.systems.vae import VAEConfig


@dataclass(frozen=True)
class Preset:
    """A system's configuration and how long and on what to train it."""

    about: str
    """What it is for, in a line."""
    model: Any
    train: TrainConfig


_SGD = OptimizerConfig(kind="sgd", lr=1.0, clip=1.0)
_SLOW_ADAM = OptimizerConfig(lr=1e-4, betas=(0.5, 0.999))
_NOISE = CorruptionConfig(drop=0.1, blank=0.1, shuffle=3.0)

# The 15 epochs of Zhao et al. 2018, in iterations on their corpora.
_SNLI = TrainConfig(steps=150_000, batch_size=64, validate_every=5_000, checkpoint_every=5_000)
_1B = replace(_SNLI, batch_size=128, steps=3_500_000)

ARAE_SNLI = ARAEConfig(
    autoencoder=AutoencoderConfig(hidden=300, noise=0.05, optimizer=_SGD),
    critic=CriticConfig(lipschitz=LipschitzConfig(weight=1.0)),
    answer_scale=0.1,
)
ARAE_1B = ARAEConfig(
    autoencoder=AutoencoderConfig(embedding=500, hidden=500, noise=0.1, optimizer=_SGD),
    generator=GeneratorConfig(layers=(500, 500)),
    critic=CriticConfig(layers=(500, 500), lipschitz=LipschitzConfig(weight=10.0)),
    answer_scale=1.0,
)
# What the 2018 implementation does on SNLI, its defects included: the penalty on the slope of the
# batch's mean, batch normalisation in the critic, gains drawn from N(0, 0.02²), generated codes off
# the sphere.
REFERENCE = ARAEConfig(
    autoencoder=AutoencoderConfig(hidden=300, noise=0.05, forget_bias=0.0, optimizer=_SGD),
    generator=GeneratorConfig(normalize=False, init_norm_gain=True, optimizer=_SLOW_ADAM),
    critic=CriticConfig(
        norm="batch",
        init_norm_gain=True,
        lipschitz=LipschitzConfig(weight=1.0, per_sample=False),
        optimizer=_SLOW_ADAM,
    ),
    answer_scale=0.1,
    schedule="alternating",
)

_TINY_ADAM = OptimizerConfig(lr=4e-3, betas=(0.9, 0.98), clip=1.0, decay=0.5)
_TINY_AE = AutoencoderConfig(
    embedding=128,
    hidden=192,
    code=32,
    noise=0.8,
    noise_decay=1.0,
    radius=32**0.5,
    init=0.2,
    optimizer=_TINY_ADAM,
)
_TINY_GAME = OptimizerConfig(lr=5e-4, betas=(0.5, 0.9), decay=0.5)
_TINY = TrainConfig(
    steps=2_400, batch_size=64, validate_every=500, checkpoint_every=500, log_every=50
)
TINY = ARAEConfig(
    autoencoder=_TINY_AE,
    generator=GeneratorConfig(noise=64, layers=(256, 256), init=0.0, optimizer=_TINY_GAME),
    critic=CriticConfig(layers=(256, 256), init=0.0, optimizer=_TINY_GAME),
    answer_scale=0.01,
)

# Small and much regularised: of Transformers on Multi30k Wu et al. 2021 (arXiv 2105.14462) find the
# smallest best.
MULTI30K = Seq2SeqConfig(
    embedding=256,
    hidden=384,
    dropout=0.4,
    tied="all",
    optimizer=OptimizerConfig(lr=1e-3, betas=(0.9, 0.98), clip=1.0, warmup=200, decay=0.6),
)
MULTI30K_TRANSFORMER = Seq2SeqConfig(
    architecture="transformer",
    embedding=128,
    hidden=256,
    layers=4,
    dropout=0.3,
    tied="all",
    optimizer=OptimizerConfig(
        lr=3e-3, betas=(0.9, 0.98), clip=1.0, warmup=1_500, inverse_sqrt=True, decay=0.2
    ),
)
_MULTI30K = TrainConfig(
    steps=12_000,
    batch_size=128,
    by_length=True,
    precision="bf16",
    validate_every=500,
    checkpoint_every=250,
    keep=8,
)
# Both are columns of benchmarks/translation_gan.py. Where a discriminator rewards, τ is 1: samples
# of a lower one are more typical than what people write, and it rewards rare words.
MULTI30K_GAN = Seq2SeqGANConfig(
    translator=Seq2SeqConfig(
        optimizer=OptimizerConfig(lr=2e-4, betas=(0.9, 0.99), clip=1.0, decay=0.5)
    ),
    discriminator=DiscriminatorConfig(
        features=128, accuracy=0.7, optimizer=OptimizerConfig(lr=5e-4)
    ),
    policy=PolicyConfig(rollouts=4),
    play=PlayConfig(teacher=0.3),
    fresh=1,
)
# At τ = 1 most of the gradient takes back from unlikely words what label smoothing gave them, which
# does not change the likeliest translation.
MULTI30K_BLEU = replace(
    MULTI30K_GAN, policy=PolicyConfig(adversarial=0.0, rollouts=4, temperature=0.6), fresh=0
)
_TUNING = TrainConfig(
    steps=1_100, batch_size=32, precision="bf16", validate_every=150, checkpoint_every=50
)
# RMSProp is Adam without a mean of the gradients.
_FINE = OptimizerConfig(lr=5e-5, betas=(0.0, 0.99), clip=1.0)
_TINY_TRANSLATOR = Seq2SeqConfig(embedding=96, hidden=128, dropout=0.1, optimizer=_TINY_ADAM)
# Most samples of a translator that has learnt the grammar are valid: a discriminator is right about
# little more than half of the pairs whatever it does, and has to see very many for that.
_TINY_GAN = Seq2SeqGANConfig(
    translator=replace(_TINY_TRANSLATOR, label_smoothing=0.0),
    adversary="wu",
    play=PlayConfig(likelihood=1_000, teacher=0.3),
    discriminator=DiscriminatorConfig(
        length=12,
        features=128,
        clip=0.0,
        rounds=5,
        accuracy=0.55,
        optimizer=OptimizerConfig(lr=1e-3),
    ),
    policy=PolicyConfig(rollouts=4, credit="prefix"),
    fresh=4,
)

PRESETS: dict[str, dict[str, Preset]] = {
    "arae": {
        "default": Preset("the model of arae-snli for a first look: 10,000 steps",
                          ARAE_SNLI, TrainConfig()),
        "arae-snli": Preset("SNLI in Zhao et al. 2018: 300 units, SGD, 15 epochs",
                            ARAE_SNLI, _SNLI),
        "arae-1b": Preset("One Billion Words in Zhao et al. 2018: 500 units", ARAE_1B, _1B),
        "reference": Preset("what the 2018 implementation does on SNLI, defects included",
                            REFERENCE, _SNLI),
        "tiny": Preset("the embedded grammar: minutes on two cores", TINY, _TINY),
    },
    "ae": {
        "default": Preset("300 units, Adam", AutoencoderConfig(), TrainConfig()),
        "tiny": Preset("the embedded grammar: minutes on two cores", _TINY_AE, _TINY),
    },
    "dae": {
        "default": Preset("300 units, Adam; words dropped, blanked and shuffled",
                          AutoencoderConfig(corruption=_NOISE), TrainConfig()),
        "tiny": Preset("the embedded grammar: minutes on two cores",
                       replace(_TINY_AE, corruption=_NOISE), _TINY),
    },
    "vae": {
        "default": Preset("300 units, 32 latent dimensions, linear KL annealing", VAEConfig(),
                          TrainConfig()),
        "tiny": Preset(
            "the embedded grammar: minutes on two cores",
            VAEConfig(
                embedding=128, hidden=192, latent=32, word_dropout=0.2, init=0.2,
                kl=KLConfig(anneal_steps=1_000, free_bits=0.1),
                optimizer=_TINY_ADAM,
            ),
            _TINY,
        ),
    },
    "seq2seq": {
        "default": Preset("RNNSearch, 512 units, Adam", Seq2SeqConfig(), TrainConfig()),
        "multi30k": Preset("RNNSearch for 29,000 pairs of sentences", MULTI30K,
                           replace(_MULTI30K, steps=7_000)),
        "multi30k-transformer": Preset(
            "a Transformer for 29,000 pairs of sentences", MULTI30K_TRANSFORMER, _MULTI30K
        ),
        "tiny": Preset("RNNSearch on the embedded grammar: minutes on two cores",
                       _TINY_TRANSLATOR, _TINY),
        "tiny-transformer": Preset(
            "a Transformer on the embedded grammar: minutes on two cores",
            Seq2SeqConfig(architecture="transformer", embedding=96, hidden=256, layers=2,
                          dropout=0.1, optimizer=replace(_TINY_ADAM, lr=2e-3, warmup=200)),
            _TINY,
        ),
    },
    "seq2seq-gan": {
        "default": Preset("BR-CSGAN (Yang et al. 2018) from a trained translator: RMSProp, 5e-5",
                          Seq2SeqGANConfig(translator=Seq2SeqConfig(optimizer=_FINE)),
                          TrainConfig(steps=5_000, batch_size=32, validate_every=250)),
        "multi30k": Preset("BR-CSGAN from a translator of 29,000 pairs of sentences", MULTI30K_GAN,
                           _TUNING),
        "multi30k-bleu": Preset("from such a translator by reinforcement with BLEU alone",
                                MULTI30K_BLEU, replace(_TUNING, steps=900)),
        "tiny": Preset("likelihood, then the discriminator of Wu et al., on the embedded grammar: "
                       "minutes on two cores",
                       _TINY_GAN, replace(_TINY, steps=2_500, batch_size=32)),
    },
    "lm": {
        "default": Preset("300 units, Adam", LanguageModelConfig(), TrainConfig()),
        "tiny": Preset(
            "the embedded grammar: minutes on two cores",
            LanguageModelConfig(
                embedding=128, hidden=192, init=0.2, optimizer=_TINY_ADAM
            ),
            _TINY,
        ),
    },
}  # fmt: skip


def preset(system: str, name: str) -> tuple[Any, TrainConfig]:
    """The configurations of `system` called `name`: its own, and how long and on what to train.

    Raises UserError naming the nearest where there is none.
    """
    choices = PRESETS[system]
    if name not in choices:
        raise UserError(
            f"--preset: unknown preset '{name}' for {system}: expected one of "
            f"{', '.join(choices)}{nearest(name, choices)}"
        )
    return choices[name].model, choices[name].train
