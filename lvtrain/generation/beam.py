"""Beam search over the translations of a batch of sources, finished ones leaving the batch.

    score(y) = log p(y | x) / ((5 + |y|)/6)^α + β Σ_i log min(Σ_t α_ti, 1)

with the length and coverage penalties of Wu et al. 2016 (arXiv 1609.08144, eq. 14); |y| counts the
sentence end. Of a beam of K prefixes the 2K likeliest continuations are looked at: those that end
and are among the first K are finished, the first K others go on. A source is done when it has K
finished translations, or when none that goes on could come among the n best: no continuation
raises log p, and none is longer than the limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lvtrain.config import Bounds, NotNegative
from lvtrain.data.tokenizer import BOS, EOS, PAD
from lvtrain.modules.translator import Memory
from lvtrain.systems.seq2seq import Seq2Seq

# A thousand take a third of a gigabyte for one sentence; ever more give worse ones, not better.
MOST = 1_000
Many = Annotated[int, Bounds(f"1 to {MOST:,}", lambda n: 1 <= n <= MOST)]
# Attention below which a source word counts as not translated at all: the logarithm is finite.
_LEAST_COVERAGE = 1e-6


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """Which translations are searched for."""

    beam: Many = 5
    """Prefixes kept at each word; 1 takes the likeliest word each time."""
    nbest: Many = 1
    """Translations of a sentence to give; of a search, at most as many as the beam has."""
    length_penalty: NotNegative = 1.0
    """α of ((5 + length)/6)^α, by which log-probabilities are divided; 0 compares them as they
    are, which favours short translations."""
    coverage_penalty: NotNegative = 0.0
    """β, the weight of source words that got less attention than one word's."""

    def divisor(self, words: Tensor | int) -> Tensor | float:
        """((5 + |y|)/6)^α of translations of so many words, their ends included."""
        return ((5 + words) / 6) ** self.length_penalty


@dataclass(frozen=True)
class Hypothesis:
    """A finished translation."""

    words: list[int]
    """Ids, without the end."""
    log_prob: float
    """log p(y | x), its end included."""
    score: float


@torch.inference_mode()
def beam_search(
    model: Seq2Seq, memory: Memory, limits: Int64[Tensor, " B"], config: BeamConfig
) -> list[list[Hypothesis]]:
    """The best translations of each source of a memory, the best first, none of more words than its
    limit."""
    sources, device, width = len(memory), limits.device, config.beam
    finished: list[list[Hypothesis]] = [[] for _ in range(sources)]
    alive = torch.arange(sources, device=device)
    state = model.start(memory)
    words = torch.full((sources,), BOS, device=device)
    totals = torch.zeros(sources, 1, device=device)
    written = torch.empty(sources, 1, 0, dtype=torch.int64, device=device)
    for length in range(int(limits.max()) + 1):
        logits, state = model.step(memory, state, words)
        logs = logits.float().log_softmax(1)
        logs[:, (PAD, BOS)] = float("-inf")
        full = (limits == length).repeat_interleave(totals.shape[1])
        if full.any():  # A translation at its limit can only end.
            ends = logs[:, EOS].clone()
            logs.masked_fill_(full[:, None], float("-inf"))
            logs[:, EOS] = ends
        candidates = _best(totals, logs, 2 * width)
        _finish(candidates, written, state.coverage, memory, alive, config, finished)
        kept = candidates.going_on(width)
        offsets = torch.arange(len(alive), device=device)[:, None] * totals.shape[1]
        rows = (offsets + kept.parents).flatten()
        done = _done(kept.totals[:, 0], limits, alive, config, finished)
        written = written.gather(1, kept.parents[:, :, None].expand(-1, -1, length))
        written = torch.cat([written, kept.words[:, :, None]], dim=2)
        if done.any() or totals.shape[1] != kept.totals.shape[1]:
            stay = (~done).nonzero().squeeze(1)
            if not len(stay):
                break
            alive, limits, written = alive[stay], limits[stay], written[stay]
            rows = rows.view(len(done), -1)[stay].flatten()
            memory = memory.select(rows)
            kept = _Candidates(kept.totals[stay], kept.parents[stay], kept.words[stay])
        state, words, totals = state.select(rows), kept.words.flatten(), kept.totals
    return [sorted(found, key=lambda h: -h.score)[: config.nbest] for found in finished]


@dataclass(frozen=True)
class _Candidates:
    """Continuations of the prefixes of each source, the likeliest first."""

    totals: Float[Tensor, "B K"]
    parents: Int64[Tensor, "B K"]
    words: Int64[Tensor, "B K"]

    def going_on(self, width: int) -> _Candidates:
        """The first `width` that do not end."""
        totals = self.totals.masked_fill(self.words == EOS, float("-inf"))
        totals, order = totals.topk(min(width, totals.shape[1]), dim=1)
        return _Candidates(totals, self.parents.gather(1, order), self.words.gather(1, order))


def _best(totals: Float[Tensor, "B K"], logs: Float[Tensor, "BK V"], count: int) -> _Candidates:
    """The `count` likeliest continuations of each source's prefixes."""
    every = (totals.view(-1, 1) + logs).view(len(totals), -1)
    found, index = every.topk(min(count, every.shape[1]), dim=1)
    words = logs.shape[1]
    return _Candidates(found, index // words, index % words)


def _finish(
    candidates: _Candidates,
    written: Int64[Tensor, "B K T"],
    coverage: Float[Tensor, "BK S"],
    memory: Memory,
    alive: Int64[Tensor, " B"],
    config: BeamConfig,
    finished: list[list[Hypothesis]],
) -> None:
    """Keep the candidates that end and are among the first of the beam."""
    totals, ends = candidates.totals[:, : config.beam], candidates.words[:, : config.beam] == EOS
    places = (ends & (totals > float("-inf"))).nonzero()
    if not len(places):
        return
    source, rank = places.unbind(1)
    parent = candidates.parents[source, rank]
    found = totals[source, rank]
    scores = found / config.divisor(written.shape[2] + 1)
    if config.coverage_penalty:
        row = source * written.shape[1] + parent
        least = coverage[row].clamp(_LEAST_COVERAGE, 1.0).log()
        scores = scores + config.coverage_penalty * (least * memory.mask[row]).sum(1)
    for number, words, log_prob, score in zip(
        alive[source].tolist(), written[source, parent].tolist(), found.tolist(), scores.tolist(),
        strict=True,
    ):  # fmt: skip
        finished[number].append(Hypothesis(words, log_prob, score))


def _done(
    best: Float[Tensor, " B"],
    limits: Int64[Tensor, " B"],
    alive: Int64[Tensor, " B"],
    config: BeamConfig,
    finished: list[list[Hypothesis]],
) -> Tensor:
    """Which sources need no further word, given the likeliest prefix that goes on of each."""
    reachable = (best / config.divisor(limits + 1)).tolist()
    done = []
    for number, most in zip(alive.tolist(), reachable, strict=True):
        scores = sorted((h.score for h in finished[number]), reverse=True)
        beaten = len(scores) >= config.nbest and scores[config.nbest - 1] >= most
        done.append(len(scores) >= config.beam or beaten or most == float("-inf"))
    return torch.tensor(done, device=best.device)
