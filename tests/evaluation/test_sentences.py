from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.data.batches import Batches, sequential
from lvtrain.data.tokenizer import EOS, PAD
from lvtrain.evaluation.sentences import FlatSplit, Part, ids, part, read, shuffled

texts = st.lists(st.lists(st.integers(3, 9), max_size=5), min_size=1, max_size=20)


@given(texts)
def test_reading_gives_back_every_sentence(text):
    split = FlatSplit.of(text)
    assert sorted(ids(sequential(split, 4))) == sorted(text)
    assert sorted(read(split)) == sorted(text)


def test_rows_are_ended_and_padded():
    tokens, lengths = FlatSplit.of([[5, 6], [], [7]]).padded(np.array([2, 0, 1]))
    assert tokens.tolist() == [[5, 6, EOS], [EOS, PAD, PAD], [7, EOS, PAD]]
    assert lengths.tolist() == [3, 1, 2]


def test_batches_can_be_made_of_it():
    split = FlatSplit.of([[4] * (i % 5) for i in range(50)])
    batches = Batches(split, batch_size=8, seed=1, by_length=True)
    seen = [batches.at(i) for i in range(batches.per_epoch)]
    assert len({row for batch in seen for row in batch.rows.tolist()}) == 48
    assert split.buckets == [(n, 10 * n, 10) for n in range(5)]


@given(texts, st.data())
def test_some_rows_of_a_split_read_as_a_split_of_them(text, data):
    whole = FlatSplit.of(text)
    numbers = np.array(sorted(data.draw(st.sets(st.integers(0, whole.rows - 1), min_size=1))))
    some, alone = Part(whole, numbers), FlatSplit.of([read_row(whole, row) for row in numbers])
    assert (some.rows, some.max_length) == (alone.rows, alone.max_length)
    assert some.buckets == alone.buckets
    every = np.arange(some.rows)
    assert some.lengths(every).tolist() == alone.lengths(every).tolist()
    assert all(map(np.array_equal, some.padded(every), alone.padded(every)))


def read_row(split: FlatSplit, row: int) -> list[int]:
    tokens, lengths = split.padded(np.array([row]))
    return tokens[0, : lengths[0] - 1].tolist()


def test_a_part_is_drawn_by_the_seed_and_all_rows_are_the_split():
    split = FlatSplit.of([[i] for i in range(100)])
    assert part(split, 100, 0) is split
    assert sorted(read(part(split, 10, 3))) == sorted(read(split, 10, 3))


def test_a_draw_is_a_function_of_the_seed():
    split = FlatSplit.of([[i] for i in range(100)])
    first = read(split, 10, seed=3)
    assert len({row[0] for row in first}) == 10
    assert first == read(split, 10, seed=3) != read(split, 10, seed=4)


@given(st.lists(st.integers()), st.integers(0, 5))
def test_shuffling_keeps_the_items(items, seed):
    assert sorted(shuffled(items, seed)) == sorted(items)
