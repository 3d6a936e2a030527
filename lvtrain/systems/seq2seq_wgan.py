"""Translation against a Wasserstein critic, by a gradient in place of a reward.

    y ~ G(· | x),  p̃_t = softmax((log G(· | y_{<t}, x) + g_t) / τ),  e_t = E p̃_t
    D       minimise E D(x, E y*) − E D(x, E y) + λ E(‖∇D(x, ê)‖ − 1)²
    G       minimise E D(x, e) − log G(y* | x)

(Gumbel-softmax: Jang, Gu and Poole 2017, arXiv 1611.01144; Maddison, Mnih and Teh 2017; Wasserstein
loss and penalty: Gulrajani et al. 2017.) D reads embeddings by the translator's table E, real ones
of references and those of samples; what it answers is its gradient in the latter, which reaches G
through the relaxed words p̃ and E as a constant. The noise g is that of which y is the argmax, so
samples are exact, and the decoder is differentiated under teacher forcing of its own words, all at
once. D is recurrent: the penalty goes through a twice-differentiable LSTM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from lvtrain.config import Count, Natural, NotNegative, OptimizerConfig, Positive
from lvtrain.data.batches import Batch
from lvtrain.data.tokenizer import BOS, EOS, PAD
from lvtrain.modules.decoder import real_tokens, shifted
from lvtrain.modules.recurrent_critic import OfSources, RecurrentCritic
from lvtrain.objectives.adversarial import LipschitzConfig, clip_weights, penalty, slope
from lvtrain.objectives.rollouts import sample
from lvtrain.randomness import Key, NotPlayable
from lvtrain.systems.seq2seq import Seq2Seq
from lvtrain.systems.seq2seq_play import PlayConfig
from lvtrain.training.engine import Engine
from lvtrain.training.game import Metrics, Tensors

NEVER = -1e9
"""Logit of what is no word."""


@dataclass(frozen=True, kw_only=True)
class CriticConfig:
    """The recurrent critic, and what it means to the translator."""

    embedding: Count = 64
    """Size of its embeddings of source words."""
    hidden: Count = 128
    """Size of its LSTMs."""
    rounds: Count = 5
    """Updates of the critic an iteration."""
    pretraining: Natural = 200
    """Iterations of its own before the translator heeds it."""
    answer_scale: NotNegative = 0.1
    """Factor on its gradient for the translator."""
    forward: Literal["hard", "soft"] = "hard"
    """Embeddings of samples that it reads: of the words themselves (straight-through), or relaxed
    as they are differentiated."""
    temperature: Positive = 1.0
    """τ at the start."""
    last_temperature: Positive = 0.3
    """τ from `annealing` on."""
    annealing: Natural = 2_000
    """Iterations over which τ changes, linearly."""
    lipschitz: LipschitzConfig = field(default_factory=LipschitzConfig)
    """What keeps it 1-Lipschitz."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=5e-4, betas=(0.5, 0.9))
    )
    """Optimiser of the critic."""

    def conflict(self) -> str | None:
        """What is wrong with the fields together."""
        if not self.lipschitz.per_sample:
            return "--lipschitz.per-sample False: expected True of a critic of translations"
        return None

    def temperature_at(self, step: int) -> float:
        """τ at a step."""
        done = min(1.0, step / self.annealing) if self.annealing else 1.0
        return self.temperature + done * (self.last_temperature - self.temperature)


def gumbel_given(
    log_probs: Float[Tensor, "B T V"], words: Int64[Tensor, "B T"], uniform: Float[Tensor, "B T V"]
) -> Float[Tensor, "B T V"]:
    """Gumbel noise g of which `words` = argmax(log p + g) (Maddison, Tarlow and Minka 2014).

    The largest of log p + g is a Gumbel variable of its own, whichever word it is at; the others
    are cut off at it: −log(exp(−largest) + exp(−(log p + g))).
    """
    tiny = torch.finfo(uniform.dtype).tiny
    free = log_probs - (-uniform.clamp_min(tiny).log()).clamp_min(tiny).log()
    own = words.unsqueeze(2)
    # exp(−z) of a Gumbel variable z of location m is that of log p + g times exp(m).
    largest = free.gather(2, own) - log_probs.gather(2, own) + log_probs.logsumexp(2, keepdim=True)
    cut = -torch.logaddexp(-largest.expand_as(free), -free)
    return cut.scatter(2, own, largest) - log_probs


class RelaxedPlayer:
    """The translator as a model player: it proposes embedded samples, and learns from a gradient
    in them."""

    def __init__(
        self, translator: Seq2Seq, engine: Engine, play: PlayConfig, config: CriticConfig
    ) -> None:
        self.translator, self.engine, self.play, self.config = translator, engine, play, config
        self.engines: Mapping[str, Engine] = {"model": engine}

    def propose(self, batch: Batch, key: Key) -> Tensors:
        self._batch, self._key = batch, key
        proposal, self._relaxed = self._sampled(batch, key)
        return proposal

    @torch.no_grad()
    def show(self, batches: Sequence[Batch], key: Key) -> list[Tensors]:
        keys = (key.fold("shown", place) for place in range(len(batches)))
        return [self._sampled(b, k)[0] for b, k in zip(batches, keys, strict=True)]

    def _sampled(self, batch: Batch, key: Key) -> tuple[Tensors, Tensor]:
        """What the critic sees of a batch and of a sample of it, and the sample's relaxed
        embeddings."""
        if key.tape is not None:
            raise NotPlayable("the device says when translations end")
        assert batch.targets is not None and batch.target_lengths is not None
        translator, network = self.translator, self.translator.network
        table = network.target.detach()
        if key.step < self.play.likelihood:
            nothing = table.new_zeros(len(batch.rows), 0, table.shape[1])
            return {"fake": nothing}, nothing
        extra = self.play.extra_words
        width = batch.targets.shape[1] + extra
        memory = translator.encode(batch.tokens, batch.lengths)
        device = batch.tokens.device
        found = sample(
            translator, memory, len(batch.rows), width, range(0), 0, key.fold("sample"), device
        )
        words, lengths = found.tokens, found.lengths
        y = translator.states(memory, shifted(words), lengths)
        logits = F.linear(y, network.output, network.output_bias).float()
        barred = torch.zeros(logits.shape[2], device=device)
        barred[[PAD, BOS]] = NEVER
        log_probs = (logits + barred).log_softmax(2)
        uniform = key.fold("gumbel").uniform(*logits.shape, device=device)
        with torch.no_grad():
            noise = gumbel_given(log_probs, words.clamp_min(EOS), uniform)
        temperature = key.number("temperature", self.config.temperature_at)
        real = real_tokens(words, lengths)[..., None]
        relaxed = ((log_probs + noise) / temperature).softmax(2) @ table * real
        fake = relaxed.detach() if self.config.forward == "soft" else table[words] * real
        targets = F.pad(batch.targets, (0, extra), value=PAD)
        references = table[targets] * real_tokens(targets, batch.target_lengths)[..., None]
        return {
            "source": batch.tokens,
            "source_lengths": batch.lengths,
            "real": references,
            "real_lengths": batch.target_lengths,
            "fake": fake,
            "fake_lengths": lengths,
        }, relaxed

    def decode(self) -> None:
        self._loss, _ = self.translator.loss(self._batch, self._key.fold("teacher"))

    def learn(self, answer: Tensors | None) -> Metrics:
        assert answer is not None, "the translator plays against a critic"
        step, play, loss = self._key.step, self.play, self._loss
        figures = {"cross_entropy": loss}
        alone = step < play.likelihood
        heeded = step >= play.likelihood + self.config.pretraining
        if not alone:
            loss = play.teacher * loss
        if heeded:
            figures["relaxed"] = (self._relaxed * answer["fake"]).sum((1, 2)).mean()
            loss = loss + figures["relaxed"]
        metrics: Metrics = {name: figure.detach() for name, figure in figures.items()}
        if alone or heeded or play.meanwhile == "supervised":
            self.engine.backward(loss, self._key, figures)
            metrics |= self.engine.step(self._key)
        del self._relaxed, self._loss
        return metrics


class CriticPlayer:
    """The critic as the adversary of embedded translations: low on references."""

    def __init__(self, critic: RecurrentCritic, engine: Engine, config: CriticConfig) -> None:
        self.critic, self.config = critic, config
        self.engines: Mapping[str, Engine] = {"adversary": engine}

    @property
    def rounds(self) -> int:
        return self.config.rounds

    def criticise(self, proposal: Tensors, key: Key) -> Metrics:
        critic, config, engine = self.critic, self.config, self.engines["adversary"]
        fake = proposal["fake"]
        if not fake.shape[1]:
            return {}  # the translator learns alone
        real = proposal["real"]
        lengths = torch.stack([proposal["real_lengths"], proposal["fake_lengths"]])
        code = critic.read(proposal["source"], proposal["source_lengths"])
        scores = critic(code.repeat(2, 1), torch.cat([real, fake]), lengths.flatten())
        loss = scores[: len(real)].mean() - scores[len(real) :].mean()
        metrics: Metrics = {"wasserstein": -loss.detach()}
        if config.lipschitz.kind == "penalty":
            mix = key.fold("mix").uniform(len(real), 1, device=real.device)
            of_sources = OfSources(critic, code, lengths.amax(0))
            cost = penalty(of_sources, real.flatten(1), fake.flatten(1), mix, config.lipschitz)
            metrics["penalty"] = cost.detach()
            loss = loss + cost
        engine.backward(loss, key)
        engine.step(key)
        if config.lipschitz.kind == "clip":
            clip_weights(critic, config.lipschitz.clip)
        return metrics

    def answer(self, proposal: Tensors) -> Tensors:
        """∂(scale · D(x, e)) / ∂e of each row."""
        points = proposal["fake"].detach().requires_grad_()
        if not points.shape[1]:
            return {"fake": points.detach()}
        code = self.critic.read(proposal["source"], proposal["source_lengths"])
        scores = self.critic(code, points, proposal["fake_lengths"])
        return {"fake": self.config.answer_scale * slope(scores, points)}

    def generate(self, rows: int, key: Key) -> Metrics:
        """The translator is the generator."""
        return {}
