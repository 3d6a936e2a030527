"""Lines of text to their translations, in order, in batches of like lengths."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Literal, NamedTuple

import torch
import tyro
from jaxtyping import Int64
from torch import Tensor

from lvtrain.config import Count, Natural, Positive, check
from lvtrain.data.tokenizer import EOS, Tokenizer
from lvtrain.errors import UserError
from lvtrain.generation.beam import BeamConfig, Hypothesis, beam_search
from lvtrain.generation.decode import MOST_LOGITS, DecodeConfig, Uniform, write
from lvtrain.generation.encode import BATCH_WORDS, by_length, padded, texts
from lvtrain.modules.translator import Memory, State
from lvtrain.randomness import Key
from lvtrain.systems.seq2seq import Seq2Seq

Watch = Callable[[int, int], None]
"""Told how many words of the sources are translated, of how many."""
Piece = tuple[int, int]
"""The number of a line and the place in it of a part that is translated by itself."""

# Words of a translation that random numbers are made for at once.
_DRAWN = 64
# Where a line that is too long is cut rather than elsewhere: after these, in the order of choice.
_CUTS = (frozenset(".!?"), frozenset(";:"), frozenset(","))


@dataclass(frozen=True, kw_only=True)
class TranslateConfig:
    """How sentences are translated."""

    search: Annotated[BeamConfig, tyro.conf.arg(name="")] = field(default_factory=BeamConfig)
    """Beam search."""
    sample: bool = False
    """Draw --nbest translations of each sentence from the model instead of searching for the
    best."""
    temperature: Positive = 1.0
    """Of --sample: draws are from softmax(logits / temperature)."""
    top_k: Natural = 0
    """Of --sample: draw from the k likeliest words only; 0 draws from all."""
    max_ratio: Positive = 2.0
    """A translation has at most so many words for each of its source,"""
    max_extra: Natural = 10
    """and so many more."""
    long: Literal["split", "refuse"] = "split"
    """A line longer than any sentence trained on is translated in pieces, or refused."""
    batch_size: Count = 64
    """Sentences searched together; fewer where their beams would take much memory."""
    seed: Natural = 0
    """Of --sample."""

    @property
    def rows(self) -> int:
        """Translations of a sentence that are written at a time."""
        return self.search.nbest if self.sample else self.search.beam

    def conflict(self) -> str | None:
        """What is wrong with the fields together."""
        search, usual = self.search, BeamConfig()
        if search.nbest > search.beam and not self.sample:
            return f"--nbest: expected at most the --beam {search.beam}, found {search.nbest}"
        for name, value, none in (
            ("temperature", self.temperature, 1.0),
            ("top-k", self.top_k, 0),
            ("seed", self.seed, 0),
        ):
            if value != none and not self.sample:
                return f"--{name} {value}: expected with --sample, which it is of"
        for name in ("beam", "length_penalty", "coverage_penalty"):
            value = getattr(search, name)
            if value != getattr(usual, name) and self.sample:
                flag = name.replace("_", "-")
                return f"--{flag} {value}: expected without --sample, which does not search"
        return None


class Translation(NamedTuple):
    """A translation of a line."""

    text: str
    score: float
    """By which the best is the first: log p(y | x), weighed by length and coverage."""
    log_prob: float


class Translator:
    """A model with the words of both sides. `max_words` is the longest source it is given whole."""

    def __init__(
        self, model: Seq2Seq, source: Tokenizer, target: Tokenizer, max_words: int
    ) -> None:
        self.model, self.source, self.target, self.max_words = model, source, target, max_words

    def translate(
        self,
        lines: Sequence[str],
        config: TranslateConfig,
        first: int = 1,
        where: str = "sentence",
        watch: Watch | None = None,
    ) -> list[list[Translation]]:
        """The `nbest` translations of each line, the best first; an empty line has an empty one.

        A pure function of its arguments. Raises UserError for a line longer than `max_words` where
        such are refused, by `where` it is and its number counted from `first`.
        """
        check(config)
        pieces = {
            n: self.pieces(line, config, f"{where} {n}")
            for n, line in enumerate(texts(lines), first)
        }
        named = {(n, k): piece for n, of_line in pieces.items() for k, piece in enumerate(of_line)}
        found = iter(self._hypotheses(named, config, watch))
        translations = []
        for of_line in pieces.values():
            parts = [next(found) for _ in of_line]
            translations.append(
                [self._joined([_at(part, n) for part in parts])
                 for n in range(max(map(len, parts), default=1))]
            )  # fmt: skip
        return translations

    def _hypotheses(
        self, pieces: Mapping[Piece, Sequence[int]], config: TranslateConfig, watch: Watch | None
    ) -> list[list[Hypothesis]]:
        """The translations of pieces, none of them empty, as ids."""
        found: dict[int, list[Hypothesis]] = {}
        names, sources = list(pieces), list(pieces.values())
        ended = [[*ids, EOS] for ids in sources]
        output = self.model.network.output
        device = output.device
        watch, done, total = watch or (lambda done, total: None), 0, sum(map(len, sources))
        watch(done, total)
        # Each of the rows of a source has a memory of it, and logits.
        most = max(1, min(config.batch_size, MOST_LOGITS // (config.rows * len(output))))
        words = BATCH_WORDS // config.rows
        for part in by_length([len(ids) for ids in ended], most, words):
            tokens, lengths = padded([ended[place] for place in part])
            with torch.inference_mode():
                memory = self.model.encode(tokens.to(device), lengths.to(device))
            limits = limits_of(lengths, config).to(device)
            if config.sample:
                best = sample(self.model, memory, limits, config, [names[i] for i in part])
            else:
                best = beam_search(self.model, memory, limits, config.search)
            found |= zip(part, best, strict=True)
            done += sum(len(sources[place]) for place in part)
            watch(done, total)
        return [found[place] for place in range(len(sources))]

    def pieces(self, line: str, config: TranslateConfig, where: str) -> list[list[int]]:
        """A line as ids, cut where it is too long: after a sentence, a clause, a comma or else a
        word, as far back as the middle of what fits. Raises UserError where such are refused."""
        words = line.split()
        ids, lengths = self.source.encode_flat(self.source.split(words))
        if len(ids) <= self.max_words:
            return [ids.tolist()] if len(ids) else []
        if config.long == "refuse":
            raise UserError(
                f"{where}: expected at most {self.max_words} words or pieces, the most that "
                f"the model was trained on, found {len(ids)}; --long split translates it in pieces"
            )
        ends = list(accumulate(lengths.tolist()))
        pieces, start = [], 0
        while start < len(ids):
            stop = min(start + self.max_words, len(ids))
            if stop < len(ids):
                fit = range(bisect_right(ends, start), bisect_right(ends, stop))
                late = [word for word in fit if 2 * (ends[word] - start) > stop - start]
                choices = [[word for word in late if words[word][-1] in cut] for cut in _CUTS]
                stop = next((ends[of[-1]] for of in [*choices, fit] if of), stop)
            pieces.append(ids[start:stop].tolist())
            start = stop
        return pieces

    def _joined(self, parts: Sequence[Hypothesis]) -> Translation:
        texts = [self.target.decode(part.words) for part in parts]
        return Translation(
            " ".join(text for text in texts if text),
            sum((part.score for part in parts), 0.0),
            sum((part.log_prob for part in parts), 0.0),
        )


def limits_of(lengths: Int64[Tensor, " B"], config: TranslateConfig) -> Int64[Tensor, " B"]:
    """Most words of the translations of sources of these lengths, their ends included."""
    return ((lengths - 1) * config.max_ratio).long() + max(1, config.max_extra)


@torch.inference_mode()
def sample(
    model: Seq2Seq,
    memory: Memory,
    limits: Int64[Tensor, " B"],
    config: TranslateConfig,
    names: Sequence[Piece],
) -> list[list[Hypothesis]]:
    """Translations of each source drawn from the model, the likeliest first. The random numbers of
    a piece follow from its name and the seed, whatever it is translated together with."""
    count = config.search.nbest
    rows = torch.arange(len(memory), device=limits.device).repeat_interleave(count)
    key = Key(seed=config.seed, step=-1, path=("translate",))
    uniform = _uniform(key, names, count, limits.device)
    memory, limits = memory.select(rows), limits[rows]
    how = DecodeConfig(temperature=config.temperature, top_k=config.top_k)
    drawn = write(_Reading.step, _Reading.start(model, memory), limits, how, uniform)
    tokens, lengths = padded([[*words, EOS] for words in drawn])
    logs = model.log_probs(memory, tokens.to(limits.device), lengths.to(limits.device)).sum(1)
    every = [Hypothesis(words, log, log) for words, log in zip(drawn, logs.tolist(), strict=True)]
    return [
        sorted(every[start : start + count], key=lambda h: -h.score)
        for start in range(0, len(every), count)
    ]


def _uniform(key: Key, names: Sequence[Piece], count: int, device: torch.device) -> Uniform:
    """The draws of `count` rows of each piece, made for some words at once."""
    made = torch.empty(0)

    def uniform(rows: Tensor, place: int) -> Tensor:
        nonlocal made
        block, at = divmod(place, _DRAWN)
        if at == 0:
            own = torch.zeros(len(names), count, _DRAWN)
            for piece in (rows // count).unique().tolist():
                own[piece] = key.fold(*names[piece], block).uniform(count, _DRAWN)
            made = own.flatten(0, 1).to(device)
        return made[rows, at, None]

    return uniform


@torch.inference_mode()
def greedy(model: Seq2Seq, memory: Memory, limits: Int64[Tensor, " B"]) -> list[list[int]]:
    """The likeliest word each time, as ids."""
    reading = _Reading.start(model, memory)
    return write(_Reading.step, reading, limits, DecodeConfig())


class _Reading(NamedTuple):
    """What a translator carries from word to word, the memory of its source included."""

    model: Seq2Seq
    memory: Memory
    state: State

    @classmethod
    def start(cls, model: Seq2Seq, memory: Memory) -> _Reading:
        return cls(model, memory, model.start(memory))

    @staticmethod
    def step(words: Tensor, reading: _Reading) -> tuple[Tensor, _Reading]:
        logits, state = reading.model.step(reading.memory, reading.state, words)
        return logits, reading._replace(state=state)

    def keep(self, rows: Tensor) -> _Reading:
        return _Reading(self.model, self.memory.select(rows), self.state.select(rows))


def _at(best: Sequence[Hypothesis], n: int) -> Hypothesis:
    """The n-th of a piece's translations, or its last where it has fewer."""
    return best[min(n, len(best) - 1)]
