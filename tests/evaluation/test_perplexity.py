from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from lvtrain.config import OptimizerConfig
from lvtrain.data.batches import sequential
from lvtrain.data.tokenizer import Tokenizer
from lvtrain.errors import UserError
from lvtrain.evaluation.perplexity import (
    Judge,
    JudgeConfig,
    negative_log_likelihood,
    perplexity,
    train_judge,
)
from lvtrain.evaluation.sentences import FlatSplit

SMALL = JudgeConfig(
    embedding=16, hidden=16, dropout=0.0, epochs=6, min_steps=0, batch_size=32,
    optimizer=OptimizerConfig(lr=0.02, betas=(0.9, 0.99), clip=1.0, decay=1.0),
)  # fmt: skip
# p(next | word) over three words and the end; a sentence starts at a word drawn evenly.
STEP = np.array([[0.1, 0.6, 0.1, 0.2], [0.1, 0.1, 0.6, 0.2], [0.7, 0.05, 0.05, 0.2]])


def rows(sentences: list[str], tokenizer: Tokenizer) -> FlatSplit:
    return FlatSplit.of(tokenizer.encode_batch(sentences))


def markov(count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    sentences = []
    for _ in range(count):
        word, sentence = int(rng.integers(3)), []
        while word < 3:
            sentence.append(word + 4)
            word = int(rng.choice(4, p=STEP[word]))
        sentences.append(sentence)
    return sentences


def exact_perplexity(sentences: list[list[int]]) -> float:
    total, words = 0.0, 0
    for sentence in sentences:
        states = [word - 4 for word in sentence] + [3]
        total += math.log(1 / 3)
        total += sum(math.log(STEP[a, b]) for a, b in pairwise(states))
        words += len(states)
    return math.exp(-total / words)


def read(model: torch.nn.Module, sentences: list[list[int]]) -> float:
    split = FlatSplit.of(sentences)
    return math.exp(negative_log_likelihood(model, sequential(split, 64)) / split.tokens)


def test_a_judge_finds_the_entropy_of_a_markov_chain():
    model, _ = train_judge(FlatSplit.of(markov(4000, 0)), 7, replace(SMALL, batch_size=64))
    test = markov(500, 1)
    assert read(model, test) == pytest.approx(exact_perplexity(test), rel=0.04)
    assert read(model, test) < 4


def test_a_judge_of_other_text_is_worse():
    test = markov(200, 1)
    rng = np.random.default_rng(2)
    noise = [rng.integers(4, 7, size=len(s)).tolist() for s in markov(400, 3)]
    same, _ = train_judge(FlatSplit.of(markov(400, 0)), 7, SMALL)
    other, _ = train_judge(FlatSplit.of(noise), 7, SMALL)
    assert read(same, test) < read(other, test)


def test_a_judge_is_a_function_of_text_and_seed():
    text = markov(100, 0)
    config = JudgeConfig(embedding=8, hidden=8, epochs=1, min_steps=0, batch_size=16, dropout=0.3)
    (a, _), (b, _) = (train_judge(FlatSplit.of(text), 7, config) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    other = JudgeConfig(
        embedding=8, hidden=8, epochs=1, min_steps=0, batch_size=16, dropout=0.3, seed=1
    )
    c, _ = train_judge(FlatSplit.of(text), 7, other)
    assert not torch.equal(a.decoder.output, c.decoder.output)


def test_training_a_judge_leaves_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_judge(
        FlatSplit.of(markov(50, 0)), 7, JudgeConfig(embedding=8, hidden=8, epochs=1, min_steps=0)
    )
    assert torch.equal(torch.rand(3), expected)


def test_training_ends_where_the_held_out_text_gets_no_better():
    # Noise: every epoch beyond the first ones learns by heart what does not come again.
    rng = np.random.default_rng(0)
    text = rng.integers(4, 40, size=(80, 6)).tolist()
    config = JudgeConfig(
        embedding=32, hidden=32, dropout=0.0, epochs=30, min_steps=0, batch_size=8, held_out=0.25,
        optimizer=OptimizerConfig(lr=0.02),
    )  # fmt: skip
    said: list[str] = []
    model, epochs = train_judge(FlatSplit.of(text), 40, config, progress=said.append)
    assert epochs == len(said) - 2 < 28
    assert read(model, rng.integers(4, 40, size=(80, 6)).tolist()) < 100


def test_perplexity_counts_ends_and_unknown_words():
    tokenizer = Tokenizer.train_words(["a b c d"])
    judge = Judge.train(rows(["a b", "c d", "a d", "b c"] * 10, tokenizer), tokenizer, SMALL)
    split = FlatSplit.of(tokenizer.encode_batch(["a x", ""]))
    nll = negative_log_likelihood(judge.model, sequential(split, 8))
    assert judge.perplexity(split) == pytest.approx(math.exp(nll / 4), rel=1e-6)


def test_pieces_are_summed_into_words():
    text = ["banana bandana", "bandana banana", "banana"] * 20
    tokenizer = Tokenizer.train_bpe(text, vocab_size=260)
    judge = Judge.train(
        rows(text, tokenizer), tokenizer, JudgeConfig(embedding=8, hidden=8, epochs=1, min_steps=0)
    )
    ids = FlatSplit.of(tokenizer.encode_batch(["banana bandana"]))
    assert ids.tokens > 3
    nll = negative_log_likelihood(judge.model, sequential(ids, 1))
    assert judge.perplexity(ids) == pytest.approx(math.exp(nll / 3), rel=1e-5)


@pytest.mark.parametrize("sentences", [[], [[4]]])
def test_too_little_text_is_the_users_mistake(sentences):
    with pytest.raises(UserError, match="at least two sentences"):
        train_judge(FlatSplit.of(sentences), 7, SMALL)


def test_reading_nothing_is_the_users_mistake():
    tokenizer = Tokenizer.train_words(["a b c d"])
    judge = Judge.train(rows(["a b", "c d"] * 4, tokenizer), tokenizer, SMALL)
    with pytest.raises(UserError, match="found none"):
        judge.perplexity(FlatSplit.of([]))


def test_a_small_text_is_read_more_often():
    said: list[str] = []
    config = replace(SMALL, epochs=1, min_steps=7, batch_size=16, held_out=0.0)
    train_judge(FlatSplit.of(markov(40, 0)), 7, config, progress=said.append)
    assert said[0] == "epoch 1 of 4"


def test_perplexity_that_no_number_holds_is_infinite():
    assert perplexity(math.log(7.0)) == pytest.approx(7.0)
    assert perplexity(1e6) == math.inf
