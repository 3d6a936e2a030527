from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.data.batches import Batches, sequential
from lvtrain.data.tokenizer import EOS, PAD
from lvtrain.evaluation.sentences import MemorySplit, ids, read, shuffled

texts = st.lists(st.lists(st.integers(3, 9), max_size=5), min_size=1, max_size=20)


@given(texts)
def test_reading_gives_back_every_sentence(text):
    split = MemorySplit(text)
    assert sorted(ids(sequential(split, 4))) == sorted(text)
    assert sorted(read(split)) == sorted(text)


def test_rows_are_ended_and_padded():
    tokens, lengths = MemorySplit([[5, 6], [], [7]]).padded(np.array([2, 0, 1]))
    assert tokens.tolist() == [[5, 6, EOS], [EOS, PAD, PAD], [7, EOS, PAD]]
    assert lengths.tolist() == [3, 1, 2]


def test_batches_can_be_made_of_it():
    split = MemorySplit([[4] * (i % 5) for i in range(50)])
    batches = Batches(split, batch_size=8, seed=1, by_length=True)
    seen = [batches.at(i) for i in range(batches.per_epoch)]
    assert len({row for batch in seen for row in batch.rows.tolist()}) == 48
    assert split.buckets == [(n, 10 * n, 10) for n in range(5)]


def test_a_draw_is_a_function_of_the_seed():
    split = MemorySplit([[i] for i in range(100)])
    first = read(split, 10, seed=3)
    assert len({row[0] for row in first}) == 10
    assert first == read(split, 10, seed=3) != read(split, 10, seed=4)


@given(st.lists(st.integers()), st.integers(0, 5))
def test_shuffling_keeps_the_items(items, seed):
    assert sorted(shuffled(items, seed)) == sorted(items)
