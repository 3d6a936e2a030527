"""Reading what was prepared, and what is said of a store that is not whole."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.data import checksums, shards, store
from lvtrain.data.store import Split, Store, Verify
from lvtrain.data.tokenizer import EOS, PAD
from lvtrain.errors import UserError
from lvtrain.prepare.prepare import PrepareConfig, Sentences, prepare_sentences

CHOOSER = random.Random(0)
LINES = [" ".join(CHOOSER.choices("abcdefgh", k=CHOOSER.randint(1, 12))) for _ in range(300)]
ORDERED = sorted(LINES, key=lambda line: len(line.split()))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "store"
    train = Sentences(
        texts=LINES,
        labels=[line[0] for line in LINES],
        targets=[line[::-1].upper() for line in LINES],
    )
    prepare_sentences(train, config=PrepareConfig(valid_fraction=0), out=out)
    return out


@pytest.fixture(scope="module")
def split(path: Path) -> Split:
    return Store.open(path).split("train")


def copy(path: Path, to: Path) -> Path:
    for file in path.rglob("*"):
        if file.is_file():
            target = to / file.relative_to(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return to


def test_a_split_knows_its_size(split: Split) -> None:
    assert split.rows == len(split) == 300
    assert split.tokens == sum(len(line.split()) + 1 for line in LINES)
    assert split.max_length == 12
    lengths = split.lengths(np.arange(300)).tolist()
    assert lengths == [len(line.split()) for line in ORDERED]
    for length, first, rows in split.buckets:
        assert lengths[first : first + rows] == [length] * rows


@given(st.lists(st.integers(0, 299), min_size=1, max_size=50))
def test_rows_are_gathered_in_the_order_asked_for(
    path: Path, split: Split, rows: list[int]
) -> None:
    tokenizer = Store.open(path, verify="size").tokenizer
    tokens, lengths = split.gather(np.array(rows))
    assert tokens.dtype == lengths.dtype == np.int64
    assert tokens.shape == (len(rows), lengths.max())
    for row, ids, length in zip(rows, tokens.tolist(), lengths.tolist(), strict=True):
        assert ids == [*tokenizer.encode(ORDERED[row]), EOS] + [PAD] * (len(ids) - length)
        assert split.sentence(row) == ids[: length - 1]
    assert split.labels(np.array(rows)).tolist() == ["abcdefgh".index(ORDERED[r][0]) for r in rows]
    assert (split.target_lengths(np.array(rows)) + 1 == split.targets(np.array(rows))[1]).all()


def test_targets_follow_their_rows(path: Path, split: Split) -> None:
    opened = Store.open(path)
    assert opened.target_tokenizer is not None
    rows = np.array([299, 0, 150, 150])
    tokens, lengths = split.targets(rows)
    texts = [ORDERED[row][::-1].upper() for row in rows]
    assert opened.target_tokenizer.decode_batch(tokens) == texts
    assert lengths.tolist() == [len(text.split()) + 1 for text in texts]
    assert tokens[1, lengths[1] - 1] == EOS
    assert (tokens[1, lengths[1] :] == PAD).all()


def test_large_splits_read_the_same_in_parts(
    path: Path, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "MAPPED_BYTES", 400)
    monkeypatch.setattr(store, "RESIDENT_BYTES", 0)
    rows = np.random.default_rng(0).permutation(300)
    again = Store.open(path).split("train")
    for one, other in zip(again.gather(rows), split.gather(rows), strict=True):
        assert np.array_equal(one, other)
    for one, other in zip(again.targets(rows), split.targets(rows), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(again.labels(rows), split.labels(rows))


def test_rows_out_of_range_are_refused(split: Split) -> None:
    for row in (-1, 300):
        with pytest.raises(IndexError, match="row outside"):
            split.gather(np.array([row]))
    assert split.gather(np.array([], dtype=np.int64))[0].shape == (0, 1)


def test_unknown_splits_are_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"no split 'trian', expected one of train .*'train'"):
        Store.open(path).split("trian")


def test_the_digest_names_the_contents(path: Path, tmp_path: Path) -> None:
    assert Store.open(copy(path, tmp_path / "copy")).digest == Store.open(path).digest
    config = PrepareConfig(valid_fraction=0)
    prepare_sentences(LINES[1:], config=config, out=tmp_path / "other")
    assert Store.open(tmp_path / "other").digest != Store.open(path).digest


def test_what_is_no_store_is_said(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such store"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=re.escape("did you mean 'store'?")):
        Store.open(path.with_name("sotre"))
    with pytest.raises(UserError, match=re.escape("not a store: no store.json")):
        Store.open(tmp_path)
    (tmp_path / "s100").touch()
    with pytest.raises(UserError, match="prepare` wrote, found a file$"):
        Store.open(tmp_path / "s100")


@pytest.mark.parametrize("verify", ["auto", "full"])
def test_a_changed_byte_anywhere_is_found_and_named(
    path: Path, tmp_path: Path, verify: Verify
) -> None:
    broken = copy(path, tmp_path / "store")
    chooser = random.Random(1)
    files = [file for file in broken.rglob("*") if file.is_file()]
    for file in files:
        content = file.read_bytes()
        place = chooser.randrange(len(content))
        if file.name == "store.json":
            place = content.index(b'"rows"') + 8
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError) as error:
            Store.open(broken, verify=verify)
        assert str(file) in str(error.value) or file.name == "store.json"
        assert "\n" not in str(error.value)
        file.write_bytes(content)
    Store.open(broken, verify=verify)


@pytest.mark.parametrize("verify", ["auto", "size", "full"])
def test_a_truncated_shard_is_named(path: Path, tmp_path: Path, verify: Verify) -> None:
    broken = copy(path, tmp_path / "store")
    file = broken / "train" / "len-0005-00000.arrow"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[: size // 2])
    with pytest.raises(UserError, match=f"truncated shard: expected {size:,} bytes") as error:
        Store.open(broken, verify=verify)
    assert str(file) in str(error.value)


def as_version_1(store: Path) -> Path:
    """Take what version 1 had not out of a store's index."""
    record = json.loads((store / "store.json").read_text())
    record["version"] = 1
    del record["threshold"], record["checksum"]
    for split in record["splits"].values():
        for shard in split["shards"]:
            del shard["blocks"]
    (store / "store.json").write_text(json.dumps(record))
    return store


def test_a_store_of_version_1_opens(path: Path, tmp_path: Path) -> None:
    old = Store.open(as_version_1(copy(path, tmp_path / "store")), verify="full")
    new = Store.open(path)
    assert old.digest == new.digest
    rows = np.arange(new.split("train").rows)
    assert (old.split("train").gather(rows)[0] == new.split("train").gather(rows)[0]).all()


def test_what_is_damaged_is_not_read_and_the_rest_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(shards, "BLOCK_BYTES", 1 << 12)
    prepare_sentences(
        [f"w{i % 50} x{i % 7} y" for i in range(40_000)],
        config=PrepareConfig(valid_fraction=0), out=tmp_path / "store",
    )  # fmt: skip
    (file,) = (tmp_path / "store" / "train").iterdir()
    content = bytearray(file.read_bytes())
    place = len(content) // 2
    content[place] ^= 1
    file.write_bytes(content)
    split = Store.open(tmp_path / "store", verify="size").split("train")
    assert split.gather(np.arange(1000))[0].shape == (1000, 4)
    row = place // 6
    with pytest.raises(UserError, match="corrupt shard: expected CRC-32"):
        split.gather(np.array([0, row]))
    with pytest.raises(UserError, match="corrupt shard: expected CRC-32"):
        split.gather(np.array([row]))
    split.gather(np.array([0, row - 3000, row + 3000]))


@pytest.mark.parametrize("column", [0, 1], ids=["values", "offsets"])
def test_of_a_parallel_side_what_is_damaged_is_not_read_and_the_rest_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: int
) -> None:
    monkeypatch.setattr(shards, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 1 << 12)
    targets = [" ".join(["t", "u", "v"][: 1 + i % 3]) for i in range(20_000)]
    prepare_sentences(
        Sentences(texts=["a b c"] * 20_000, targets=targets),
        config=PrepareConfig(valid_fraction=0), out=tmp_path / "store",
    )  # fmt: skip
    whole = Store.open(tmp_path / "store").split("train")._shard(0)
    assert whole.targets is not None
    damaged = whole.targets[column]
    place = damaged[len(damaged) // 2 :].ctypes.data - whole._blocks.address
    (file,) = (tmp_path / "store" / "train").iterdir()
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    split = Store.open(tmp_path / "store", verify="size").split("train")
    rows = np.array([*range(5_000), *range(15_000, 20_000)])
    lengths = split.target_lengths(rows)
    assert lengths.tolist() == [len(targets[row].split()) for row in rows]
    ids = split.targets(rows)[0]
    assert [len(set(row)) for row in ids[:6].tolist()] == [3, 4, 4, 3, 4, 4]
    for row in range(10_000, 10_003):
        with pytest.raises(UserError, match="corrupt shard: expected CRC-32"):
            split.targets(np.array([row]))


MANY = """
import resource, sys
import numpy as np
from lvtrain.data.store import Store
resource.setrlimit(resource.RLIMIT_NOFILE, (40, int(sys.argv[2])))
split = Store.open(sys.argv[1], verify="size").split("train")
print(split.gather(np.arange(split.rows))[1].sum())
"""


def test_a_store_may_have_more_shards_than_a_process_open_files(tmp_path: Path) -> None:
    lines = [" ".join(["a"] * length) for length in range(1, 81)]
    config = PrepareConfig(valid_fraction=0, max_words=80)
    prepare_sentences(lines, config=config, out=tmp_path / "store")

    def read(limit: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", MANY, str(tmp_path / "store"), str(limit)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert read(400).stdout == f"{sum(range(2, 82))}\n"
    said = read(40).stderr.splitlines()[-1]
    assert said.endswith(".arrow: too many open files (ulimit -n)")
    assert "corrupt" not in said


def test_ids_beyond_the_vocabulary_are_never_returned(path: Path, tmp_path: Path) -> None:
    broken = as_version_1(copy(path, tmp_path / "store"))
    file = broken / "train" / "len-0005-00000.arrow"
    content = bytearray(file.read_bytes())
    row = Store.open(path).split("train")
    first = next(first for length, first, _ in row.buckets if length == 5)
    start = content.index(np.array(row.sentence(first), dtype=np.uint16).tobytes())
    content[start : start + 2] = b"\xff\xff"
    file.write_bytes(content)
    opened = Store.open(broken, verify="size")
    with pytest.raises(UserError, match=r"len-0005-00000.arrow: corrupt shard: .* found 65,535"):
        opened.split("train").gather(np.array([first]))


@pytest.mark.parametrize(
    ("old", "new"),
    [('"seed": 0', '"seed": 7'), ('"threshold": 0', '"threshold": 1'),
     ('"lowercase": false', '"lowercase": true'), ('"max_words": 50', '"max_words": 5')],
)  # fmt: skip
def test_an_index_that_was_changed_is_refused(
    path: Path, tmp_path: Path, old: str, new: str
) -> None:
    broken = copy(path, tmp_path / "store")
    text = (broken / "store.json").read_text()
    assert text.count(old) == 1
    (broken / "store.json").write_text(text.replace(old, new))
    with pytest.raises(UserError, match="store.json: corrupt or of another version: checksum"):
        Store.open(broken)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 99}', "nonsense"])
def test_a_broken_index_is_named(path: Path, tmp_path: Path, content: str) -> None:
    broken = copy(path, tmp_path / "store")
    (broken / "store.json").write_text(content)
    with pytest.raises(UserError, match=re.escape(str(broken / "store.json"))) as error:
        Store.open(broken)
    assert "\n" not in str(error.value)


def test_what_is_missing_from_a_store_is_named(path: Path, tmp_path: Path) -> None:
    broken = copy(path, tmp_path / "store")
    index = broken / "store.json"
    index.write_text('{"version": 1}')
    with pytest.raises(UserError, match="corrupt: expected a field 'digest', found none"):
        Store.open(broken)
    index.unlink()
    index.mkdir()
    with pytest.raises(UserError, match="store.json: cannot be read: Is a directory"):
        Store.open(broken)
    for name in ("tokenizer.json", "target_tokenizer.json"):
        broken = copy(path, tmp_path / "other")
        (broken / name).unlink()
        with pytest.raises(UserError, match=f"/{name}: no such file, expected the tokenizer"):
            Store.open(broken, verify="size")


def test_figures_are_plain_json(path: Path) -> None:
    info = Store.open(path).info
    figures = json.loads(json.dumps(info.figures()))
    assert figures["splits"]["train"]["sentences"] == 300
    assert "train" in info.summary()
    assert "300" in info.summary()
