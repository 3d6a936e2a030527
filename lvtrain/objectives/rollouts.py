"""Sampled translations, and Monte-Carlo roll-outs of their prefixes, in one pass over time.

A roll-out completes a prefix of a sampled translation by sampling on; its reward is one draw of
what the prefix is worth. N of each prefix are wanted, which is T·N translations a sentence: the
cost of policy gradient. Here

- the source is encoded once, and no prefix is read again: roll-outs of y_{1..t} join the pass when
  the sample is at t, and go on from its state;
- samplers with the same history share one row of the decoder, whose distribution they draw from
  independently. A trained translator is sure of most words, so these rows are few;
- a sampler that has ended leaves, and a row without samplers with it.

What a sampler draws follows from the key, its sentence, its place and the time alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from lvtrain.data.tokenizer import BOS, EOS, PAD
from lvtrain.randomness import Key

MOST_SAMPLERS = 8192
"""Samplers in a pass at most, whose rows' logits lie in memory together: of more sentences, one
part is taken after the other."""


class Selectable(Protocol):
    """Something that has a part for each row of a batch."""

    def select(self, rows: Int64[Tensor, " K"]) -> Self:
        """What the rows with these numbers have, which may be the same one more than once."""
        ...


class Stepping(Protocol):
    """A translator as it is decoded word by word."""

    def start(self, memory: Any) -> Any:
        """The state before the first word of each source in memory."""
        ...

    def step(
        self, memory: Any, state: Any, tokens: Int64[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B V"], Any]:
        """Logits of the next word and the new state, given the last word of each row."""
        ...


@dataclass(frozen=True)
class Sampled:
    """Translations y ~ G(· | x), at most W words each with the end, and roll-outs."""

    tokens: Int64[Tensor, "B W"]
    """The end after each sentence that came to one, then padding."""
    prefixes: range
    """Numbers of words of the prefixes that were completed."""
    completions: Int64[Tensor, "B P N W"]
    """The roll-outs, their prefix included; all padding for a prefix that its sample does not have
    or that is the whole of it."""

    @property
    def lengths(self) -> Int64[Tensor, " B"]:
        """Words of each translation, with the end."""
        return real_lengths(self.tokens)


def real_lengths(tokens: Int[Tensor, "*B W"]) -> Int64[Tensor, " *B"]:
    """Words of each row before the padding."""
    return (tokens != PAD).sum(-1)


@torch.no_grad()
def sample(
    translator: Stepping,
    memory: Selectable,
    rows: int,
    width: int,
    prefixes: range,
    count: int,
    key: Key,
    device: torch.device | str = "cpu",
    temperature: float = 1.0,
) -> Sampled:
    """Translate `rows` sources in `memory` by sampling, and complete each prefix `count` times.

    Words are drawn from softmax(z/τ) of the logits z, τ the temperature. A translation without an
    end after `width` words is cut. Prefix 0 is the empty one: its roll-outs are samples like the
    first.
    """
    uniform = key.fold("sample").uniform(rows, 1, width, device=device)
    tokens = torch.full((rows, 1, width), PAD, device=device)
    _walk(translator, memory, uniform, tokens, range(0), 0, temperature)
    places = 1 + count * len(prefixes)
    written = torch.full((rows, places, width), PAD, device=device)
    written[:, :1] = tokens
    if places > 1:
        # Another pass: a sample must not depend, by a rounding, on whether it is rolled out.
        others = key.fold("roll-outs").uniform(rows, places - 1, width, device=device)
        uniform = torch.cat([uniform, others], dim=1)
        for own in torch.arange(rows, device=device).split(max(1, MOST_SAMPLERS // places)):
            part = slice(int(own[0]), int(own[-1]) + 1)
            known = memory if len(own) == rows else memory.select(own)
            _walk(translator, known, uniform[part], written[part], prefixes, count, temperature)
    completions = written[:, 1:].reshape(rows, len(prefixes), count, width)
    return Sampled(written[:, 0], prefixes, completions)


@dataclass
class _Samplers:
    """Those that have not ended: their sentence and place, and the row that has their history."""

    sentence: Tensor
    place: Tensor
    row: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.sentence, self.place, self.row))

    def chosen(self, mask: Tensor) -> _Samplers:
        return _Samplers(*(part[mask] for part in self))

    def joined_by(self, at: _Samplers, places: range) -> _Samplers:
        """With samplers for `places`, each where those `at` are."""
        count, device = len(places), self.place.device
        new = torch.arange(places.start, places.stop, device=device).repeat(len(at.sentence))
        others = at.sentence.repeat_interleave(count), new, at.row.repeat_interleave(count)
        return _Samplers(*(torch.cat(pair) for pair in zip(self, others, strict=True)))


def _walk(
    translator: Stepping,
    memory: Selectable,
    uniform: Tensor,
    written: Tensor,
    prefixes: range,
    count: int,
    temperature: float,
) -> None:
    """Sample translations into `written` [B, 1 + P N, W], by the numbers in `uniform`; those of the
    first place are followed where they stand there already."""
    sentences, _, width = uniform.shape
    all_sentences = torch.arange(sentences, device=uniform.device)
    samplers = _Samplers(all_sentences, torch.zeros_like(all_sentences), all_sentences)

    def places(prefix: int) -> range:
        first = 1 + count * (prefix - prefixes.start)
        return range(first, first + count if prefix in prefixes else first)

    samplers = samplers.joined_by(samplers, places(0))
    state, of = translator.start(memory), all_sentences
    known, tokens = memory, torch.full_like(all_sentences, BOS)
    for time in range(width):
        logits, state = translator.step(known, state, tokens)
        if temperature != 1:
            logits = logits.float() / temperature
        drawn = _draw(logits, samplers.row, uniform[samplers.sentence, samplers.place, time])
        there = written[samplers.sentence, samplers.place, time]
        drawn = torch.where(there == PAD, drawn, there)
        written[samplers.sentence, samplers.place, time] = drawn
        going = drawn != EOS
        samplers, drawn = samplers.chosen(going), drawn[going]
        if not len(drawn):
            break
        # Rows of equal history, as their number before and the word: each once.
        history, inverse = torch.unique(samplers.row * logits.shape[1] + drawn, return_inverse=True)
        parent, tokens = history // logits.shape[1], history % logits.shape[1]
        samplers.row = inverse
        state, of = state.select(parent), of[parent]
        known = memory.select(of)
        if new := places(time + 1):
            first = samplers.chosen(samplers.place == 0)
            samplers = samplers.joined_by(first, new)
            prefix = written[first.sentence, 0, : time + 1]
            written[first.sentence, new.start : new.stop, : time + 1] = prefix[:, None]


def _draw(
    logits: Float[Tensor, "K V"], row: Int64[Tensor, " M"], uniform: Float[Tensor, " M"]
) -> Int64[Tensor, " M"]:
    """A word for each sampler from softmax of its row, by inverting the cumulated distribution."""
    # In place from here on: there may be many rows, of a whole vocabulary each.
    logits = logits.float()
    logits[:, (PAD, BOS)] = float("-inf")
    total = logits.sub_(logits.amax(1, keepdim=True)).exp_().cumsum_(1)
    # The samplers of a row side by side: [K, samplers of the row that has most].
    order = row.argsort()
    counts = torch.bincount(row, minlength=len(total))
    first = counts.cumsum(0) - counts
    column = torch.empty_like(row)
    column[order] = torch.arange(len(row), device=row.device) - first[row[order]]
    wanted = total.new_zeros(len(total), int(counts.max()))
    wanted[row, column] = uniform * total[row, -1]
    found = torch.searchsorted(total, wanted, right=True)
    # A number that rounds up to the whole finds no word, and takes the last that can be.
    return found[row, column].clamp_max(logits.shape[1] - 1)
