from __future__ import annotations

import math

import pytest
import torch

from lvtrain.data.batches import sequential
from lvtrain.evaluation.reconstruction import compare, reconstruction_nll
from lvtrain.evaluation.sentences import FlatSplit
from lvtrain.systems.autoencoder import Autoencoder, AutoencoderConfig


def test_sentences_that_come_back_whole_score_1():
    lines = ["the cat sat on the mat", "a dog ran off"]
    found = compare(lines, lines)
    assert (found.accuracy, found.exact) == (1.0, 1.0)
    assert found.bleu == pytest.approx(100.0)


def test_words_count_in_place_over_the_longer_length():
    found = compare(["a b c d", "e f"], ["a x c", "e f g h"])
    assert found.accuracy == pytest.approx((2 + 2) / (4 + 4))
    assert found.exact == 0.0


def test_an_empty_reconstruction_is_wrong_in_every_word():
    assert compare(["a b"], [""]).accuracy == 0.0


def test_nll_is_the_mean_over_words_whatever_the_batches():
    torch.manual_seed(0)
    system = Autoencoder(AutoencoderConfig(embedding=5, hidden=6), 12)
    split = FlatSplit.of([[4, 5], [6], [7, 8, 9, 10], [4, 4, 4]])
    whole = reconstruction_nll(system, sequential(split, 4))
    assert reconstruction_nll(system, sequential(split, 1)) == pytest.approx(whole, rel=1e-5)
    assert whole == pytest.approx(math.log(12), rel=0.1)


def test_training_lowers_the_nll_to_0_on_one_sentence():
    torch.manual_seed(0)
    system = Autoencoder(AutoencoderConfig(embedding=8, hidden=16), 8)
    batches = list(sequential(FlatSplit.of([[4, 5, 6, 7]]), 1))
    optimizer = torch.optim.Adam(system.parameters(), 0.05)
    for _ in range(60):
        optimizer.zero_grad()
        codes = system.encode(batches[0].tokens, batches[0].lengths)
        system.decoder.cross_entropy(codes, batches[0].tokens, batches[0].lengths).backward()
        optimizer.step()
    assert reconstruction_nll(system, batches) < 0.05
