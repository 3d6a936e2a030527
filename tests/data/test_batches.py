"""The order in which a split is read."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvtrain.data import batches as batches_module
from lvtrain.data.batches import Batch, Batches, sequential
from lvtrain.data.store import Split, Store
from lvtrain.data.tokenizer import EOS, PAD
from lvtrain.errors import UserError
from lvtrain.prepare.prepare import PrepareConfig, Sentences, prepare_sentences

ROWS = 501
CHOOSER = random.Random(0)
LINES = [" ".join(CHOOSER.choices("abcdefgh", k=CHOOSER.randint(1, 15))) for _ in range(ROWS)]
BY_LENGTH = {"by_length": True}
LOCAL = {"by_length": True, "locality": True}
ORDERS = st.sampled_from([{}, BY_LENGTH, LOCAL])


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    out = tmp_path_factory.mktemp("data") / "store"
    prepare_sentences(LINES, config=PrepareConfig(valid_fraction=0), out=out)
    return Store.open(out).split("train")


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Split:
    out = tmp_path_factory.mktemp("data") / "store"
    targets = [" ".join(CHOOSER.choices("xyz", k=CHOOSER.randint(1, 9))) for _ in LINES]
    train = Sentences(texts=LINES, labels=[line[0] for line in LINES], targets=targets)
    prepare_sentences(train, config=PrepareConfig(valid_fraction=0), out=out)
    return Store.open(out).split("train")


def same(one: Batch, other: Batch) -> bool:
    return all(
        np.array_equal(value, vars(other)[name]) if value is not None else vars(other)[name] is None
        for name, value in vars(one).items()
    )


def epoch_rows(batches: Batches, epoch: int) -> list[int]:
    first = epoch * batches.per_epoch
    found = [batches.at(i).rows for i in range(first, first + batches.per_epoch)]
    return np.concatenate(found).tolist()


def test_a_batch_holds_its_rows_longest_first(split: Split) -> None:
    batch = Batches(split, batch_size=7, seed=0).at(3)
    tokens, lengths = split.gather(batch.rows)
    assert torch.equal(batch.tokens, torch.from_numpy(tokens))
    assert torch.equal(batch.lengths, torch.from_numpy(lengths))
    assert batch.lengths.tolist() == sorted(batch.lengths.tolist(), reverse=True)
    assert batch.tokens.shape[1] == batch.lengths[0]
    assert batch.tokens[0, -1] == EOS
    assert (batch.tokens == PAD).sum() == batch.tokens.numel() - batch.words
    assert (batch.index, batch.labels, batch.targets) == (3, None, None)
    assert batch.to("cpu").words == batch.words


@settings(max_examples=40)
@given(
    st.integers(1, 120), st.integers(-5, 10**12), st.integers(0, 10**6), ORDERS,
    st.one_of(st.none(), st.integers(1, 600)),
)  # fmt: skip
def test_an_epoch_visits_each_row_once(
    split: Split, size: int, seed: int, epoch: int, order: dict[str, bool], limit: int | None
) -> None:
    batches = Batches(split, batch_size=size, seed=seed, limit_rows=limit, **order)
    rows = epoch_rows(batches, epoch)
    total = min(limit or ROWS, ROWS)
    if total >= size:
        assert len(set(rows)) == len(rows) == total // size * size
    else:  # repeated to fill one batch
        counts = Counter(rows)
        assert len(counts) == total
        assert max(counts.values()) - min(counts.values()) <= 1


@settings(max_examples=25)
@given(st.integers(0, 300), ORDERS, st.lists(st.integers(0, 300), max_size=5))
def test_a_batch_is_a_pure_function_of_its_index(
    split: Split, index: int, order: dict[str, bool], before: list[int]
) -> None:
    def new() -> Batches:
        return Batches(split, batch_size=6, seed=4, **order)

    fresh, used = new().at(index), new()
    for other in before:
        used.at(other)
    for i in range(max(0, index - 20), index):
        used.at(i)
    assert same(used.at(index), fresh)
    assert same(used.at(index), fresh)


@settings(max_examples=25)
@given(st.sampled_from([1, 2, 3, 4, 6]), st.integers(0, 500), ORDERS)
def test_ranks_share_the_batch_of_one(
    parallel: Split, world: int, index: int, order: dict[str, bool]
) -> None:
    def read(rank: int, world: int) -> Batch:
        return Batches(parallel, batch_size=12, seed=2, rank=rank, world=world, **order).at(index)

    whole = read(0, 1)
    parts = [read(rank, world) for rank in range(world)]
    assert sum(part.words for part in parts) == whole.words == int(whole.lengths.sum())
    for part in parts:
        assert part.share == pytest.approx(part.words * world / whole.words)
        assert part.target_lengths is not None and whole.target_lengths is not None
        targets = part.target_lengths.sum() * world / whole.target_lengths.sum()
        assert part.target_share == pytest.approx(targets.item())
    for rank, part in enumerate(parts):
        for name, value in vars(whole).items():
            if name not in ("words", "share", "target_share"):
                expected = value if name == "index" else value[rank::world]
                assert np.array_equal(vars(part)[name], expected), name


def test_seeds_and_epochs_differ(split: Split) -> None:
    one = Batches(split, batch_size=10, seed=0)
    other = Batches(split, batch_size=10, seed=1)
    assert epoch_rows(one, 0) != epoch_rows(other, 0)
    assert epoch_rows(one, 0) != epoch_rows(one, 1)


def test_changing_a_batch_does_not_change_the_next_reading(split: Split) -> None:
    batches = Batches(split, batch_size=8, seed=0)
    before = batches.at(0)
    kept = before.tokens.clone()
    before.tokens.fill_(9)
    before.rows[:] = 0
    assert torch.equal(batches.at(0).tokens, kept)


def test_labels_and_targets_come_with_their_rows(parallel: Split) -> None:
    batch = Batches(parallel, batch_size=9, seed=0).at(5)
    assert batch.labels is not None
    assert batch.targets is not None
    assert batch.target_lengths is not None
    assert batch.labels.tolist() == parallel.labels(batch.rows).tolist()
    tokens, lengths = parallel.targets(batch.rows)
    assert batch.targets.tolist() == tokens.tolist()
    assert batch.target_lengths.tolist() == lengths.tolist()


def padding(batches: Batches) -> float:
    total = words = 0
    for i in range(batches.per_epoch):
        batch = batches.at(i)
        total += batch.tokens.numel()
        words += batch.words
    return 1 - words / total


@pytest.mark.parametrize("order", [BY_LENGTH, LOCAL])
def test_batches_by_length_are_hardly_padded(split: Split, order: dict[str, bool]) -> None:
    assert padding(Batches(split, batch_size=4, seed=0, **order)) < 0.05
    assert padding(Batches(split, batch_size=4, seed=0)) > 0.2


@pytest.mark.parametrize("order", [BY_LENGTH, LOCAL])
def test_batches_by_length_come_in_random_order_and_company(
    split: Split, order: dict[str, bool]
) -> None:
    batches = Batches(split, batch_size=4, seed=0, **order)
    longest = [int(batches.at(i).lengths[0]) for i in range(batches.per_epoch)]
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.3
    company = {frozenset(batches.at(i).rows.tolist()) for i in range(batches.per_epoch)}
    again = {
        frozenset(batches.at(i + batches.per_epoch).rows.tolist()) for i in range(batches.per_epoch)
    }
    assert len(company & again) < 5


@pytest.mark.parametrize("order", [BY_LENGTH, LOCAL])
def test_rows_left_over_are_not_always_the_longest(split: Split, order: dict[str, bool]) -> None:
    batches = Batches(split, batch_size=40, seed=0, **order)
    left = Counter(
        length
        for epoch in range(60)
        for length in split.lengths(
            np.array(sorted({*range(ROWS)} - {*epoch_rows(batches, epoch)}))
        ).tolist()
    )
    assert len(left) > 6


@settings(max_examples=30)
@given(st.integers(1, 600), st.one_of(st.none(), st.integers(1, 600)), st.sampled_from([1, 3]))
def test_sequential_reads_each_row_once_shortest_first(
    split: Split, size: int, limit: int | None, world: int
) -> None:
    total = min(limit or ROWS, ROWS)
    rows: list[int] = []
    for rank in range(world):
        batches = list(sequential(split, size, rank=rank, world=world, limit_rows=limit))
        assert [batch.index for batch in batches] == list(range(-(-total // size)))
        rows += [row for batch in batches for row in batch.rows.tolist()]
        if world == 1:
            assert all(one.lengths[0] <= other.lengths[-1] for one, other in pairwise(batches))
    assert len(rows) == len(set(rows)) == total


def test_windows_change_nothing(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [Batches(split, batch_size=5, seed=0).at(i) for i in range(0, 250, 9)]
    monkeypatch.setattr(batches_module, "WINDOW_ROWS", 35)
    monkeypatch.setattr(batches_module, "FIRST_WINDOW", 2)
    small = Batches(split, batch_size=5, seed=0)
    for i in range(250):
        batch = small.at(i)
        assert i % 9 or same(batch, expected[i // 9])
    assert sum(batch.words for batch in sequential(split, 5)) == split.tokens


def test_a_batch_that_ranks_cannot_share_is_refused(split: Split) -> None:
    with pytest.raises(UserError, match="expected a multiple of the 3 ranks, found 10"):
        Batches(split, batch_size=10, seed=0, world=3)
    with pytest.raises(UserError, match="batch size"):
        Batches(split, batch_size=0, seed=0)
    with pytest.raises(UserError, match="at least one sentence"):
        Batches(split, batch_size=1, seed=0, limit_rows=0)


def test_what_is_read_at_a_step_stays_what_it_was(tmp_path: Path) -> None:
    # A run that is resumed by a later version must read on where it stopped.
    config = PrepareConfig(valid_fraction=0)
    prepare_sentences([f"w{i}" for i in range(10)], config=config, out=tmp_path / "store")
    rows = Batches(Store.open(tmp_path / "store").split("train"), batch_size=5, seed=0)
    assert epoch_rows(rows, 0) == [3, 4, 7, 1, 2, 8, 5, 9, 6, 0]


@pytest.mark.parametrize("order", [{}, BY_LENGTH, LOCAL])
def test_reading_ahead_changes_no_batch(split: Split, order: dict[str, bool]) -> None:
    plain = Batches(split, batch_size=5, seed=4, **order)
    ahead = Batches(split, batch_size=5, seed=4, prefetch=True, **order)
    order = [*range(150), 3, 4, 90, *range(91, 130), 20]
    assert all(same(plain.at(i), ahead.at(i)) for i in order)


def test_what_goes_wrong_ahead_is_raised_where_it_is_read(split: Split) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            return getattr(split, name)

        def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if (rows == broken).any():
                raise UserError("corrupt shard")
            return split.padded(rows)

    whole = Batches(split, batch_size=5, seed=4)
    broken = whole.at(40).rows[0]
    ahead = Batches(Broken(), batch_size=5, seed=4, prefetch=True)  # type: ignore[arg-type]
    assert all(same(whole.at(i), ahead.at(i)) for i in range(16))
    with pytest.raises(UserError, match="corrupt shard"):
        for i in range(16, 48):
            ahead.at(i)
