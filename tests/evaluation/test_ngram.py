from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvtrain.data.tokenizer import EOS
from lvtrain.evaluation.ngram import NgramModel, ngram_perplexity

VOCAB = 9
sentences = st.lists(st.lists(st.integers(3, VOCAB - 1), max_size=6), max_size=8)


def next_word_mass(model: NgramModel, history: list[int]) -> float:
    """Σ p(w | history) over every word and the end."""
    words = [[*history, w] for w in range(3, VOCAB)]
    mass = 0.0
    for sentence in words:
        mass += math.exp(model.log_probabilities([sentence])[len(history)])
    return mass + math.exp(model.log_probabilities([history])[len(history)])


@settings(max_examples=40, deadline=None)
@given(sentences, st.lists(st.integers(3, VOCAB - 1), max_size=4), st.integers(1, 4))
def test_probabilities_sum_to_one_after_any_history(text, history, order):
    model = NgramModel(text, VOCAB, order)
    assert next_word_mass(model, history) == pytest.approx(1.0, abs=1e-12)


def test_without_text_every_word_is_equally_likely():
    assert ngram_perplexity([], [[4, 5, 6]], VOCAB) == pytest.approx(VOCAB - 2)


def test_bigram_probabilities_are_those_of_the_formula():
    # Bigrams: (s 4) ×2, (4 5) ×2, (5 e) ×2, (s 5), (5 4), (4 e): n₁ = 3, n₂ = 3, so D = 1/3.
    model = NgramModel([[4, 5], [4, 5], [5, 4]], VOCAB, order=2)
    # Continuations: 4 after {s, 5}, 5 after {s, 4}, e after {4, 5}: n₁ = 0, the least discount.
    lowest, uniform = 0.05, 1 / (VOCAB - 2)
    five = (2 - lowest + lowest * 3 * uniform) / 6
    expected = (2 - 1 / 3 + 1 / 3 * 2 * five) / 3
    assert math.exp(model.log_probabilities([[4, 5]])[1]) == pytest.approx(expected, rel=1e-12)


def test_text_of_the_same_source_is_likelier_than_its_words_in_disorder():
    rng = np.random.default_rng(0)
    step = rng.dirichlet(np.full(20, 0.1), size=20)

    def chain() -> list[int]:
        word, out = 0, []
        for _ in range(10):
            word = int(rng.choice(20, p=step[word]))
            out.append(word + 4)
        return out

    train, test = [chain() for _ in range(500)], [chain() for _ in range(100)]
    disorder = [rng.permutation(sentence).tolist() for sentence in test]
    assert ngram_perplexity(train, test, 24) < 0.5 * ngram_perplexity(train, disorder, 24)


def test_fewer_kinds_of_sentences_cost_perplexity():
    rng = np.random.default_rng(1)
    text = rng.integers(4, 30, size=(600, 5)).tolist()
    varied, collapsed = text[:300], text[:3] * 100
    assert ngram_perplexity(varied, text[300:], 30) < ngram_perplexity(collapsed, text[300:], 30)


def test_the_end_is_predicted_and_counted():
    assert len(NgramModel([[4]], VOCAB).log_probabilities([[4, 5], []])) == 4
    assert ngram_perplexity([[]] * 50, [[]], VOCAB) < 1.1
    assert EOS < VOCAB


def test_keys_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="64-bit"):
        NgramModel([], 2**22, order=3)


def test_a_validation_takes_less_than_two_seconds():
    rng = np.random.default_rng(2)
    text = np.minimum(rng.zipf(1.3, size=(7_000, 12)) + 3, 9_999).tolist()
    start = time.process_time()
    ngram_perplexity(text[:5_000], text[5_000:], 10_000)
    assert time.process_time() - start < 2.0
