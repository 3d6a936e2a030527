from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.bleu import BLEU

from lvtrain.evaluation import overlap
from lvtrain.evaluation.sentences import FlatSplit

words = st.sampled_from(list("abcd"))
text = st.lists(st.lists(words, min_size=1, max_size=7).map(" ".join), min_size=2, max_size=8)


def test_bleu_of_identical_text_is_100_and_says_how_it_was_made():
    lines = ["the cat sat on the mat", "a dog runs in the park today"]
    bleu = overlap.corpus_bleu(lines, lines)
    assert bleu.score == pytest.approx(100.0)
    assert "tok:none" in bleu.signature


def test_bleu_of_other_words_is_0():
    assert overlap.corpus_bleu(["a b c d e"], ["f g h i j"]).score == 0.0


@settings(max_examples=50, deadline=None)
@given(text)
def test_self_bleu_is_sacrebleu_of_each_against_the_others(sentences):
    metric = BLEU(tokenize="none", effective_order=True)
    scores = [
        metric.sentence_score(s, sentences[:i] + sentences[i + 1 :]).score
        for i, s in enumerate(sentences)
    ]
    assert overlap.self_bleu(sentences) == pytest.approx(sum(scores) / len(scores), abs=1e-9)


def test_self_bleu_of_repetitions_is_100_and_of_disjoint_sentences_0():
    assert overlap.self_bleu(["a b c d e"] * 3) == pytest.approx(100.0)
    assert overlap.self_bleu(["a b c d", "e f g h", "i j k l"]) == 0.0
    assert overlap.self_bleu(["alone"]) == 0.0


def test_self_bleu_reads_no_more_than_its_limit():
    lines = ["a b c d", "e f g h", "a b c d"]
    assert overlap.self_bleu(lines, limit=2) == 0.0


def test_distinct_counts_different_ngrams():
    lines = ["a b a b", "a b"]
    assert overlap.distinct(lines, 1) == pytest.approx(2 / 6)
    assert overlap.distinct(lines, 2) == pytest.approx(2 / 4)
    assert overlap.distinct(lines, 3) == pytest.approx(1.0)
    assert overlap.distinct(["a"], 3) == 0.0


rows = st.lists(st.lists(st.integers(3, 6), max_size=4), min_size=1, max_size=30)


@given(rows, rows, st.integers(1, 40))
def test_duplicates_and_copies_are_found_whole_and_only_those(samples, training, chunk):
    copied = sum(row in training for row in samples) / len(samples)
    before = sum(row in samples[:i] for i, row in enumerate(samples)) / len(samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overlap, "CHUNK", chunk)
        found = overlap.repeated(FlatSplit.of(samples), FlatSplit.of(training))
    assert found == pytest.approx((before, copied))


def test_of_no_sentences_none_are_repeated():
    assert overlap.repeated(FlatSplit.of([]), FlatSplit.of([[4]])) == (0.0, 0.0)
