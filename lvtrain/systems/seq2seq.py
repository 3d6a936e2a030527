"""Supervised translation: an encoder of sources and a decoder that looks at them.

    minimise −Σ_t log p(y_t | y_{<t}, x), a mean over the words of a batch, label-smoothed

by RNNSearch (Bahdanau et al. 2015) or a Transformer (Vaswani et al. 2017). With scheduled sampling
(Bengio et al. 2015, arXiv 1506.03099) some of the words that the decoder reads are its own: all
places at once are predicted under teacher forcing, and some of these predictions read in a second
pass (Mihaylova & Martins 2019, arXiv 1906.07651), which keeps both passes parallel in time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lvtrain.config import Count, Natural, OptimizerConfig, Probability, Share
from lvtrain.data.batches import Batch
from lvtrain.kernels.cross_entropy import linear_cross_entropy
from lvtrain.modules.decoder import IGNORED, chosen, masked, real_tokens, shifted
from lvtrain.modules.rnnsearch import RNNSearch
from lvtrain.modules.sampling import drawn
from lvtrain.modules.transformer import Transformer
from lvtrain.modules.translator import Memory, Network, State, Tied
from lvtrain.randomness import Key
from lvtrain.training.engine import EngineFactory
from lvtrain.training.game import Game, Metrics, SoloPlayer

# Words whose logits over the vocabulary are in memory together when own words are drawn.
_DRAWN = 1024


@dataclass(frozen=True, kw_only=True)
class ScheduledSamplingConfig:
    """How often the decoder reads its own word in training instead of the reference's."""

    probability: Share = 0.0
    """Share of the words read that are its own, in the end; 0 is teacher forcing throughout."""
    start: Natural = 0
    """Steps of teacher forcing at the beginning."""
    ramp: Natural = 0
    """Steps after those over which the share rises linearly from 0."""

    def at(self, step: int) -> float:
        """The share at a step."""
        if step < self.start:
            return 0.0
        return self.probability * (min(1.0, (step - self.start) / self.ramp) if self.ramp else 1.0)


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """Shapes, regularisation and optimiser of a translator."""

    architecture: Literal["rnnsearch", "transformer"] = "rnnsearch"
    """LSTMs with additive attention, or attention alone."""
    embedding: Count = 256
    """Size of the word embeddings, which is a Transformer's width."""
    hidden: Count = 512
    """Size of the decoder's LSTM, and of both directions of the encoder's together; in a
    Transformer, of the feed-forward layers."""
    layers: Count = 1
    """Layers of the encoder, and of the decoder."""
    heads: Count = 4
    """Heads of a Transformer's attention."""
    dropout: Probability = 0.3
    """Dropout of embeddings, of what layers hand on and of what the output layer reads."""
    label_smoothing: Probability = 0.1
    """Share of each target that goes to all words alike."""
    tied: Tied = "output"
    """Share the target's embeddings with the output layer or, where both sides have one vocabulary,
    all: the source's too."""
    sampling: ScheduledSamplingConfig = field(default_factory=ScheduledSamplingConfig)
    """Scheduled sampling."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(clip=1.0))
    """Optimiser of the model."""

    def conflict(self) -> str | None:
        """What is wrong with the fields together."""
        if self.architecture == "rnnsearch" and self.hidden % 2:
            return f"--hidden: expected an even number for two directions, found {self.hidden}"
        if self.architecture == "transformer" and self.embedding % (2 * self.heads):
            return (
                f"--embedding: expected a multiple of twice the --heads {self.heads}, "
                f"found {self.embedding}"
            )
        return None

    @property
    def one_vocabulary(self) -> bool:
        """Whether both sides must have the same words."""
        return self.tied == "all"

    @property
    def shapes(self) -> dict[str, Any]:
        """The fields on which the shapes of the parameters depend, or what they mean."""
        names = ["architecture", "embedding", "hidden", "layers", "tied"]
        if self.architecture == "transformer":
            names.append("heads")
        return {name: getattr(self, name) for name in names}


class Seq2Seq(nn.Module):
    """A translator.

    `encode` gives the memory of sources, which `states` reads under teacher forcing, and `step`
    word by word; memories and states have `select(rows)`. Wherever a `key` can be given it is
    that of the dropout, which is off without one.
    """

    def __init__(self, config: Seq2SeqConfig, vocab_size: int, target_vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size, self.target_vocab_size = vocab_size, target_vocab_size
        network: nn.Module
        if config.architecture == "rnnsearch":
            network = RNNSearch(
                vocab_size, target_vocab_size, config.embedding, config.hidden, config.layers,
                config.dropout, config.tied,
            )  # fmt: skip
        else:
            network = Transformer(
                vocab_size, target_vocab_size, config.embedding, config.hidden, config.layers,
                config.heads, config.dropout, config.tied,
            )  # fmt: skip
        self.network = cast(Network, network)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The modules of a checkpoint, by name."""
        return {"model": self}

    def encode(
        self, source: Int64[Tensor, "B S"], lengths: Int64[Tensor, " B"], key: Key | None = None
    ) -> Memory:
        """The memory of source sentences."""
        return self.network.encode(source, lengths, key and key.fold("encoder"))

    def states(
        self,
        memory: Memory,
        inputs: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"] | None = None,
        key: Key | None = None,
    ) -> Float[Tensor, "B T E"]:
        """What the output layer reads after each of the `inputs`; of no meaning beyond
        `lengths`."""
        return self.network.states(memory, inputs, lengths, key and key.fold("decoder"))

    def log_probs(
        self,
        memory: Memory,
        targets: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"],
        key: Key | None = None,
        temperature: float = 1.0,
    ) -> Float[Tensor, "B T"]:
        """log p(y_t | y_{<t}, x) of the words of targets, their ends included; 0 beyond.

        p is softmax(z/τ) of the logits z, τ the temperature.
        """
        y = self.states(memory, shifted(targets), lengths, key)
        target = targets.masked_fill(~real_tokens(targets, lengths), IGNORED)
        nll = self._cross_entropy(
            y.flatten(0, 1), target.flatten(), "none", temperature=temperature
        )
        return -nll.view_as(targets)

    def start(self, memory: Memory) -> State:
        """The state before the first word."""
        return self.network.start(memory)

    def step(
        self, memory: Memory, state: State, words: Int64[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B V"], State]:
        """Logits of the next word and the new state, given the last word of each row: the sentence
        start at first."""
        y, state = self.network.step(memory, state, words)
        return F.linear(y, self.network.output, self.network.output_bias), state

    def loss(self, batch: Batch, key: Key) -> tuple[Tensor, Metrics]:
        """−log p(y | x), label-smoothed, a mean over words."""
        self.train()
        assert batch.targets is not None and batch.target_lengths is not None
        lengths, sampling = batch.target_lengths, self.config.sampling
        memory = self.encode(batch.tokens, batch.lengths, key.fold("dropout"))
        inputs = shifted(batch.targets)
        share = key.number("scheduled sampling", sampling.at) if sampling.probability else 0.0
        if isinstance(share, Tensor) or share:
            inputs = self._mixed(memory, inputs, lengths, share, key)
        y = self.states(memory, inputs, lengths, key.fold("dropout"))
        choose = chosen if y.device.type == "cpu" else masked
        y, target = choose(y, batch.targets, lengths)
        smoothing = self.config.label_smoothing
        loss = batch.target_share * self._cross_entropy(y, target, "mean", smoothing)
        return loss, {"cross_entropy": loss.detach()}

    def game(self, engine: EngineFactory) -> Game:
        """A game of one."""
        return Game(model=SoloPlayer(self.loss, engine("model", self, self.config.optimizer)))

    def _cross_entropy(
        self,
        y: Float[Tensor, "N E"],
        target: Int64[Tensor, " N"],
        reduction: Any,
        smoothing: float = 0.0,
        temperature: float = 1.0,
    ) -> Tensor:
        output, bias = self.network.output, cast(Tensor, self.network.output_bias)
        if temperature != 1:
            y, bias = y / temperature, bias / temperature
        return linear_cross_entropy(y, output, target, bias, smoothing, IGNORED, reduction)

    @torch.no_grad()
    def _mixed(
        self,
        memory: Memory,
        inputs: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"],
        share: float | Tensor,
        key: Key,
    ) -> Int64[Tensor, "B T"]:
        """Inputs of which a share are the model's own words, drawn given the reference before."""
        rows, time = inputs.shape
        y = self.states(memory, inputs, lengths, key.fold("dropout")).flatten(0, 1)
        uniform = key.fold("own words").uniform(rows, time, device=y.device).view(-1, 1)
        parts = zip(y.split(_DRAWN), uniform.split(_DRAWN), strict=True)
        network = self.network
        own = torch.cat([drawn(F.linear(part, network.output, network.output_bias).float(), u)
                         for part, u in parts])  # fmt: skip
        read = key.fold("whose words").uniform(rows, time, device=y.device) < share
        read[:, 0] = False  # the sentence start
        return torch.where(read, shifted(own.view(rows, time)), inputs)


def translator_of(system: object) -> Seq2Seq | None:
    """The translator that a system is or trains, if there is one."""
    found = system if isinstance(system, Seq2Seq) else getattr(system, "translator", None)
    return found if isinstance(found, Seq2Seq) else None
