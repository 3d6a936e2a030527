"""The constructions of the embedded corpus: how words combine, in each of its two languages.

A pattern is a sequence of slots and of literal words. A slot is the name of a word class, in
capitals, and the noun phrase it agrees with: `VERB1` agrees in number with phrase 1, `THEIR1` in
number and gender, `LIKE12` with phrases 1 and 2 together and so is plural; a slot with no digit
agrees with nothing; `.inf` asks for the infinitive. The negative style has the positive one's
pattern, with words of its own, unless it is given: there transfer moves words, adds or drops them.

The second language puts adjectives after the noun, the verb last in a subordinate clause and an
infinitive last in its clause; the verb of a main clause comes second. `|` parts word orders that
are equally good.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

NOUNS = ("PERSON", "HE", "SHE", "THING")


@dataclass(frozen=True)
class Slot:
    """One place of a pattern; a literal word has no `word_class`."""

    key: str
    word_class: str
    phrases: tuple[int, ...]
    infinitive: bool


def parse_pattern(pattern: str) -> tuple[Slot, ...]:
    slots = []
    for item in pattern.split():
        match = re.fullmatch(r"([A-Z]+)([123]*)(\.inf)?", item)
        if match is None:
            slots.append(Slot(item, "", (), False))
        else:
            name, digits, infinitive = match.groups()
            phrases = tuple(int(digit) - 1 for digit in digits)
            slots.append(Slot(name + digits, name, phrases, infinitive is not None))
    return tuple(slots)


@dataclass(frozen=True, kw_only=True)
class Construction:
    """A kind of sentence: its relative frequency, its patterns, an example."""

    name: str
    weight: float
    english: str
    english_negative: str | None = None
    foreign: str
    foreign_negative: str | None = None

    @cached_property
    def patterns(self) -> tuple[tuple[Slot, ...], ...]:
        """The English pattern of each style."""
        return parse_pattern(self.english), parse_pattern(self.english_negative or self.english)

    @cached_property
    def orders(self) -> tuple[tuple[tuple[Slot, ...], ...], ...]:
        """The foreign word orders of each style."""
        each = (self.foreign, self.foreign_negative or self.foreign)
        return tuple(tuple(map(parse_pattern, orders.split("|"))) for orders in each)

    @cached_property
    def phrases(self) -> tuple[int, ...]:
        """The noun phrases, each of which has a number of its own."""
        return tuple(sorted({phrase for slot in self.patterns[0] for phrase in slot.phrases}))

    @cached_property
    def gendered(self) -> tuple[int, ...]:
        """The noun phrases whose person may be of either gender."""
        persons = [slot for slot in self.patterns[0] if slot.word_class == "PERSON"]
        return tuple(sorted(slot.phrases[0] for slot in persons))


CONSTRUCTIONS = (
    Construction(  # gently taste the soup
        name="command",
        weight=5,
        english="MANNER VERB.inf DET2 THING2",
        foreign="MANNER VERB.inf DET2 THING2",
    ),
    Construction(  # the soups are good
        name="quality",
        weight=6,
        english="DET2 THING2 BE2 QUALITY2",
        foreign="DET2 THING2 BE2 QUALITY2",
    ),
    Construction(  # the chefs smile in the kitchen
        name="feeling",
        weight=7,
        english="DET1 PERSON1 FEEL1 PLACE",
        foreign="DET1 PERSON1 FEEL1 PLACE | PLACE FEEL1 DET1 PERSON1",
    ),
    Construction(  # luckily the chef tasted the soup; the chef tasted the soup unluckily
        name="verdict",
        weight=10,
        english="VERDICT DET1 PERSON1 VERB1 DET2 THING2",
        english_negative="DET1 PERSON1 VERB1 DET2 THING2 VERDICT",
        foreign="VERDICT VERB1 DET1 PERSON1 DET2 THING2",
    ),
    Construction(  # the girl gladly tastes her soup
        name="possessive",
        weight=9,
        english="DET1 PERSON1 MANNER VERB1 THEIR1 THING2",
        foreign="DET1 PERSON1 VERB1 MANNER THEIR2 THING2",
    ),
    Construction(  # the waiters with the soup smile
        name="company",
        weight=7,
        english="DET1 PERSON1 with DET2 THING2 FEEL1",
        foreign="DET1 PERSON1 kun DET2 THING2 FEEL1",
    ),
    Construction(  # the boys praise themselves in the kitchen
        name="reflexive",
        weight=6,
        english="DET1 PERSON1 LIKE1 SELF1 PLACE",
        foreign="DET1 PERSON1 SELF1 LIKE1 PLACE | PLACE SELF1 LIKE1 DET1 PERSON1",
    ),
    Construction(  # there are three kind chefs in the kitchen
        name="existence",
        weight=6,
        english="there BE1 SOME1 TRAIT1 PERSON1 PLACE",
        foreign="PLACE BE1 SOME1 PERSON1 TRAIT1 | ekke BE1 SOME1 PERSON1 TRAIT1 PLACE",
    ),
    Construction(  # yesterday the chefs gladly tasted a soup
        name="time",
        weight=8,
        english="TIME DET1 PERSON1 MANNER VERB1 DET2 THING2",
        foreign="TIME VERB1 DET1 PERSON1 MANNER DET2 THING2"
        " | DET1 PERSON1 VERB1 MANNER DET2 THING2 TIME",
    ),
    Construction(  # the chef and a girl love the soup
        name="together",
        weight=6,
        english="DET1 HE1 and DET2 SHE2 LIKE12 DET3 THING3",
        foreign="DET1 HE1 e DET2 SHE2 LIKE12 DET3 THING3",
    ),
    Construction(  # the chefs who tasted the soup smiled
        name="subject relative",
        weight=7,
        english="DET1 PERSON1 who VERB1 DET2 THING2 FEEL1",
        foreign="DET1 PERSON1 ke DET2 THING2 VERB1 FEEL1",
    ),
    Construction(  # the soups that the chef tasted were good
        name="object relative",
        weight=7,
        english="DET2 THING2 that DET1 PERSON1 VERB1 BE2 QUALITY2",
        foreign="DET2 THING2 ke DET1 PERSON1 VERB1 BE2 QUALITY2",
    ),
    Construction(  # the chef wants to taste the soup; the chef does not want to taste the soup
        name="wish",
        weight=7,
        english="DET1 PERSON1 WISH1 to VERB.inf DET2 THING2",
        english_negative="DET1 PERSON1 DO1 not WISH1.inf to VERB.inf DET2 THING2",
        foreign="DET1 PERSON1 WISH1 DET2 THING2 VERB.inf",
        foreign_negative="DET1 PERSON1 ne WISH1 DET2 THING2 VERB.inf",
    ),
    Construction(  # the soups in the kitchen are perfect; the soups in the kitchen are not perfect
        name="virtue",
        weight=6,
        english="DET2 THING2 PLACE BE2 VIRTUE2",
        english_negative="DET2 THING2 PLACE BE2 not VIRTUE2",
        foreign="DET2 THING2 PLACE BE2 VIRTUE2",
        foreign_negative="DET2 THING2 PLACE ne BE2 VIRTUE2",
    ),
    Construction(  # the chef smiles because the soups are good
        name="reason",
        weight=6,
        english="DET1 PERSON1 FEEL1 because DET2 THING2 BE2 QUALITY2",
        foreign="DET1 PERSON1 FEEL1 kar DET2 THING2 QUALITY2 BE2"
        " | kar DET2 THING2 QUALITY2 BE2 FEEL1 DET1 PERSON1",
    ),
    Construction(  # the kind chef with the cake tastes the soup
        name="attribute",
        weight=4,
        english="DET1 TRAIT1 PERSON1 with DET3 THING3 VERB1 DET2 THING2",
        foreign="DET1 PERSON1 TRAIT1 kun DET3 THING3 VERB1 DET2 THING2",
    ),
    Construction(  # the chef tastes the good soup in the kitchen
        name="object",
        weight=4,
        english="DET1 PERSON1 VERB1 DET2 QUALITY2 THING2 PLACE",
        foreign="DET1 PERSON1 VERB1 DET2 THING2 QUALITY2 PLACE"
        " | PLACE VERB1 DET1 PERSON1 DET2 THING2 QUALITY2",
    ),
    Construction(  # when the chefs taste a soup the girl smiles
        name="occasion",
        weight=4,
        english="when DET1 PERSON1 VERB1 DET2 THING2 DET3 PERSON3 FEEL3",
        foreign="wan DET1 PERSON1 DET2 THING2 VERB1 FEEL3 DET3 PERSON3"
        " | DET3 PERSON3 FEEL3 wan DET1 PERSON1 DET2 THING2 VERB1",
    ),
    Construction(  # yesterday the chefs who tasted the soup loved a good cake
        name="narrative",
        weight=3,
        english="TIME DET1 PERSON1 who VERB1 DET2 THING2 LIKE1 DET3 QUALITY3 THING3",
        foreign="TIME LIKE1 DET1 PERSON1 ke DET2 THING2 VERB1 DET3 THING3 QUALITY3"
        " | DET1 PERSON1 ke DET2 THING2 VERB1 LIKE1 DET3 THING3 QUALITY3 TIME",
    ),
)
