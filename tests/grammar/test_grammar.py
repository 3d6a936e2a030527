from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.errors import UserError
from lvtrain.grammar.constructions import CONSTRUCTIONS
from lvtrain.grammar.forms import SCENE, feature_values
from lvtrain.grammar.grammar import BLOCK, Grammar
from lvtrain.grammar.lexicon import SCENES

FULL = Grammar()
SAMPLE = FULL.sample(4000, seed=7)
SHORT = Grammar(
    scenes=("kitchen", "zoo"),
    constructions=("command", "quality", "feeling", "verdict"),
    concepts=2,
)
ALL_SHORT = frozenset(SHORT.enumerate())

any_sentence = st.integers(0, 10_000).map(lambda i: FULL.sample(1, seed=3, start=i)[0])


def test_it_has_the_promised_size() -> None:
    assert 300 <= len(FULL.vocabulary()) <= 600
    assert FULL.count() > 10**7
    lengths = [len(sentence.split()) for sentence in SAMPLE]
    assert min(lengths) >= 3 and max(lengths) <= 15
    assert len(FULL.constructions) >= 14 and len(FULL.scenes) == 12
    assert 4 <= FULL.perplexity_floor() <= 8


def test_sentences_are_lower_case_words_parted_by_single_spaces() -> None:
    vocabulary = set(FULL.vocabulary())
    for sentence in SAMPLE:
        words = sentence.split(" ")
        assert all(word.isalpha() and word.islower() for word in words)
        assert vocabulary.issuperset(words)


def test_every_article_fits_the_word_it_stands_before() -> None:
    pairs = (pair for sentence in SAMPLE for pair in itertools.pairwise(sentence.split()))
    assert all(second[0] not in "aeiou" for first, second in pairs if first == "a")


@pytest.mark.parametrize("construction", [c.name for c in CONSTRUCTIONS])
def test_the_probabilities_of_all_sentences_of_a_construction_sum_to_one(construction: str) -> None:
    grammar = Grammar(scenes=("farm", "zoo"), constructions=(construction,), concepts=1)
    sentences = list(grammar.enumerate())
    assert len(sentences) == len(set(sentences)) == grammar.count()
    total = math.fsum(math.exp(grammar.log_probability(sentence)) for sentence in sentences)
    assert total == pytest.approx(1, abs=1e-12)


def test_the_probabilities_and_entropy_of_a_small_grammar_agree_with_enumeration() -> None:
    logs = [SHORT.log_probability(sentence) for sentence in ALL_SHORT]
    assert len(ALL_SHORT) == SHORT.count()
    assert math.fsum(map(math.exp, logs)) == pytest.approx(1, abs=1e-11)
    assert -math.fsum(math.exp(log) * log for log in logs) == pytest.approx(SHORT.entropy())


def test_no_two_patterns_share_a_sentence() -> None:
    """Any two of the same length have a position at which they have no word in common."""
    patterns = []
    for plan, style in itertools.product(FULL._plans, (0, 1)):
        words = []
        for reader, _ in plan.readers[style]:
            words += [set(column) for column in zip(*map(str.split, reader.entries), strict=True)]
        patterns.append(words)
    for one, other in itertools.combinations(patterns, 2):
        assert len(one) != len(other) or any(
            a.isdisjoint(b) for a, b in zip(one, other, strict=True)
        )


def test_no_pattern_derives_a_sentence_twice() -> None:
    """Of each feature in use, and of the scene, every sentence has a word that leaves one value."""
    for plan, style in itertools.product(FULL._plans, (0, 1)):
        readers = [reader for reader, _ in plan.readers[style]]
        for feature in np.flatnonzero(plan.features):
            values = [
                {
                    len(feature_values(bits, plan.features)[feature])
                    for _, bits in r.entries.values()
                }
                for r in readers
            ]
            assert {1} in values
        scenes = [{(b >> 2 * SCENE).bit_count() for _, b in r.entries.values()} for r in readers]
        assert {1} in scenes


@given(any_sentence)
def test_rendering_the_derivation_of_a_sentence_gives_the_sentence(sentence: str) -> None:
    (derivation,) = FULL.derivations(sentence)
    assert FULL.render(derivation) == sentence


def test_entropy_is_the_mean_of_minus_log_probability() -> None:
    bits = -np.array([FULL.log_probability(sentence) for sentence in SAMPLE])
    assert abs(bits.mean() - FULL.entropy()) < 4 * bits.std() / math.sqrt(len(bits))


def test_perplexity_of_samples_approaches_the_floor() -> None:
    assert FULL.perplexity(SAMPLE) == pytest.approx(FULL.perplexity_floor(), rel=0.03)
    one = SAMPLE[0]
    tokens = len(one.split()) + 1
    assert FULL.perplexity([one]) == pytest.approx(math.exp(-FULL.log_probability(one) / tokens))
    assert FULL.perplexity([*SAMPLE, "the the"]) == math.inf


def test_sentences_are_drawn_with_their_probability() -> None:
    grammar = Grammar(scenes=("kitchen", "zoo"), constructions=("command", "quality"), concepts=2)
    n = 20_000
    counts = Counter(grammar.sample(n, seed=1))
    expected = {s: n * math.exp(grammar.log_probability(s)) for s in grammar.enumerate()}
    chi_square = sum((counts[s] - e) ** 2 / e for s, e in expected.items())
    freedom = len(expected) - 1
    assert counts.keys() <= expected.keys()
    assert abs(chi_square - freedom) < 5 * math.sqrt(2 * freedom)


def test_a_sentence_is_a_function_of_the_seed_and_its_index() -> None:
    assert FULL.sample(50, seed=9) == FULL.sample(80, seed=9)[:50]
    assert FULL.sample(10, seed=9, start=17) == FULL.sample(27, seed=9)[17:]
    across = SHORT.sample(BLOCK + 5, seed=2)
    assert SHORT.sample(10, seed=2, start=BLOCK - 5) == across[-10:]
    assert FULL.sample(50, seed=9) != FULL.sample(50, seed=10)
    assert FULL.sample(0, seed=9) == []


def test_blocks_are_the_sample_in_pieces() -> None:
    whole = SHORT.sample(BLOCK + 100, seed=2)
    assert [s for block in SHORT.blocks(2, sentences=BLOCK + 100) for s in block] == whole
    parts = [SHORT.blocks(2, sentences=40, start=start) for start in (5, 45)]
    assert [s for part in parts for block in part for s in block] == whole[5:85]
    sizes = np.cumsum([len(sentence.split()) for sentence in whole])
    for words in (1, int(sizes[0]), int(sizes[0]) + 1, int(sizes[BLOCK - 1]), int(sizes[-1])):
        found = [s for block in SHORT.blocks(2, words=words) for s in block]
        assert found == whole[: len(found)]
        assert sizes[len(found) - 1] >= words > (sizes[len(found) - 2] if len(found) > 1 else 0)


def test_a_sample_can_be_of_one_style() -> None:
    positive, negative = (FULL.sample(300, seed=5, style=style) for style in (0, 1))
    assert {FULL.style_of(sentence) for sentence in positive} == {0}
    assert {FULL.style_of(sentence) for sentence in negative} == {1}
    parallel = sum(FULL.transfer(p) == n for p, n in zip(positive, negative, strict=True))
    assert parallel == 0


def test_labels_and_pairs_are_those_of_the_same_sample() -> None:
    plain = FULL.sample(100, seed=4, start=30)
    labelled = FULL.sample_labelled(100, seed=4, start=30)
    pairs = FULL.sample_pairs(100, seed=4, start=30)
    assert [text for text, _ in labelled] == [source for source, _ in pairs] == plain
    assert all(FULL.style_of(text) == style for text, style in labelled)
    assert all(target in FULL.valid_translations(source) for source, target in pairs)
    assert FULL.sample_pairs(10, seed=4, start=40) == pairs[10:20]


VIOLATIONS = [
    ("the chefs who tasted the soup smile", "tense of the main verb"),
    ("the chefs who taste the soup smiles", "number across a relative clause"),
    ("the waiters with the soup smiles", "number across a phrase"),
    ("the soups that the chef tastes is good", "number across an object relative clause"),
    ("the chef and a girl loves the soup", "number of a coordination"),
    ("a chefs smile in the kitchen", "number of the determiner"),
    ("these chef smiles in the kitchen", "number of the determiner"),
    ("there is three kind chefs in the kitchen", "number of the verb before its subject"),
    ("the girl gladly tastes his soup", "gender of the possessive"),
    ("the girls gladly taste her soup", "number of the possessive"),
    ("the boy praises herself in the kitchen", "gender of the reflexive"),
    ("yesterday the chef gladly tastes the soup", "tense against the adverb"),
    ("today the chef gladly tasted the soup", "tense against the adverb"),
    ("the chef smiles because the soup was good", "tense of the clause"),
    ("the chef smiles because the soup is bad", "style of the clause"),
    ("the soups that the chef tastes are perfect", "class of the adjective"),
    ("the chef tastes the good soup in the barn", "scene of the place"),
    ("the chef gladly tastes his letter", "scene of the object"),
    ("the sailors who taste the soup smile", "scene of the subject"),
    ("the chef does not wants to taste the soup", "form after do"),
    ("the chef tasted the soup luckily", "place of the verdict in the positive style"),
    ("unluckily the chef tasted the soup", "place of the verdict in the negative style"),
    ("the chef  smiles in the kitchen", "two spaces"),
    ("the chef smiles", "unfinished"),
    ("", "empty"),
]


@pytest.mark.parametrize(("sentence", "violation"), VIOLATIONS, ids=[v for _, v in VIOLATIONS])
def test_it_rejects(sentence: str, violation: str) -> None:
    assert not FULL.is_grammatical(sentence)
    assert FULL.log_probability(sentence) == -math.inf


@pytest.mark.parametrize(
    "sentence",
    [
        "the chefs who tasted the soup smiled",
        "the soups that the chef tastes are good",
        "the chef and a girl love the soup",
        "the girls gladly taste their soup",
        "yesterday the chef gladly tasted the soup",
        "the chef does not want to taste the soup",
        "the chef tasted the soup unluckily",
    ],
)
def test_it_accepts(sentence: str) -> None:
    assert FULL.is_grammatical(sentence)
    assert FULL.log_probability(sentence) > -40


def test_a_bag_of_words_does_not_make_a_sentence() -> None:
    draw = random.Random(0)
    kept = 0
    for sentence in SAMPLE:
        words = sentence.split()
        draw.shuffle(words)
        shuffled = " ".join(words)
        kept += shuffled != sentence and FULL.is_grammatical(shuffled)
    assert kept / len(SAMPLE) < 0.02


def test_neighbouring_sentences_are_rarely_grammatical() -> None:
    """Another scene's noun, verb or place in a sentence breaks it, unless it is a person's name."""
    draw = random.Random(1)
    vocabulary = FULL.vocabulary()
    kept = 0
    for sentence in SAMPLE:
        words = sentence.split()
        words[draw.randrange(len(words))] = draw.choice(vocabulary)
        changed = " ".join(words)
        kept += changed != sentence and FULL.is_grammatical(changed)
    assert kept / len(SAMPLE) < 0.03


@given(st.data())
def test_the_recogniser_agrees_with_enumeration_on_changed_sentences(data: st.DataObject) -> None:
    words = data.draw(st.sampled_from(sorted(ALL_SHORT))).split()
    vocabulary = SHORT.vocabulary()
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(words) - 1))
        words[at] = data.draw(st.sampled_from(vocabulary))
    sentence = " ".join(data.draw(st.permutations(words)) if data.draw(st.booleans()) else words)
    assert SHORT.is_grammatical(sentence) == (sentence in ALL_SHORT)


@given(any_sentence)
def test_transfer_changes_the_style_alone_and_is_its_own_inverse(sentence: str) -> None:
    other = FULL.transfer(sentence)
    assert other != sentence
    assert FULL.transfer(other) == sentence
    assert {FULL.style_of(sentence), FULL.style_of(other)} == {0, 1}
    assert FULL.scene_of(other) == FULL.scene_of(sentence)
    assert FULL.construction_of(other) == FULL.construction_of(sentence)
    assert FULL.log_probability(other) == pytest.approx(FULL.log_probability(sentence))


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        (
            "a kind chef with the cake tastes two soups",
            "a cruel chef with the cake tastes two soups",
        ),
        ("luckily the chef tasted the soup", "the chef tasted the soup unluckily"),
        ("the chefs want to taste a soup", "the chefs do not want to taste a soup"),
        ("the soup in the kitchen was safe", "the soup in the kitchen was not safe"),
        ("the boy smiles because the pies are good", "the boy frowns because the pies are bad"),
    ],
)
def test_gold_transfers(positive: str, negative: str) -> None:
    assert (FULL.style_of(positive), FULL.style_of(negative)) == (0, 1)
    assert FULL.transfer(positive) == negative


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        ("gently serve these cakes", {"mite servir sti tortas"}),
        ("the soup is good", {"da sopa stat bona", "do bruto stat bono"}),
        ("the girl gladly serves her cakes", {"da fila servit volente sii tortas"}),
        (
            "two chefs smile in the kitchen",
            {"du kefos ridant in da kuzina", "in da kuzina ridant du kefos"},
        ),
        ("the chefs who served the pie smiled", {"di kefos ke de paste servivunt ridavunt"}),
        ("the chef does not want to serve a pie", {"do kefo ne volat une paste servir"}),
        (
            "today the chef gladly serves the pie",
            {
                "hodie servit do kefo volente de paste",
                "oggi servit do kefo volente de paste",
                "do kefo servit volente de paste hodie",
                "do kefo servit volente de paste oggi",
            },
        ),
    ],
)
def test_gold_translations(source: str, targets: set[str]) -> None:
    assert set(FULL.translations(source)) == targets


def test_translation_is_multimodal() -> None:
    counts = np.array([len(FULL.translations(sentence)) for sentence in SAMPLE])
    assert 0.65 <= (counts >= 2).mean() <= 0.8
    assert 2.5 <= counts.mean() <= 3.8


@given(any_sentence)
def test_translations_are_distinct_and_those_drawn_are_among_them(sentence: str) -> None:
    translations = FULL.translations(sentence)
    assert len(set(translations)) == len(translations) >= 1
    drawn = {FULL.translate(sentence, seed) for seed in range(12 * len(translations))}
    assert drawn <= set(translations)
    assert len(drawn) > len(translations) / 2
    assert FULL.translate(sentence, 5) == FULL.translate(sentence, 5)


@given(any_sentence)
def test_the_translation_of_another_style_or_number_is_not_valid(sentence: str) -> None:
    other = FULL.translate(FULL.transfer(sentence), 0)
    assert other not in FULL.valid_translations(sentence)
    assert other not in FULL.valid_translations("the the")


def test_a_translation_determines_its_meaning() -> None:
    meanings: dict[str, str] = {}
    for sentence in ALL_SHORT:
        for target in SHORT.translations(sentence):
            assert meanings.setdefault(target, sentence) == sentence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scenes": ["kichen"]}, "unknown scene 'kichen' (did you mean 'kitchen'?)"),
        ({"constructions": ["wishes"]}, "unknown construction 'wishes' (did you mean 'wish'?)"),
        ({"scenes": []}, "expected at least one scene, found none"),
    ],
)
def test_it_names_what_it_does_not_know(arguments: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        Grammar(**arguments)
    assert str(error.value) == message


def test_what_is_not_a_sentence_has_no_style_or_translation() -> None:
    for ask in (FULL.style_of, FULL.transfer, FULL.translations):
        with pytest.raises(UserError, match="not a sentence of the grammar: 'chef the'"):
            ask("chef the")
    with pytest.raises(UserError, match="style must be 0"):
        FULL.sample(1, 0, style=2)
    with pytest.raises(UserError, match="0 or more, found -1, 0 and 0"):
        FULL.sample(-1, 0)


def test_no_two_scenes_share_a_word() -> None:
    words = [
        entry.split("=")[0]
        for scene in SCENES.values()
        for table in (scene.he, scene.she, scene.things, scene.verbs)
        for entry in table.split()
    ]
    assert len(words) == len(set(words))
