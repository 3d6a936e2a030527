"""Scores of translations with known answers."""

from __future__ import annotations

import pytest

from lvtrain.evaluation.translation import compare, mass, scores, validity
from lvtrain.grammar.grammar import Grammar

REFERENCES = [f"the {a} cat sat on the {b} mat" for a in ("old", "new", "red") for b in "xyz"] * 4


def test_the_reference_itself_has_all_and_other_words_nothing() -> None:
    perfect = scores(REFERENCES, REFERENCES)
    assert perfect["bleu"] == pytest.approx(100) and perfect["chrf"] == pytest.approx(100)
    assert "tok:none" in perfect["bleu_signature"]
    assert scores(["quux"] * len(REFERENCES), REFERENCES)["bleu"] == pytest.approx(0, abs=0.1)


def test_a_difference_is_significant_where_there_is_one() -> None:
    worse = [line.replace("mat", "rug") if i % 2 else line for i, line in enumerate(REFERENCES)]
    gain = compare(worse, REFERENCES, REFERENCES)
    assert gain["bleu_gain"] > 5 and gain["bleu_p"] < 0.01 and gain["chrf_p"] < 0.01
    one = [*REFERENCES[:-1], REFERENCES[-1].replace("mat", "rug")]
    assert compare(one, REFERENCES, REFERENCES)["bleu_p"] > 0.05
    same = compare(worse, worse, REFERENCES)
    assert same["bleu_gain"] == same["chrf_gain"] == 0 and same["bleu_p"] == same["chrf_p"] == 1


def test_precision_and_coverage_count_valid_translations() -> None:
    grammar = Grammar()
    source = next(s for s in grammar.sample(200, 0) if len(grammar.translations(s)) == 2)
    one, two = grammar.translations(source)
    assert mass([[one, one, "no", two]], [source], grammar) == {
        "precision": 0.75, "coverage": 1.0, "true_coverage": 1 - 0.5**4
    }  # fmt: skip
    assert mass([[one, one]], [source], grammar) == {
        "precision": 1.0, "coverage": 0.5, "true_coverage": 1 - 0.5**2
    }  # fmt: skip
    assert validity([one, "no"], [source, source], grammar) == 0.5
