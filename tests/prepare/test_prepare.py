"""Text to store."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvtrain.data.info import StoreInfo
from lvtrain.data.store import Split, Store
from lvtrain.errors import UserError
from lvtrain.prepare.prepare import PrepareConfig, prepare, prepare_sentences
from lvtrain.text.sources import Sentences

WORDS = [f"word{i}" for i in range(40)]


def corpus(sentences: int, seed: int = 0) -> list[str]:
    chooser = random.Random(seed)
    return [" ".join(chooser.choices(WORDS, k=chooser.randint(1, 9))) for _ in range(sentences)]


def write(path: Path, lines: list[str]) -> str:
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


def sentences(store: Store, split: str = "train") -> list[str]:
    rows: Split = store.split(split)
    return [store.tokenizer.decode(rows.sentence(i)) for i in range(rows.rows)]


def build(tmp_path: Path, lines: list[str], **settings: Any) -> StoreInfo:
    file = write(tmp_path / "corpus.txt", lines)
    return prepare(PrepareConfig(files=(file,), **settings), tmp_path / "store")


def digests(store: Path) -> dict[str, str]:
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def test_every_sentence_is_kept_shortest_first_in_corpus_order(tmp_path: Path) -> None:
    lines = corpus(500)
    info = build(tmp_path, lines, valid_fraction=0)
    store = Store.open(tmp_path / "store", verify="full")
    assert sentences(store) == sorted(lines, key=lambda line: len(line.split()))
    assert store.info == info
    assert store.splits == ("train",)
    words = sum(len(line.split()) for line in lines)
    train = info.splits["train"]
    assert (train.sentences, train.words, train.tokens) == (500, words, words + 500)


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_the_same_text_gives_the_same_bytes(tmp_path: Path, kind: Any) -> None:
    file = write(tmp_path / "a.gz", corpus(300))
    config = PrepareConfig(files=(file,), tokenizer=kind, vocab_size=30 if kind == "words" else 280)
    prepare(config, tmp_path / "one")
    code = (
        "import sys; from lvtrain.prepare.prepare import *\n"
        f"prepare(PrepareConfig(files=({file!r},), tokenizer={kind!r}, "
        f"vocab_size={config.vocab_size}), sys.argv[1])"
    )
    # Another process has another order of hashing strings.
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "two")], check=True)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


@settings(max_examples=20)
@given(st.lists(st.text("ab \t", max_size=12), min_size=1, max_size=40), st.booleans())
def test_kept_and_dropped_add_up(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], bpe: bool
) -> None:
    folder = tmp_path_factory.mktemp("prepare")
    if not any(0 < len(line.split()) <= 3 for line in lines):
        lines = [*lines, "a b"]
    config = PrepareConfig(
        max_words=3, tokenizer="bpe" if bpe else "words", vocab_size=256 if bpe else None
    )
    try:
        info = prepare_sentences(lines, config=config, out=folder / "store")
    except UserError as error:
        assert bpe
        assert "no sentences in the train split: dropped" in str(error)
        return
    splits = info.splits.values()
    lengths = [len(line.split()) for line in lines]
    assert sum(split.sentences + sum(split.dropped.values()) for split in splits) == len(lines)
    assert info.splits["train"].dropped.get("empty", 0) == lengths.count(0)
    if not bpe:
        assert sum(split.sentences for split in splits) == sum(0 < n <= 3 for n in lengths)


def test_lines_are_dropped_for_a_reason(tmp_path: Path) -> None:
    info = build(tmp_path, ["a b", "", "  ", "a " * 6, "c d"], max_words=5, valid_fraction=0)
    assert info.splits["train"].dropped == {"empty": 2, "too_long": 1}
    assert info.splits["train"].sentences == 2
    assert "2 empty, 1 too long" in info.summary()


def test_what_is_dropped_is_of_the_split_that_it_would_have_gone_to(tmp_path: Path) -> None:
    lines = [*corpus(2000), *corpus(2000), ""]
    info = build(tmp_path, lines, max_words=7, valid_fraction=0.1, deduplicate="exact")
    for name, held_out in (("train", False), ("valid", True)):
        own = [line for line in lines if line and (crc32(line.encode()) < 0.1 * 2**32) == held_out]
        short = [line for line in own if len(line.split()) <= 7]
        split = info.splits[name]
        assert split.sentences == len(set(short))
        expected = {"duplicate": len(short) - len(set(short)), "too_long": len(own) - len(short)}
        assert split.dropped == {**expected, **({} if held_out else {"empty": 1})}


def test_the_table_has_a_line_for_long_words_and_many_labels(tmp_path: Path) -> None:
    lines = [f"{'w' * 900_000} {i}" for i in range(3)] + [f"a b {i}" for i in range(30)]
    labels = [f"{i:03}{'x' * 200 * (i == 0)}" for i in range(33)]
    config = PrepareConfig(
        files=(write(tmp_path / "a", lines),), labels=(write(tmp_path / "b", labels),)
    )
    info = prepare(config, tmp_path / "store")
    *_, names, words = info.summary().splitlines()
    assert names.startswith(f"labels      000{'x' * 36}…, 001, ")
    assert names.endswith(", 019, … (33 in all)")
    assert words == f"frequent    {', '.join(_shown(info))}"
    assert max(map(len, words.split())) == 40
    assert info.figures()["frequent"][:1] == (info.frequent[0],), "in full to a program"
    assert max(map(len, Store.open(tmp_path / "store").tokenizer.words)) == 900_000


def _shown(info: StoreInfo) -> list[str]:
    whole = ((word, f"{number:,}") for word, number in info.frequent[:10])
    return [f"{word if len(word) < 9 else 'w' * 39 + '…'} {number}" for word, number in whole]


def test_unknown_words_are_counted(tmp_path: Path) -> None:
    lines = ["a a a b", "a a a c"]
    valid = write(tmp_path / "valid.txt", ["a z", "z z"])
    info = build(tmp_path, lines, vocab_size=1, valid=(valid,))
    assert info.splits["train"].oov_rate == 2 / 8
    assert info.splits["valid"].oov_rate == 3 / 4
    assert info.frequent == (("a", 6), ("b", 1), ("c", 1))
    assert info.vocab_size == 5
    assert "parallel" not in info.summary()
    assert "target_oov_rate" not in info.figures()["splits"]["train"]


def test_unknown_words_of_a_parallel_side_are_counted_by_themselves(tmp_path: Path) -> None:
    target = write(tmp_path / "target.txt", ["x x y", "x x z w"])
    info = build(tmp_path, ["a a", "a b"], target=(target,), target_vocab_size=1, valid_fraction=0)
    split = info.splits["train"]
    assert split.oov_rate == 0 and split.target_oov_rate == 3 / 7
    assert info.figures()["splits"]["train"]["target_oov_rate"] == 3 / 7
    header, line = info.summary().splitlines()[:2]
    assert "unknown  parallel unknown  dropped" in header and " 42.86 %  none" in line


def test_validation_sentences_are_chosen_by_their_text(tmp_path: Path) -> None:
    lines = corpus(4000)
    fraction = 0.1

    def split(name: str, texts: list[str], seed: int = 0) -> tuple[set[str], set[str]]:
        config = PrepareConfig(valid_fraction=fraction, seed=seed)
        prepare_sentences(texts, config=config, out=tmp_path / name)
        store = Store.open(tmp_path / name)
        return set(sentences(store, "train")), set(sentences(store, "valid"))

    train, valid = split("a", lines)
    assert not train & valid
    assert abs(len(valid) / len(train | valid) - fraction) < 0.02
    grown_train, grown_valid = split("b", [*corpus(4000, seed=1), *lines])
    assert valid <= grown_valid
    assert train <= grown_train
    assert split("c", lines, seed=1)[1] != valid


def test_a_small_corpus_still_gives_up_a_sentence_for_validation(tmp_path: Path) -> None:
    info = build(tmp_path, ["a b", "a b c", "d", "e f"])
    assert info.splits["valid"].sentences == 1
    assert info.splits["train"].sentences == 3


def test_a_share_that_all_fall_into_leaves_a_sentence_to_train_on(tmp_path: Path) -> None:
    info = build(tmp_path, ["a b", "a b c", "d", "e f"], valid_fraction=0.9999999)
    assert info.splits["train"].sentences == 1
    assert info.splits["valid"].sentences == 3


def test_a_corpus_of_one_sentence_keeps_it_for_training(tmp_path: Path) -> None:
    info = build(tmp_path, ["a b", "a b"])
    assert list(info.splits) == ["train"]
    assert info.splits["train"].sentences == 2


def test_labels_and_parallel_sides_stay_with_their_sentences(tmp_path: Path) -> None:
    lines = corpus(300)
    targets = [" ".join(reversed(line.upper().split())) for line in lines]
    labels = [str(len(line) % 11) for line in lines]
    config = PrepareConfig(
        files=(write(tmp_path / "a", lines),),
        target=(write(tmp_path / "b", targets),),
        labels=(write(tmp_path / "c", labels),),
        valid_fraction=0.1,
    )
    info = prepare(config, tmp_path / "store")
    assert info.labels == tuple(map(str, range(11)))
    store = Store.open(tmp_path / "store")
    assert store.target_tokenizer is not None
    for name in store.splits:
        split = store.split(name)
        rows = np.arange(split.rows)[::-1]
        found, target_lengths = split.targets(rows)
        for row, label, ids, length in zip(
            rows.tolist(), split.labels(rows).tolist(), found, target_lengths, strict=True
        ):
            text = store.tokenizer.decode(split.sentence(row))
            if "<unk>" not in text:  # words that only validation sentences have
                assert label == len(text) % 11
                assert store.target_tokenizer.decode(ids).split() == text.upper().split()[::-1]
                assert length == len(text.split()) + 1


def test_files_can_be_labels(tmp_path: Path) -> None:
    files = [write(tmp_path / f"train.{label}", corpus(20, i)) for i, label in enumerate("01")]
    valid = [write(tmp_path / f"dev.{label}", corpus(5, i)) for i, label in enumerate("01")]
    config = PrepareConfig(files=tuple(files), valid=tuple(valid), label_by_file=True)
    assert prepare(config, tmp_path / "store").labels == ("0", "1")
    split = Store.open(tmp_path / "store").split("valid")
    assert sorted(split.labels(np.arange(10)).tolist()) == [0] * 5 + [1] * 5


def test_lowercase_applies_to_both_passes(tmp_path: Path) -> None:
    info = build(tmp_path, ["A b", "a B"], lowercase=True, valid_fraction=0)
    assert info.vocab_size == 6
    assert sentences(Store.open(tmp_path / "store")) == ["a b", "a b"]


def test_progress_is_reported_to_the_end(tmp_path: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    file = write(tmp_path / "a.txt", corpus(100))
    prepare(
        PrepareConfig(files=(file,)),
        tmp_path / "store",
        lambda done, total, phase, words: calls.append((done, total, phase)),
    )
    assert list(dict.fromkeys(phase for _, _, phase in calls)) == [
        "counting",
        "encoding",
        "writing",
    ]
    last = {phase: (done, total) for done, total, phase in calls}
    assert all(done == total for done, total in last.values())


def test_sentences_in_memory_may_have_companions(tmp_path: Path) -> None:
    train = Sentences(texts=["a b", "c"], labels=["x", "y"], targets=["B A", "C"])
    config = PrepareConfig(valid_fraction=0)
    info = prepare_sentences(train, test=train, config=config, out=tmp_path / "store")
    assert list(info.splits) == ["train", "test"]
    assert info.labels == ("x", "y")
    expected = "sentences: expected the same columns as in the training data, found no labels"
    with pytest.raises(UserError, match=expected):
        prepare_sentences(train, ["a"], config=config, out=tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "vocabulary": (
        {"vocab_size": 1000},
        "corpus.txt: vocabulary larger than the data: expected 1,000 words",
    ),
    "pieces": ({"tokenizer": "bpe", "vocab_size": 9999}, "vocabulary larger than the data"),
    "no size for pieces": ({"tokenizer": "bpe"}, "at least 256, found none"),
    "min count": ({"min_count": 10**6}, "corpus.txt: vocabulary is empty"),
    "few pieces": (
        {"tokenizer": "bpe", "vocab_size": 300, "target_vocab_size": 9, "target": ("x",)},
        "--target-vocab-size: a BPE vocabulary holds the 256 bytes: expected at least 256, found 9",
    ),
    "count of pieces": (
        {"tokenizer": "bpe", "vocab_size": 300, "min_count": 2},
        "--min-count: expected 1 with --tokenizer bpe",
    ),
    "no parallel side": ({"target_vocab_size": 9}, "--target-vocab-size: expected with --target"),
    "zero size": ({"vocab_size": 0}, "--vocab-size: expected at least 1, found 0"),
    "fraction": ({"valid_fraction": 1.5}, "--valid-fraction: expected 0 or more"),
    "column": ({"column": "text"}, "unknown column 'text'"),
    "two labels": ({"labels": ("x",), "label_by_file": True}, "expected one of --label-column"),
    "labels without": ({"labels": ("x",), "valid": ("y",)}, "--valid-labels: expected with"),
    "stray labels": ({"valid_labels": ("x",)}, "found one without --labels or --valid"),
    "missing": ({"valid": ("nowhere.txt",)}, "nowhere.txt: no such file"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    settings, expected = MISTAKES[name]
    with pytest.raises(UserError) as error:
        build(tmp_path, corpus(100), **settings)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.txt"]


def test_splits_without_a_sentence_say_what_was_dropped(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    with pytest.raises(UserError) as error:
        build(tmp_path, ["", " ", "a b c"], max_words=2)
    assert str(error.value) == (
        f"{corpus}: no sentences to make a vocabulary of: dropped 2 empty, "
        "1 too long (over 2, see --max-words)"
    )
    valid = write(tmp_path / "valid.txt", ["a b c", ""])
    with pytest.raises(UserError) as error:
        build(tmp_path, ["a b"], valid=(valid,), max_words=2)
    assert str(error.value) == (
        f"{valid}: no sentences in the valid split: dropped 1 empty, "
        "1 too long (over 2, see --max-words)"
    )
    files = [write(tmp_path / name, [""]) for name in ("a", "b", "c")]
    with pytest.raises(UserError, match=f"{files[0]} … {files[2]}: no .*: dropped 3 empty"):
        prepare(PrepareConfig(files=tuple(files)), tmp_path / "store")


def test_what_is_wrong_with_a_later_split_is_found_before_the_passes(tmp_path: Path) -> None:
    file = write(tmp_path / "corpus.txt", corpus(100))
    labels = write(tmp_path / "labels.txt", ["x"] * 100)
    table = tmp_path / "a.jsonl"
    table.write_text('{"text": "a"}\n')
    calls: list[int] = []
    for changed, expected in (
        ({"labels": (labels,), "valid": (file,), "valid_labels": ("no.txt",)}, "no.txt: no such"),
        ({"files": (str(table),), "column": "text", "test": (file,)}, f"{file}: unknown column"),
        ({"label_by_file": True, "test": (str(table),), "column": "txt"}, "unknown column 'txt'"),
    ):
        config = PrepareConfig(**{"files": (file,), **changed})  # type: ignore[arg-type]
        with pytest.raises(UserError, match=expected):
            prepare(
                config, tmp_path / "store", lambda done, total, phase, words: calls.append(done)
            )
    assert calls == []


def test_half_a_surrogate_pair_in_memory_is_placed(tmp_path: Path) -> None:
    for columns in (
        {"texts": ["a", "b \ud800"]},
        {"texts": ["a", "b"], "labels": ["x", "\ud800"]},
        {"texts": ["a", "b"], "targets": ["x", "\ud800"]},
    ):
        with pytest.raises(UserError, match="sentences: line 2: not UTF-8: .* lone surrogate"):
            prepare_sentences(
                Sentences(**columns), config=PrepareConfig(), out=tmp_path / "store"
            )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_names_of_files_need_not_be_utf8(tmp_path: Path) -> None:
    file = write(tmp_path / "a\udcef.txt", ["a b", "c d"])
    other = write(tmp_path / "b.txt", ["a b", "c d"])
    config = PrepareConfig(files=(file, other), label_by_file=True)
    info = prepare(config, tmp_path / "store")
    found = Store.open(tmp_path / "store").info
    assert found.sources[0]["file"] == file
    assert found.labels == info.labels == ("a\\udcef", "b")


def test_a_store_behind_a_link_is_replaced_there(tmp_path: Path) -> None:
    build(tmp_path, ["a b", "c d"])
    (tmp_path / "store").rename(tmp_path / "real")
    (tmp_path / "store").symlink_to("real")
    build(tmp_path, ["e f", "g h"], overwrite=True, valid_fraction=0)
    assert (tmp_path / "store").is_symlink()
    assert sentences(Store.open(tmp_path / "real")) == ["e f", "g h"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.txt", "real", "store"]


def test_a_label_unknown_to_training_is_placed(tmp_path: Path) -> None:
    file = write(tmp_path / "a", ["a", "b"])
    config = PrepareConfig(
        files=(file,),
        valid=(file,),
        labels=(write(tmp_path / "l", ["good", "bad"]),),
        valid_labels=(write(tmp_path / "v", ["good", "goood"]),),
    )
    with pytest.raises(UserError, match=r"line 2: label 'goood' is not .*did you mean 'good'"):
        prepare(config, tmp_path / "store")
    write(tmp_path / "l", ["good", ""])
    with pytest.raises(UserError, match="line 2: no label, expected one for every"):
        prepare(config, tmp_path / "store")


def test_a_label_that_is_missing_is_placed_in_the_file_of_labels(tmp_path: Path) -> None:
    texts = write(tmp_path / "text", corpus(1000))
    write(tmp_path / "labels.0", ["x"] * 300)
    write(tmp_path / "labels.1", [*["y"] * 200, " ", *["x"] * 499])
    config = PrepareConfig(files=(texts,), labels=(str(tmp_path / "labels.*"),))
    with pytest.raises(UserError, match=r"/labels\.1: line 201: no label, expected one for"):
        prepare(config, tmp_path / "store")
    write(tmp_path / "labels.1", ["y"] * 700)
    valid = write(tmp_path / "valid", ["z"])
    more = replace(config, valid=(write(tmp_path / "c", ["a"]),), valid_labels=(valid,))
    with pytest.raises(UserError, match=r"/valid: line 1: label 'z' is not in the training data"):
        prepare(more, tmp_path / "store")


def test_an_existing_store_is_replaced_only_on_request(tmp_path: Path) -> None:
    build(tmp_path, ["a b", "c d"])
    before = digests(tmp_path / "store")
    with pytest.raises(UserError, match="exists already"):
        build(tmp_path, ["e f"])
    assert digests(tmp_path / "store") == before
    build(tmp_path, ["a b", "c d"], overwrite=True)
    assert digests(tmp_path / "store") == before


def test_a_wrong_file_found_late_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"fine\n" * 1000 + b"\xff\n")
    file = write(tmp_path / "corpus.txt", corpus(100))
    config = PrepareConfig(files=(file,), test=(str(tmp_path / "bad.txt"),))
    with pytest.raises(UserError, match="line 1001, byte 1"):
        prepare(config, tmp_path / "store")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.txt", "corpus.txt"]


def test_the_record_is_json_with_the_rates(tmp_path: Path) -> None:
    info = build(tmp_path, corpus(100))
    record = json.loads((tmp_path / "store" / "store.json").read_text())
    assert record["digest"] == info.digest
    assert record["splits"]["train"]["oov_rate"] == 0
    assert StoreInfo.from_json(info.to_json()) == info
    assert record["sources"][0]["file"].endswith("corpus.txt")


@pytest.mark.parametrize(("kind", "size"), [("words", None), ("bpe", 258)])
def test_one_vocabulary_of_both_sides(tmp_path: Path, kind: Any, size: int | None) -> None:
    pairs = Sentences(texts=["a b", "b c"] * 9, targets=["c d", "d e e"] * 9)
    config = PrepareConfig(
        shared_vocabulary=True, target_column="x", valid_fraction=0, tokenizer=kind, vocab_size=size
    )
    info = prepare_sentences(pairs, config=config, out=tmp_path / "store")
    store = Store.open(tmp_path / "store")
    assert store.target_tokenizer is not None
    assert kind == "bpe" or set(store.tokenizer.words) == set("abcde")
    assert store.tokenizer.words == store.target_tokenizer.words
    assert len(set(info.tokenizers.values())) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "--shared-vocabulary: expected with --target or --target-column, found neither"),
        ({"target_column": "x", "target_vocab_size": 3}, "--target-vocab-size: expected none"),
    ],
)
def test_a_shared_vocabulary_needs_two_sides_and_has_one_size(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    (tmp_path / "text").write_text("a b\n" * 9)
    config = PrepareConfig(files=(str(tmp_path / "text"),), shared_vocabulary=True, **settings)
    with pytest.raises(UserError, match=said):
        prepare(config, tmp_path / "store")
    assert not (tmp_path / "store").exists()
