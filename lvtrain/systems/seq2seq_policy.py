"""A translator and a discriminator of its samples: BR-CSGAN (Yang, Chen, Wang and Xu 2018, arXiv
1703.04887) and Adversarial-NMT (Wu et al. 2017, arXiv 1704.06933).

    0  the translator G is trained by likelihood (`seq2seq`) and comes with --from; D is trained on
       references and samples of G until its accuracy on pairs it has not seen is ξ
    1  D       minimise −E log D(x, y*) − E log(1 − D(x, y)),   y ~ G(· | x)
    2  reward  R(y) = λ (D(x, y) − b) + (1 − λ) BLEU(y, y*),   Q_t by N roll-outs of y_{1..t}
    3  G       minimise −Σ_t (Q_t − b_t) log G(y_t | y_{<t}, x) − log G(y* | x)

The policy gradient and the supervised one on the same batch are one update of G. It proposes
sampled translations and their roll-outs, and D answers with its opinions of them. Meanwhile the
model does what asks for the references alone: BLEU, and the supervised loss. Wu et al. have another
D, and one reward for all words of a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from lvtrain.config import Bounds, Count, Natural, NotNegative, OptimizerConfig, Share
from lvtrain.data.batches import Batch
from lvtrain.data.tokenizer import EOS, PAD
from lvtrain.modules.discriminator import (
    SHORTEST_GRID,
    ConvolutionalDiscriminator,
    GridDiscriminator,
)
from lvtrain.objectives.adversarial import clip_weights
from lvtrain.objectives.policy_gradient import (
    PolicyConfig,
    advantages,
    mean_scores,
    policy_loss,
)
from lvtrain.objectives.rollouts import Sampled, real_lengths
from lvtrain.objectives.sentence_bleu import sentence_bleu
from lvtrain.randomness import Key, NotPlayable
from lvtrain.systems.seq2seq import Seq2Seq
from lvtrain.systems.seq2seq_play import PlayConfig
from lvtrain.systems.seq2seq_sampling import Sampling, SamplingTask, sampled
from lvtrain.training.engine import Engine
from lvtrain.training.game import Metrics, Tensors

GridLength = Annotated[int, Bounds(f"{SHORTEST_GRID} or more", lambda n: n >= SHORTEST_GRID)]


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig:
    """The discriminator D of pairs of sentences."""

    embedding: Natural = 0
    """Size of its word embeddings; 0 takes the translator's, and with --from they begin as its:
    from few sentences it does not learn both what words mean and how they are said together."""
    features: Count = 64
    """Of each window size (brcsgan), or of each convolution (wu, whose paper has 20)."""
    windows: tuple[Count, ...] = (1, 2, 3, 4)
    """Words of each convolution (brcsgan)."""
    layers: tuple[Count, ...] = (64,)
    """Hidden layers over the features. The paper of brcsgan has none: its D judges each sentence by
    itself, and cannot tell whether one translates the other."""
    length: GridLength = 32
    """Words that sentences are cut or padded to (wu)."""
    rounds: Count = 1
    """Updates an iteration."""
    clip: NotNegative = 1.0
    """Bound on each weight; 0 for none."""
    accuracy: Share = 0.8
    """ξ: the translator heeds it once it was right so often about pairs that it had not learnt
    from; a running mean that starts at 0. Where λ is 0 there is nothing to wait for."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser of the discriminator."""

    def conflict(self) -> str | None:
        """What is wrong with the fields together."""
        return None if self.windows else "--windows: expected one or more sizes, found none"


Discriminator = ConvolutionalDiscriminator | GridDiscriminator


class Referee(nn.Module):
    """A discriminator, how often it has been right, and whether that has been enough.

    The mean is a batch normalisation's, over rows that are 1 where it was right: on a cluster it is
    then of the rows of all ranks, on each of them.
    """

    heeded: Tensor
    discriminator: Discriminator

    def __init__(self, discriminator: Discriminator, heeded: bool) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.accuracy = nn.BatchNorm1d(1, affine=False)
        self.register_buffer("heeded", torch.tensor(heeded))


class PolicyPlayer:
    """The translator as a model player: it proposes samples and their roll-outs, and learns from
    what they are worth."""

    def __init__(
        self,
        translator: Seq2Seq,
        engine: Engine,
        play: PlayConfig,
        policy: PolicyConfig,
        sampling: Sampling | None = None,
    ) -> None:
        self.translator, self.engine, self.play, self.policy = translator, engine, play, policy
        self.sampling = sampling
        self.engines: Mapping[str, Engine] = {"model": engine}
        # By step, whether the discriminator is heeded, which its last answer said; not known at the
        # first step of a process, where roll-outs are made that may be for nothing.
        self._heeded: dict[int, bool] = {}

    def propose(self, batch: Batch, key: Key) -> Tensors:
        self._batch, self._key = batch, key
        alone = key.step < self.play.likelihood
        heeded = not alone and self._heeded.get(key.step, True)
        found = self._sample(batch, key, rollouts=heeded)
        # Others sample: what need not wait for them is done meanwhile.
        early = self.sampling is not None and torch.is_grad_enabled()
        self._loss = self._supervised() if early else None
        self._sampled = found()
        # An opinion that the reward takes nothing of need not be had of every roll-out.
        judged = None if self.policy.adversarial else 0
        completions = self._sampled.completions[:, :judged].int()
        return seen(batch, self._sampled) | {"completions": completions}

    def show(self, batches: Sequence[Batch], key: Key) -> list[Tensors]:
        found = [
            self._sample(batch, key.fold("shown", place), rollouts=False)
            for place, batch in enumerate(batches)
        ]
        return [seen(batch, own()) for batch, own in zip(batches, found, strict=True)]

    def _sample(self, batch: Batch, key: Key, rollouts: bool) -> Callable[[], Sampled]:
        if key.tape is not None:
            raise NotPlayable("the device says when translations end")
        assert batch.targets is not None
        if key.step < self.play.likelihood:
            nothing = batch.tokens.new_zeros(len(batch.rows), 0)
            return lambda: Sampled(nothing, range(0), nothing[:, None, None])
        width = batch.targets.shape[1] + self.play.extra_words
        prefixes = self.policy.prefixes(width) if rollouts else range(0)
        task = SamplingTask(
            sources=batch.tokens,
            lengths=batch.lengths,
            width=width,
            prefixes=prefixes,
            rollouts=self.policy.rollouts,
            temperature=self.policy.temperature,
            key=key.fold("sample"),
        )
        return self.sampling(task) if self.sampling else partial(sampled, self.translator, task)

    def _supervised(self) -> Tensor:
        return self.translator.loss(self._batch, self._key.fold("teacher"))[0]

    def decode(self) -> None:
        batch, found = self._batch, self._sampled
        assert batch.targets is not None and batch.target_lengths is not None
        if self._loss is None:
            self._loss = self._supervised()
        if not found.tokens.shape[1]:
            return
        memory = self.translator.encode(batch.tokens, batch.lengths)
        self._nll = -self.translator.log_probs(
            memory, found.tokens, found.lengths, temperature=self.policy.temperature
        )

        def bleu(targets: Int[Tensor, "M W"], of: Int64[Tensor, " M"]) -> Float[Tensor, " M"]:
            assert batch.targets is not None and batch.target_lengths is not None
            words = (targets != PAD).sum(1) - (targets == EOS).sum(1)
            return sentence_bleu(targets, words, batch.targets[of], batch.target_lengths[of] - 1)

        every = torch.arange(len(batch.rows), device=batch.tokens.device)
        self._bleu = bleu(found.tokens, every), mean_scores(found.completions, bleu)

    def learn(self, answer: Tensors | None) -> Metrics:
        assert answer is not None, "the translator plays against a discriminator"
        step, loss, play = self._key.step, self._loss, self.play
        assert loss is not None, "the model decodes before it learns"
        figures: dict[str, Tensor] = {"cross_entropy": loss}
        metrics: Metrics = {}
        self._heeded = {step: self._heeded.get(step, True), step + 1: bool(answer["next"].all())}
        heeded, alone = bool(answer["heeded"].all()), step < play.likelihood
        if not alone:
            metrics = self._reward(answer, heeded, figures)
            loss = play.teacher * loss + figures.get("policy", 0.0)
        metrics["cross_entropy"] = figures["cross_entropy"].detach()
        if heeded or alone or play.meanwhile == "supervised":
            self.engine.backward(loss, self._key, figures)
            metrics |= self.engine.step(self._key)
        return metrics

    def _reward(self, answer: Tensors, heeded: bool, figures: dict[str, Tensor]) -> Metrics:
        """What the samples are worth; adds the loss that follows, where they are to be heeded."""
        found, policy = self._sampled, self.policy
        final, values = (
            policy.reward(opinion, bleu)
            for opinion, bleu in zip((answer["final"], answer["values"]), self._bleu, strict=True)
        )
        metrics: Metrics = {
            "reward": final.mean(),
            "opinion": answer["final"].mean(),
            "sample_bleu": self._bleu[0].mean(),
        }
        if heeded:
            width = found.tokens.shape[1]
            due = advantages(values, found.prefixes, final, found.lengths, width, policy)
            figures["policy"] = policy_loss(self._nll, due)
            metrics["policy"] = figures["policy"].detach()
            metrics["advantage"] = due.abs().sum() / found.lengths.sum()
        return metrics


def seen(batch: Batch, found: Sampled) -> dict[str, Tensor]:
    """What a discriminator learns from: sources, references, samples."""
    assert batch.targets is not None and batch.target_lengths is not None
    return {
        "source": batch.tokens,
        "source_lengths": batch.lengths,
        "reference": batch.targets,
        "sample": found.tokens,
    }


class DiscriminatorPlayer:
    """The discriminator as the adversary of sampled translations."""

    def __init__(self, referee: Referee, engine: Engine, config: DiscriminatorConfig) -> None:
        self.referee, self.config = referee, config
        self.engines: Mapping[str, Engine] = {"adversary": engine}

    @property
    def rounds(self) -> int:
        return self.config.rounds

    def criticise(self, proposal: Tensors, key: Key) -> Metrics:
        referee, engine = self.referee.train(), self.engines["adversary"]
        references, samples = proposal["reference"], proposal["sample"]
        if not samples.shape[1]:
            return {}  # the translator learns alone
        rows, missing = len(samples), samples.shape[1] - references.shape[1]
        targets = torch.cat([F.pad(references, (0, missing), value=PAD), samples])
        of = torch.arange(rows, device=targets.device).repeat(2)
        logits = referee.discriminator(
            proposal["source"], proposal["source_lengths"], targets, real_lengths(targets), of
        )
        real = torch.arange(2 * rows, device=targets.device) < rows
        loss = F.binary_cross_entropy_with_logits(logits, real.to(logits.dtype))
        # Before the update: these pairs are new to it.
        right = ((logits > 0) == real).to(logits.dtype)
        referee.accuracy(right[:, None])
        engine.backward(loss, key)
        engine.step(key)
        if self.config.clip:
            clip_weights(referee.discriminator, self.config.clip)
        mean = referee.accuracy.running_mean
        assert mean is not None
        return {
            "discriminator": loss.detach(),
            "accuracy": right.mean(),
            "judged": mean[0].clone(),
            "heeded": referee.heeded.to(logits.dtype),
        }

    @torch.no_grad()
    def answer(self, proposal: Tensors) -> Tensors:
        """D of each sample, and the mean of D over the roll-outs of each prefix.

        With them go, for each row, whether the translator is to heed them, and whether it will be
        to heed the next: it can then leave roll-outs that would be for nothing.
        """
        referee, samples = self.referee.eval(), proposal["sample"]

        def opinion(targets: Int[Tensor, "M W"], of: Int64[Tensor, " M"]) -> Float[Tensor, " M"]:
            source, lengths = proposal["source"], proposal["source_lengths"]
            logits = referee.discriminator(source, lengths, targets, real_lengths(targets), of)
            return logits.sigmoid()

        every, heeded = torch.arange(len(samples), device=samples.device), referee.heeded.clone()
        final = torch.zeros(len(samples), device=samples.device)
        if samples.shape[1]:
            final = opinion(samples, every)
            assert referee.accuracy.running_mean is not None
            referee.heeded |= referee.accuracy.running_mean[0] >= self.config.accuracy
        return {
            "final": final,
            "values": mean_scores(proposal["completions"], opinion),
            "heeded": heeded.expand(len(samples)),
            "next": referee.heeded.clone().expand(len(samples)),
        }

    def generate(self, rows: int, key: Key) -> Metrics:
        """The translator is the generator."""
        return {}
