"""A translator and its adversary: a discriminator that rewards (lvtrain.systems.seq2seq_policy), or
a Wasserstein critic whose gradient it follows (lvtrain.systems.seq2seq_wgan)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor, nn

from lvtrain.config import Natural, differences, to_json
from lvtrain.data.tokenizer import PAD
from lvtrain.modules.discriminator import ConvolutionalDiscriminator, GridDiscriminator
from lvtrain.modules.recurrent_critic import RecurrentCritic
from lvtrain.objectives.policy_gradient import PolicyConfig
from lvtrain.systems.seq2seq import Seq2Seq, Seq2SeqConfig
from lvtrain.systems.seq2seq_play import PlayConfig
from lvtrain.systems.seq2seq_policy import (
    DiscriminatorConfig,
    DiscriminatorPlayer,
    PolicyPlayer,
    Referee,
)
from lvtrain.systems.seq2seq_sampling import Sampling
from lvtrain.systems.seq2seq_wgan import CriticConfig, CriticPlayer, RelaxedPlayer
from lvtrain.training.engine import EngineFactory
from lvtrain.training.game import AdversaryPlayer, Game, Lag, ModelPlayer

# What the others' adversaries have and one does not, by how the names of the fields begin.
_NOT_OF = {
    "brcsgan": ("critic.", "discriminator.length"),
    "wu": ("critic.", "discriminator.windows"),
    "wgan": ("discriminator.", "policy."),
}


@dataclass(frozen=True, kw_only=True)
class Seq2SeqGANConfig:
    """A translator, and the adversary that judges its samples."""

    translator: Annotated[Seq2SeqConfig, tyro.conf.arg(name="")] = field(
        default_factory=Seq2SeqConfig
    )
    """The text side."""
    start: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """The run whose best translator is the one to start from, with its sizes and vocabularies."""
    adversary: Literal["brcsgan", "wu", "wgan"] = "brcsgan"
    """A discriminator and rewards, by convolutions over both sentences or over the grid of their
    words; or a recurrent Wasserstein critic and gradients."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """Of brcsgan and wu."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """Rewards, of brcsgan and wu."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """Of wgan."""
    play: Annotated[PlayConfig, tyro.conf.arg(name="")] = field(default_factory=PlayConfig)
    """What the translator does beside its adversary."""
    fresh: Natural = 0
    """Batches that an iteration translates for the adversary besides the one it learns from."""
    lag: Lag = 0
    """Iterations that the adversary from which the translator learns is behind."""

    @property
    def rewards(self) -> PolicyConfig:
        """The policy with the credit that the adversary's paper has."""
        if self.policy.credit != "auto":
            return self.policy
        return replace(self.policy, credit="sentence" if self.adversary == "wu" else "prefix")

    @property
    def one_vocabulary(self) -> bool:
        """Whether both sides must have the same words."""
        return self.translator.one_vocabulary

    def warnings(self, steps: int, usual: Seq2SeqGANConfig) -> Iterator[str]:
        """What is odd about it for a run of so many steps, and no mistake; `usual` is what it has
        where nothing else was asked for."""
        changed = differences(to_json(self), to_json(usual))
        if vain := [name for name in changed if name.startswith(_NOT_OF[self.adversary])]:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in vain)
            yield f"{flags}: of another adversary than {self.adversary}, and without effect"
        if self.start is None and not self.play.likelihood:
            yield (
                "the translator begins untrained: --from RUN starts from a trained one, "
                "--likelihood N trains it first"
            )
        if waits := self.foreseen(steps):
            yield f"{waits}: the translator will not learn from it in --steps {steps}"

    def foreseen(self, steps: int) -> str | None:
        """Why the translator does not learn from its adversary in a run of so many steps, where
        that is known before. That it is to learn from likelihood in all of them is not odd."""
        return None if self.play.likelihood == steps else self._waits(steps, "are")

    def remarks(self, step: int, steps: int, last: Mapping[str, Any]) -> Iterator[str]:
        """What is odd about a run of so many steps that has come to a step, with these figures:
        that the translator has not learnt from its adversary."""
        if self.play.likelihood == steps:
            return
        if not step:
            yield "the run began with it: the translator has not learnt from its adversary yet"
            return
        if waits := self._waits(step, "were"):
            yield f"{waits}: the translator has not learnt from it yet"
        elif last.get("heeded") == 0:
            judged, accuracy = last["judged"], self.discriminator.accuracy
            # Rounded down, what is not enough is not said to be.
            share = f"{math.floor(1_000 * judged) / 10:g}% of pairs that are new to it"
            right = f"right about {share} (a running mean that begins at 0)"
            heeded = f"heeded from {100 * accuracy:g}% on (--discriminator.accuracy)"
            if judged < accuracy:
                yield (
                    f"the discriminator is {right}, and is {heeded}: the translator has not learnt "
                    "from it yet"
                )
            else:
                yield (
                    f"the discriminator came to be {right} at the last step, and is {heeded}: the "
                    "translator has not learnt from it yet, and needs more --steps to"
                )

    def _waits(self, step: int, were: str) -> str | None:
        """What comes before the translator learns from its adversary, where a step is no later, and
        how much of that there was."""
        likelihood, pretraining = self.play.likelihood, self.critic.pretraining
        if step <= likelihood:
            begins = f"the adversary begins after --likelihood {likelihood} iterations"
            return f"{begins}, and there {were} {step}"
        if self.adversary == "wgan" and step <= likelihood + pretraining:
            own = f"--critic.pretraining {pretraining} iterations of its own"
            return f"the critic is heeded after {own}, and there {were} {step - likelihood}"
        return None

    @property
    def smallest_batch(self) -> int:
        """Batch normalisation has nothing to normalise a single row by."""
        return 2 if self.adversary == "brcsgan" else 1


def standing(adversary: Mapping[str, Tensor]) -> dict[str, float]:
    """What a discriminator's tensors say of it, by the names of a log's figures; nothing of a
    critic's."""
    if "heeded" not in adversary:
        return {}
    judged = adversary["accuracy.running_mean"].item()
    return {"heeded": float(adversary["heeded"].item()), "judged": judged}


class Seq2SeqGAN(nn.Module):
    """A translator and its adversary."""

    def __init__(self, config: Seq2SeqGANConfig, vocab_size: int, target_vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.sampling: Sampling | None = None
        """Who samples for a translator that learns from rewards, if not itself."""
        self.vocab_size, self.target_vocab_size = vocab_size, target_vocab_size
        self.translator = Seq2Seq(config.translator, vocab_size, target_vocab_size)
        d, c = config.discriminator, config.critic
        sizes = vocab_size, target_vocab_size
        embedding = d.embedding or config.translator.embedding
        # Where its opinion counts for nothing it is not waited for.
        heeded = not config.policy.adversarial
        self.adversary: nn.Module
        if config.adversary == "brcsgan":
            self.adversary = Referee(
                ConvolutionalDiscriminator(*sizes, embedding, d.windows, d.features, d.layers),
                heeded,
            )
        elif config.adversary == "wu":
            self.adversary = Referee(
                GridDiscriminator(*sizes, embedding, d.length, d.features, d.layers), heeded
            )
        else:
            width = config.translator.embedding
            self.adversary = RecurrentCritic(vocab_size, c.embedding, width, c.hidden)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules of a checkpoint, by name."""
        return {"model": self.translator, "adversary": self.adversary}

    @torch.no_grad()
    def start_from(self, translator: Seq2Seq) -> None:
        """Begin with the parameters of a translator of the same shape."""
        self.translator.load_state_dict(translator.state_dict())
        if isinstance(self.adversary, Referee) and not self.config.discriminator.embedding:
            network = self.translator.network
            words = network.source, network.target
            for embedding, own in zip(self.adversary.discriminator.embeddings, words, strict=True):
                embedding.weight.copy_(own)
                embedding.weight[PAD] = 0

    def game(self, engine: EngineFactory) -> Game:
        """The translator against its adversary."""
        config = self.config
        model = engine("model", self.translator, config.translator.optimizer)
        player: ModelPlayer
        adversary: AdversaryPlayer
        if isinstance(self.adversary, RecurrentCritic):
            critic = engine("adversary", self.adversary, config.critic.optimizer)
            player = RelaxedPlayer(self.translator, model, config.play, config.critic)
            adversary = CriticPlayer(self.adversary, critic, config.critic)
        else:
            assert isinstance(self.adversary, Referee)
            judge = engine("adversary", self.adversary, config.discriminator.optimizer)
            player = PolicyPlayer(
                self.translator, model, config.play, config.rewards, self.sampling
            )
            adversary = DiscriminatorPlayer(self.adversary, judge, config.discriminator)
        return Game(model=player, adversary=adversary, fresh=config.fresh, lag=config.lag)
