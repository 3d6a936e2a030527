"""The forms that a slot of a construction takes: to write them and to read them back.

A slot's form depends on features: the scene, the tense, and the number and gender of the noun
phrase that it agrees with. Read backwards, a form allows a set of values of each feature, and all
combinations of them; so the features of a sentence are the intersection of what its words allow.
These sets are bits of one integer, two bits (values 0 and 1) for each two-valued feature

    tense, numbers of phrases 1 2 3, genders of phrases 1 2 3

and then one for each scene, so that a sentence is parsed by looking its words up and AND-ing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lvtrain.grammar.constructions import NOUNS, Slot
from lvtrain.grammar.lexicon import GENDERS, NUMBERS, TENSES, Word, WordClass

TENSE, NUMBER, GENDER, SCENE = 0, 1, 4, 7
_VALUES = ((), (0,), (1,), (0, 1))


@dataclass(frozen=True)
class Derivation:
    """What a sentence says: its construction, style, scene, other features and concepts.

    `features` are those of the module's docstring, in that order, 0 where not in use; `concepts`
    name the words of the construction's choices, in the order of its positive pattern.
    """

    construction: int
    style: int
    scene: int
    features: tuple[int, ...]
    concepts: tuple[int, ...]


@dataclass(frozen=True)
class Reader:
    """Reads one slot: a form of so many `words` -> (its concept, the features it allows)."""

    words: int
    entries: dict[str, tuple[int, int]]


def agreement(slot: Slot, features: Any) -> tuple[Any, Any]:
    """The number and gender of the phrase the slot agrees with; two phrases make a plural.

    `features` is a tuple of integers, or an array of them with one row for each feature.
    """
    if len(slot.phrases) == 1:
        return features[NUMBER + slot.phrases[0]], features[GENDER + slot.phrases[0]]
    return len(slot.phrases) // 2, 0


def feature_values(bits: int, used: tuple[bool, ...]) -> list[tuple[int, ...]]:
    """The values allowed of each two-valued feature; just 0 of one not in use."""
    return [_VALUES[bits >> 2 * f & 3] if in_use else (0,) for f, in_use in enumerate(used)]


class Forms:
    """The English forms of every class over so many scenes."""

    def __init__(self, classes: dict[str, WordClass], scenes: int) -> None:
        self.classes = classes
        self.scenes = scenes
        self._spelt: dict[tuple[str, bool, int], np.ndarray] = {}
        self._read: dict[tuple[str, bool, int, int], dict[str, tuple[int, list[int]]]] = {}

    def spell(self, slot: Slot, style: int) -> np.ndarray:
        """The slot's forms, each after a space: `[scene, tense, number, gender, concept]`."""
        key = (slot.word_class or slot.key, slot.infinitive, style)
        if key not in self._spelt:
            size = self.classes[slot.word_class].size if slot.word_class else 1
            shape = (self.scenes, len(TENSES), len(NUMBERS), len(GENDERS), size)
            spelt = np.full(shape, " " + slot.key, dtype=object)
            for index in np.ndindex(shape) if slot.word_class else ():
                scene, tense, number, gender, concept = index
                word = self.classes[slot.word_class].at(scene, style, gender)[concept]
                spelt[index] = " " + word.form(-1 if slot.infinitive else tense, number)
            self._spelt[key] = spelt
        return self._spelt[key]

    def reader(self, slot: Slot, style: int) -> Reader:
        """What `spell` writes, read backwards."""
        key = (slot.word_class or slot.key, slot.infinitive, style, len(slot.phrases))
        if key not in self._read:
            spelt = self.spell(slot, style)
            read: dict[str, tuple[int, list[int]]] = {}
            for *values, concept in np.ndindex(spelt.shape):
                form = str(spelt[(*values, concept)])[1:]
                if len(slot.phrases) == 2 and values[2] == 0:
                    continue
                _, allowed = read.setdefault(form, (concept, [0, 0, 0, 0]))
                for axis, value in enumerate(values):
                    allowed[axis] |= 1 << value
            self._read[key] = read
        entries = {
            form: (concept, self._bits(slot, *allowed))
            for form, (concept, allowed) in self._read[key].items()
        }
        return Reader(len(next(iter(entries)).split(" ")), entries)

    def _bits(self, slot: Slot, scenes: int, tenses: int, numbers: int, genders: int) -> int:
        allowed = [3] * SCENE
        allowed[TENSE] = tenses
        if len(slot.phrases) == 1:
            allowed[NUMBER + slot.phrases[0]] = numbers
            allowed[GENDER + slot.phrases[0]] = genders
        return sum(a << 2 * f for f, a in enumerate(allowed)) | scenes << 2 * SCENE


def write_foreign(
    derivation: Derivation, order: tuple[Slot, ...], words: dict[str, Word], stems: dict[str, str]
) -> str:
    """The foreign sentence: whatever agrees with a phrase takes the gender of its noun's stem."""
    gender_of = {slot.phrases[0]: stems[slot.key][-1] for slot in order if slot.word_class in NOUNS}
    forms = []
    for slot in order:
        if slot.word_class:
            tense = -1 if slot.infinitive else derivation.features[TENSE]
            number, _ = agreement(slot, derivation.features)
            gender = gender_of.get(slot.phrases[0], "") if slot.phrases else ""
            forms.append(words[slot.key].inflect(stems[slot.key], tense, number, gender))
        else:
            forms.append(slot.key)
    return " ".join(forms)
