from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.data.tokenizer import EOS, PAD
from lvtrain.generation.encode import BATCH, BATCH_WORDS, by_length, encode, padded
from lvtrain.systems.autoencoder import Autoencoder, AutoencoderConfig


@given(st.lists(st.integers(1, 3 * BATCH_WORDS // 2) | st.integers(1, 30), max_size=60))
def test_batches_hold_every_sentence_once_and_so_many_words(lengths: list[int]) -> None:
    parts = by_length(lengths)
    places = [place for part in parts for place in part]
    assert sorted(places) == list(range(len(lengths)))
    assert [lengths[p] for p in places] == sorted(lengths)
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[p] for p in part) <= BATCH_WORDS


def test_a_batch_holds_so_many_sentences() -> None:
    assert [len(part) for part in by_length([1] * (2 * BATCH + 5))] == [BATCH, BATCH, 5]


def test_padding_is_after_the_end() -> None:
    tokens, lengths = padded([[5, EOS], [EOS], [6, 7, EOS]])
    assert tokens.tolist() == [[5, EOS, PAD], [EOS, PAD, PAD], [6, 7, EOS]]
    assert lengths.tolist() == [2, 1, 3]


def test_codes_come_in_the_order_of_the_sentences() -> None:
    torch.manual_seed(0)
    system = Autoencoder(AutoencoderConfig(embedding=4, hidden=6), 9).eval()
    sentences = [
        [*[4 + (i * k) % 5 for k in range(n)], EOS] for i, n in enumerate([7, 0, 3, 900, 1])
    ]
    codes = encode(system, sentences, torch.device("cpu"))
    alone = [encode(system, [sentence], torch.device("cpu")) for sentence in sentences]
    torch.testing.assert_close(codes, torch.cat(alone))
    assert not torch.allclose(codes[0], codes[1])
