"""The embedded corpus: a probabilistic grammar with exact probabilities, styles and translations.

A sentence is made by choosing, in this order and independently but for what is written:

    construction   by its weight (grammar_constructions)
    style          positive or negative, 1/2 each
    scene          Zipf: the k-th of K scenes with probability proportional to k ** -0.5
    tense          past with probability 0.35, where the construction has a finite verb
    number         plural with probability 0.35, of each noun phrase
    gender         1/2 each, of each noun phrase with a person of either gender
    words          for each slot, from its class given all of the above (grammar_lexicon), Zipf:
                   the k-th of K with probability proportional to k ** -1.5

and reading the words off the construction's pattern. So nouns, verbs and places of a sentence share
a scene; verbs agree with a subject that may be a phrase or a clause away, determiners with their
noun, adverbs of time with the tense, possessives and reflexives with the subject's gender and
number; and all words of opinion in a sentence share its style. None of it shows in a bag of words.

The grammar is unambiguous (a test proves it from the tables), so that the probability of a sentence
is that of its one derivation and the entropy is a closed sum: no model's perplexity is below
`Grammar.perplexity_floor`. A second style and a second language are other readings of the same
derivation, which makes style transfer and translation exact.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lvtrain.errors import UserError, nearest
from lvtrain.grammar.constructions import CONSTRUCTIONS, Construction, Slot
from lvtrain.grammar.forms import (
    GENDER,
    NUMBER,
    SCENE,
    TENSE,
    Derivation,
    Forms,
    Reader,
    agreement,
    feature_values,
    write_foreign,
)
from lvtrain.grammar.lexicon import SCENES, STYLES, word_classes

# Of the values 0 and 1 of each feature: the tense, three numbers, three genders.
FEATURE_PROBABILITY = ((0.65, 0.35),) * 4 + ((0.5, 0.5),) * 3
STYLE_PROBABILITY = (0.5, 0.5)
SCENE_EXPONENT = 0.5
WORD_EXPONENT = 1.5

# Each sentence owns 24 consecutive 32-bit draws, which are three steps of Philox's counter: for its
# construction, style, scene and seven features, then one for each word chosen.
DRAWS, STEPS, FIRST_FEATURE, FIRST_WORD = 24, 3, 3, 10
BLOCK = 1 << 15


@dataclass(frozen=True)
class Plan:
    """A construction made ready over the grammar's words."""

    construction: Construction
    choices: tuple[Slot, ...]  # the slots with more than one word to choose from
    features: tuple[bool, ...]  # which of a derivation's features it uses
    readers: tuple[tuple[tuple[Reader, int], ...], ...]  # style, slot -> reader, choice or -1


def zipf(size: int, exponent: float) -> np.ndarray:
    weights = np.arange(1.0, size + 1) ** -exponent
    return weights / weights.sum()


def _entropy(probability: Sequence[float] | np.ndarray) -> float:
    return -math.fsum(p * math.log(p) for p in probability)


def _draw(probability: Sequence[float] | np.ndarray, uniform: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.cumsum(probability)[:-1], uniform, side="right")


class Grammar:
    """The grammar over some scenes and constructions (all, unless named).

    `concepts` keeps the first so many words of each class, for grammars small enough to enumerate.
    Sentences are lower-case words parted by single spaces, without a full stop. Probabilities are
    natural logarithms, entropies nats.
    """

    def __init__(
        self,
        *,
        scenes: Sequence[str] | None = None,
        constructions: Sequence[str] | None = None,
        concepts: int | None = None,
    ) -> None:
        self.scenes = _select("scene", tuple(SCENES), scenes)
        names = _select("construction", tuple(c.name for c in CONSTRUCTIONS), constructions)
        chosen = [next(c for c in CONSTRUCTIONS if c.name == name) for name in names]
        self.constructions = names
        self.classes = word_classes(self.scenes, concepts)
        self._forms = Forms(self.classes, len(self.scenes))
        weights = np.array([c.weight for c in chosen], dtype=np.float64)
        self.construction_probability = weights / weights.sum()
        self.scene_probability = zipf(len(self.scenes), SCENE_EXPONENT)
        self._zipf = {k.size: zipf(k.size, WORD_EXPONENT) for k in self.classes.values()}
        self._plans = tuple(map(self._plan, chosen))
        self._plans_by_length: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for (index, plan), style in itertools.product(enumerate(self._plans), range(len(STYLES))):
            length = sum(reader.words for reader, _ in plan.readers[style])
            self._plans_by_length[length].append((index, style))

    def log_probability(self, sentence: str) -> float:
        """log p(sentence), summed over all of its derivations; -inf if it has none."""
        logs = [self._log_probability(derivation) for derivation in self.derivations(sentence)]
        return float(np.logaddexp.reduce(logs)) if logs else -math.inf

    def is_grammatical(self, sentence: str) -> bool:
        return next(self.derivations(sentence), None) is not None

    def perplexity(self, sentences: Iterable[str]) -> float:
        """exp(-sum log p / sum (words + 1)), the end of a sentence counted as a word."""
        total, tokens = 0.0, 0
        for sentence in sentences:
            total += self.log_probability(sentence)
            tokens += len(sentence.split()) + 1
        return math.exp(-total / tokens) if total > -math.inf else math.inf

    def entropy(self) -> float:
        """H(sentence) = H(construction) + H(style) + H(scene) + the mean of what these leave."""
        shared = _entropy(STYLE_PROBABILITY) + _entropy(self.scene_probability)
        left = [
            sum(
                _entropy(p)
                for p, used in zip(FEATURE_PROBABILITY, plan.features, strict=True)
                if used
            )
            + sum(_entropy(self._word_probability(slot)) for slot in plan.choices)
            for plan in self._plans
        ]
        each = float(self.construction_probability @ np.array(left))
        return _entropy(self.construction_probability) + shared + each

    def mean_words(self) -> float:
        lengths = [sum(r.words for s in p.readers for r, _ in s) / len(STYLES) for p in self._plans]
        return float(self.construction_probability @ np.array(lengths))

    def perplexity_floor(self) -> float:
        """The perplexity of the grammar on its own sentences: exp(H / (mean words + 1))."""
        return math.exp(self.entropy() / (self.mean_words() + 1))

    def count(self) -> int:
        """The number of sentences."""
        return sum(
            len(STYLES)
            * len(self.scenes)
            * 2 ** sum(plan.features)
            * math.prod(self.classes[slot.word_class].size for slot in plan.choices)
            for plan in self._plans
        )

    def vocabulary(self) -> list[str]:
        """Every English word, sorted."""
        readers = (r for plan in self._plans for style in plan.readers for r, _ in style)
        return sorted({word for r in readers for form in r.entries for word in form.split(" ")})

    def sample(self, n: int, seed: int, *, start: int = 0, style: int | None = None) -> list[str]:
        """Sentences start .. start + n - 1 of corpus `seed`; each a function of (seed, its index).

        A `style` restricts to that style, in a corpus of its own: those of the two styles are
        independent, not each other's transfer.
        """
        if n < 0 or start < 0 or seed < 0:
            raise UserError(f"n, seed and start must be 0 or more, found {n}, {seed} and {start}")
        if style not in (None, 0, 1):
            raise UserError(f"style must be 0 ({STYLES[0]}) or 1 ({STYLES[1]}), found {style}")
        sentences: list[str] = []
        for first in range(start, start + n, BLOCK):
            sentences += self._sample(min(BLOCK, start + n - first), seed, first, style)
        return sentences

    def blocks(
        self,
        seed: int,
        *,
        sentences: int | None = None,
        words: int | None = None,
        start: int = 0,
    ) -> Iterator[list[str]]:
        """`sample`, some thousands of sentences at a time: so many sentences from `start` on, or
        the fewest that have so many words together."""
        done = 0
        while True:
            n = BLOCK if sentences is None else min(BLOCK, sentences - done)
            if n <= 0:
                return
            block = self.sample(n, seed, start=start + done)
            if words is not None:
                counts = np.cumsum([text.count(" ") + 1 for text in block])
                if counts[-1] >= words:
                    yield block[: int(np.searchsorted(counts, words)) + 1]
                    return
                words -= int(counts[-1])
            yield block
            done += n

    def sample_pairs(self, n: int, seed: int, *, start: int = 0) -> list[tuple[str, str]]:
        """`sample`, each sentence with one of its translations."""
        sources = self.sample(n, seed, start=start)
        return [
            (source, self.translate(source, seed + start + i)) for i, source in enumerate(sources)
        ]

    def sample_labelled(self, n: int, seed: int, *, start: int = 0) -> list[tuple[str, int]]:
        """`sample`, each sentence with its style."""
        return [(text, self.style_of(text)) for text in self.sample(n, seed, start=start)]

    def enumerate(self) -> Iterator[str]:
        """All sentences, one for each derivation; `count` says how many."""
        for index, plan in enumerate(self._plans):
            features = itertools.product(*(range(1 + used) for used in plan.features))
            sizes = (range(self.classes[slot.word_class].size) for slot in plan.choices)
            styles, scenes = range(len(STYLES)), range(len(self.scenes))
            for chosen in itertools.product(styles, scenes, features, itertools.product(*sizes)):
                yield self.render(Derivation(index, *chosen))

    def derivations(self, sentence: str) -> Iterator[Derivation]:
        """All ways to derive the sentence: one if it is grammatical, else none."""
        words = sentence.split(" ")
        for index, style in self._plans_by_length.get(len(words), ()):
            plan = self._plans[index]
            concepts = [0] * len(plan.choices)
            bits, at = -1, 0
            for reader, choice in plan.readers[style]:
                end = at + reader.words
                entry = reader.entries.get(words[at] if end == at + 1 else " ".join(words[at:end]))
                if entry is None:
                    break
                bits &= entry[1]
                at = end
                if choice >= 0:
                    concepts[choice] = entry[0]
            else:
                scenes = [s for s in range(len(self.scenes)) if bits >> 2 * SCENE + s & 1]
                values = feature_values(bits, plan.features)
                for scene, *features in itertools.product(scenes, *values):
                    yield Derivation(index, style, scene, tuple(features), tuple(concepts))

    def parse(self, sentence: str) -> Derivation:
        """The derivation of a sentence. Raises `UserError` if it is not grammatical."""
        derivation = next(self.derivations(sentence), None)
        if derivation is None:
            raise UserError(f"not a sentence of the grammar: '{sentence}'")
        return derivation

    def render(self, derivation: Derivation) -> str:
        """The English sentence of a derivation."""
        plan = self._plans[derivation.construction]
        concepts = dict(zip((s.key for s in plan.choices), derivation.concepts, strict=True))
        words = []
        for slot in plan.construction.patterns[derivation.style]:
            spelt = self._forms.spell(slot, derivation.style)
            number, gender = agreement(slot, derivation.features)
            tense, concept = derivation.features[TENSE], concepts.get(slot.key, 0)
            words.append(spelt[derivation.scene, tense, number, gender, concept])
        return "".join(words)[1:]

    def construction_of(self, sentence: str) -> str:
        return self.constructions[self.parse(sentence).construction]

    def scene_of(self, sentence: str) -> str:
        return self.scenes[self.parse(sentence).scene]

    def style_of(self, sentence: str) -> int:
        """0 for positive, 1 for negative."""
        return self.parse(sentence).style

    def transfer(self, sentence: str) -> str:
        """The same content in the other style; its own inverse."""
        derivation = self.parse(sentence)
        return self.render(replace(derivation, style=1 - derivation.style))

    def translations(self, sentence: str) -> list[str]:
        """All translations: every word order with every choice of synonyms, each once."""
        derivation = self.parse(sentence)
        plan = self._plans[derivation.construction]
        orders = plan.construction.orders[derivation.style]
        concepts = dict(zip((s.key for s in plan.choices), derivation.concepts, strict=True))
        words = {}
        for slot in filter(lambda slot: slot.word_class, orders[0]):
            _, gender = agreement(slot, derivation.features)
            of_class = self.classes[slot.word_class].at(derivation.scene, derivation.style, gender)
            words[slot.key] = of_class[concepts.get(slot.key, 0)]
        return [
            write_foreign(derivation, order, words, dict(zip(words, stems, strict=True)))
            for stems in itertools.product(*(word.stems for word in words.values()))
            for order in orders
        ]

    def valid_translations(self, sentence: str) -> frozenset[str]:
        """All translations; none of a sentence that is not grammatical."""
        return frozenset(self.translations(sentence) if self.is_grammatical(sentence) else ())

    def translate(self, sentence: str, seed: int) -> str:
        """One of the translations, all equally likely; a function of (sentence, seed)."""
        return random.Random(f"{seed}\n{sentence}").choice(self.translations(sentence))

    def _plan(self, construction: Construction) -> Plan:
        pattern = construction.patterns[0]
        choices = tuple(
            slot for slot in pattern if slot.word_class and self.classes[slot.word_class].size > 1
        )
        spelt = [self._forms.spell(slot, 0) for slot in pattern]
        features = [False] * SCENE
        features[TENSE] = any((forms[:, 0] != forms[:, 1]).any() for forms in spelt)
        for slot in pattern:
            for phrase in slot.phrases:
                features[NUMBER + phrase] = True
            if slot.word_class == "PERSON":
                features[GENDER + slot.phrases[0]] = True
        position = {slot.key: i for i, slot in enumerate(choices)}
        readers = tuple(
            tuple((self._forms.reader(s, style), position.get(s.key, -1)) for s in of_style)
            for style, of_style in enumerate(construction.patterns)
        )
        return Plan(construction, choices, tuple(features), readers)

    def _word_probability(self, slot: Slot) -> np.ndarray:
        return self._zipf[self.classes[slot.word_class].size]

    def _log_probability(self, derivation: Derivation) -> float:
        plan = self._plans[derivation.construction]
        p = self.construction_probability[derivation.construction]
        p *= STYLE_PROBABILITY[derivation.style] * self.scene_probability[derivation.scene]
        for f, used in enumerate(plan.features):
            p *= FEATURE_PROBABILITY[f][derivation.features[f]] if used else 1.0
        for slot, concept in zip(plan.choices, derivation.concepts, strict=True):
            p *= self._word_probability(slot)[concept]
        return math.log(p)

    def _sample(self, n: int, seed: int, start: int, style: int | None) -> list[str]:
        # One key for each (seed, style): the style sits above a seed's 64 bits.
        key = seed % 2**64 + (0 if style is None else (style + 1) << 64)
        raw = np.random.Philox(key=key, counter=start * STEPS).random_raw(n * DRAWS // 2)
        uniform = raw.view(np.uint32).reshape(n, DRAWS).T / 2.0**32
        styles = _draw(STYLE_PROBABILITY, uniform[1]) if style is None else np.full(n, style)
        scenes = _draw(self.scene_probability, uniform[2])
        features = np.stack(
            [_draw(p, uniform[FIRST_FEATURE + f]) for f, p in enumerate(FEATURE_PROBABILITY)]
        )
        group = len(STYLES) * _draw(self.construction_probability, uniform[0]) + styles
        sentences = np.empty(n, dtype=object)
        for g in np.unique(group):
            plan, of_style = self._plans[g // len(STYLES)], int(g % len(STYLES))
            rows = np.flatnonzero(group == g)
            scene, feature = scenes[rows], features[:, rows]
            concepts = {
                slot.key: _draw(self._word_probability(slot), uniform[FIRST_WORD + i, rows])
                for i, slot in enumerate(plan.choices)
            }
            text: np.ndarray | str = ""
            for slot in plan.construction.patterns[of_style]:
                number, gender = agreement(slot, feature)
                spelt = self._forms.spell(slot, of_style)
                at = (scene, feature[TENSE], number, gender, concepts.get(slot.key, 0))
                text = text + spelt[at]
            sentences[rows] = text
        return [sentence[1:] for sentence in sentences]


def _select(what: str, known: tuple[str, ...], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        return known
    if not names:
        raise UserError(f"expected at least one {what}, found none")
    for name in names:
        if name not in known:
            raise UserError(f"unknown {what} '{name}'{nearest(name, known)}")
    return tuple(dict.fromkeys(names))
