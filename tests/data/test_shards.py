"""Rows of one length in one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.data import shards, spill
from lvtrain.data.layout import Layout, smallest_dtype
from lvtrain.data.shards import Shard, ShardInfo, ShardWriter
from lvtrain.data.words import spans
from lvtrain.errors import UserError

LAYOUT = Layout(tokens=np.dtype(np.uint16), labels=True, targets=np.dtype(np.uint32))
IDS = st.lists(st.integers(0, 65535), min_size=1, max_size=4)
TARGETS = st.lists(st.integers(0, 70_000), min_size=1, max_size=4)
ROWS = st.lists(st.tuples(IDS, st.integers(0, 9), TARGETS), min_size=1, max_size=30)

Row = tuple[list[int], int, list[int]]


def flat(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([i for row in rows for i in row]), np.array([len(row) for row in rows])


def write(store: Path, rows: list[Row], cut: int = 7) -> list[ShardInfo]:
    writer = ShardWriter(store, "train", LAYOUT)
    for start in range(0, len(rows), cut):
        ids, labels, targets = zip(*rows[start : start + cut], strict=True)
        writer.add(*flat(list(ids)), np.array(labels), flat(list(targets)))
    return list(writer.finish())


def read(store: Path, infos: list[ShardInfo]) -> list[Row]:
    rows = []
    for info in infos:
        shard = Shard.open(store / info.file, info, LAYOUT)
        assert shard.labels is not None
        assert shard.targets is not None
        values, offsets = shard.targets
        for i in range(info.rows):
            target = values[offsets[i] : offsets[i + 1]].tolist()
            rows.append((shard.tokens[i].tolist(), int(shard.labels[i]), target))
    return rows


@given(ROWS, st.integers(1, 30))
def test_rows_come_back_by_length_in_the_order_given(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], cut: int
) -> None:
    store = tmp_path_factory.mktemp("store")
    infos = write(store, rows, cut)
    assert read(store, infos) == sorted(rows, key=lambda row: len(row[0]))
    files = sorted(path.name for path in (store / "train").iterdir())
    assert files == sorted(Path(info.file).name for info in infos)


def test_buckets_larger_than_a_shard_or_a_buffer_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 2000)
    monkeypatch.setattr(spill, "RUN_BYTES", 500)
    chooser = np.random.default_rng(0)
    rows: list[Row] = [
        (chooser.integers(0, 999, 3).tolist(), i % 5, list(range(i % 4 + 1))) for i in range(500)
    ]
    infos = write(tmp_path, rows)
    assert [info.file for info in infos[:2]] == [
        "train/len-0003-00000.arrow",
        "train/len-0003-00001.arrow",
    ]
    assert len(infos) > 3
    assert read(tmp_path, infos) == rows


def test_the_bytes_depend_on_the_rows_alone(tmp_path: Path) -> None:
    rows: list[Row] = [([i, i + 1], i % 3, [i]) for i in range(40)]
    first = write(tmp_path / "a", rows, cut=3)
    assert first == write(tmp_path / "b", rows, cut=40)
    assert first != write(tmp_path / "c", rows[::-1], cut=40)


def test_columns_share_memory_with_the_file(tmp_path: Path) -> None:
    (info,) = write(tmp_path, [([1, 2, 3], 0, [1])] * 50)
    shard = Shard.open(tmp_path / info.file, info, LAYOUT)
    assert not shard.tokens.flags.owndata
    assert not shard.tokens.flags.writeable
    shard.release()
    assert shard.tokens[49].tolist() == [1, 2, 3]


@given(st.data())
def test_damage_is_never_read_as_another_shape(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    store = tmp_path_factory.mktemp("store")
    (info,) = write(store, [([1, 2, 3], 0, [1, 2])] * 9)
    path = store / info.file
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert Shard.open(path, info, LAYOUT).tokens.shape == (9, 3)
    except UserError as error:
        assert str(error).startswith(f"{path}: corrupt shard")


@pytest.mark.parametrize("change", ["shorter", "longer", "missing", "rows", "columns"])
def test_a_shard_that_is_not_as_recorded_is_named(tmp_path: Path, change: str) -> None:
    (info,) = write(tmp_path, [([1, 2, 3], 0, [1, 2])] * 9)
    path = tmp_path / info.file
    content = path.read_bytes()
    if change == "shorter":
        path.write_bytes(content[:-1])
        expected = rf"truncated shard: expected {info.bytes:,} bytes, found {info.bytes - 1:,}"
    elif change == "longer":
        path.write_bytes(content + b"x")
        expected = "corrupt shard: expected"
    elif change == "missing":
        path.unlink()
        expected = "missing shard"
    elif change == "rows":
        info = ShardInfo(**{**vars(info), "rows": 10})
        expected = "expected 10 rows, found 9 rows"
    else:
        with path.open("wb") as file, pa.ipc.new_file(file, pa.schema([])) as writer:
            writer.write_batch(pa.record_batch([], schema=pa.schema([])))
        info = ShardInfo(**{**vars(info), "bytes": path.stat().st_size, "blocks": ""})
        expected = "expected the columns"
    with pytest.raises(UserError, match=expected) as error:
        Shard.open(path, info, LAYOUT)
    assert str(path) in str(error.value)


def test_ids_take_the_smallest_integer() -> None:
    assert smallest_dtype(65536) == np.uint16
    assert smallest_dtype(65537) == np.uint32


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 5))))
def test_spans_are_ranges(ranges: list[tuple[int, int]]) -> None:
    starts = np.array([start for start, _ in ranges], dtype=np.int64)
    sizes = np.array([size for _, size in ranges], dtype=np.int64)
    expected = [i for start, size in ranges for i in range(start, start + size)]
    assert spans(starts, sizes).tolist() == expected
