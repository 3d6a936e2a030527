from __future__ import annotations

import math

import pytest

from lvtrain.errors import UserError
from lvtrain.evaluation.grammar import grammar_scores
from lvtrain.grammar.grammar import Grammar

GRAMMAR = Grammar()
REAL = GRAMMAR.sample(3000, seed=1)


def test_real_sentences_score_as_the_grammar_does() -> None:
    scores = grammar_scores(REAL, GRAMMAR)
    assert scores["grammatical"] == 1
    assert scores["exact_perplexity"] == pytest.approx(scores["perplexity_floor"], rel=0.03)
    assert scores["distinct_grammatical"] > 0.9
    assert scores["construction_coverage"] == scores["scene_coverage"] == 1
    assert scores["construction_distance"] < 0.05 and scores["scene_distance"] < 0.05


def test_ungrammatical_sentences_count_against_the_share_alone() -> None:
    broken = [" ".join(reversed(sentence.split())) for sentence in REAL]
    mixed, real = grammar_scores(REAL + broken, GRAMMAR), grammar_scores(REAL, GRAMMAR)
    assert mixed.pop("grammatical") == 0.5 and real.pop("grammatical") == 1
    assert mixed == real


def test_collapse_shows_in_distinctness_coverage_and_distance() -> None:
    scores = grammar_scores(["the soup is good"] * 50, GRAMMAR)
    assert scores["distinct_grammatical"] == 1 / 50
    assert scores["exact_perplexity"] < scores["perplexity_floor"]
    assert scores["construction_coverage"] == pytest.approx(1 / len(GRAMMAR.constructions))
    quality = GRAMMAR.constructions.index("quality")
    probability = GRAMMAR.construction_probability[quality]
    assert scores["construction_distance"] == pytest.approx(1 - probability)


def test_nothing_grammatical_is_infinitely_perplexing() -> None:
    scores = grammar_scores(["soup the"], GRAMMAR)
    assert scores["grammatical"] == scores["distinct_grammatical"] == 0
    assert scores["exact_perplexity"] == math.inf
    assert scores["construction_distance"] == scores["scene_distance"] == 1


def test_no_sentences_is_a_mistake() -> None:
    with pytest.raises(UserError, match="expected at least one sentence"):
        grammar_scores([], GRAMMAR)
