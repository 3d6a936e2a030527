"""A store that grows: old shards stay, sentences keep their splits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from lvtrain.data import shards
from lvtrain.data.store import Store
from lvtrain.errors import UserError
from lvtrain.grammar.grammar import Grammar
from lvtrain.prepare import append
from lvtrain.prepare.prepare import PrepareConfig, prepare
from lvtrain.prepare.workers import Here
from lvtrain.text import sources

FIRST = Grammar().sample(1000, seed=8)
SECOND = FIRST[:500][::-1]  # has no unknown word


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    monkeypatch.setattr(sources, "PART_BYTES", 10_000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1_000)
    for name, lines in (("first", FIRST), ("second", SECOND)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
    return str(tmp_path / "first"), str(tmp_path / "second")


def add(path: str, out: Path, progress: Any = None, **settings: Any) -> None:
    config = PrepareConfig(files=(path,), append=True, **settings)
    prepare(config, out, progress, Here())


def sentences(store: Store, name: str) -> list[str]:
    split = store.split(name)
    return [store.tokenizer.decode(split.sentence(i)) for i in range(split.rows)]


def test_what_is_added_follows_what_is_there(files: tuple[str, str], tmp_path: Path) -> None:
    how: dict[str, Any] = {"valid_fraction": 0.1, "seed": 3}
    first = prepare(PrepareConfig(files=files[:1], **how), tmp_path / "grown", workers=Here())
    before = {path: path.read_bytes() for path in (tmp_path / "grown" / "train").iterdir()}
    add(files[1], tmp_path / "grown")
    prepare(PrepareConfig(files=files, **how), tmp_path / "whole", workers=Here())
    grown = Store.open(tmp_path / "grown", verify="full")
    whole = Store.open(tmp_path / "whole")
    for name in ("train", "valid"):
        assert sentences(grown, name) == sentences(whole, name)
        found, expected = grown.info.splits[name], whole.info.splits[name]
        for field in ("sentences", "words", "tokens", "lengths", "dropped"):
            assert getattr(found, field) == getattr(expected, field)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert grown.digest != first.digest
    assert first.frequent and "frequent" in first.summary()
    assert not grown.info.frequent and "frequent" not in grown.info.summary()
    assert grown.info.sources == whole.info.sources
    assert not list(tmp_path.glob(".*"))


def test_files_for_validation_leave_the_split_of_other_sentences_as_it_is(
    files: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "store"
    prepare(PrepareConfig(files=files[:1], valid_fraction=0.1), out, workers=Here())
    before = set(sentences(Store.open(out), "valid"))
    (tmp_path / "valid").write_text("".join(f"{line}\n" for line in FIRST[600:620]))
    add(files[1], out, valid=(str(tmp_path / "valid"),))
    grown = Store.open(out, verify="full")
    assert before & set(SECOND)
    assert not before & set(sentences(grown, "train"))
    assert set(FIRST[600:620]) <= set(sentences(grown, "valid"))


@pytest.mark.parametrize("older", [False, True])
def test_what_a_tiny_store_holds_out_says_nothing_of_what_is_added(
    tmp_path: Path, older: bool
) -> None:
    lines = list(dict.fromkeys(Grammar().sample(6000, seed=2)))
    for name, some in (("first", lines[:10]), ("second", lines[10:])):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in some))
    out = tmp_path / "store"
    first = prepare(PrepareConfig(files=(str(tmp_path / "first"),)), out, workers=Here())
    assert first.splits["valid"].sentences == 1, "that of the smallest hash, which is no 1 %"
    (held_out,) = sentences(Store.open(out), "valid")
    if older:  # whose index says which threshold that took
        moved = replace(first, threshold=crc32(held_out.encode()) + 1)
        (out / "store.json").write_text(moved.to_json())
    add(str(tmp_path / "second"), out)
    grown = Store.open(out)
    added = grown.info.splits["valid"].sentences - 1
    assert 0.006 < added / (len(lines) - 10) < 0.014
    assert held_out in sentences(grown, "valid")


def test_no_split_of_nothing_is_added(files: tuple[str, str], tmp_path: Path) -> None:
    how: dict[str, Any] = {"valid_fraction": 0.1, "max_words": 12}
    (tmp_path / "one").write_text("a\n")
    out = tmp_path / "store"
    prepare(PrepareConfig(files=(str(tmp_path / "one"),), **how), out, workers=Here())
    assert Store.open(out).splits == ("train",)
    long = [f"{'b ' * 12}{i}" for i in range(50)]
    assert any(crc32(line.encode()) < 0.1 * 2**32 for line in long)
    kept = next(line for line in map(str, range(9)) if crc32(line.encode()) >= 0.1 * 2**32)
    (tmp_path / "more").write_text("".join(f"{line}\n" for line in (kept, *long)))
    add(str(tmp_path / "more"), out)
    grown = Store.open(out, verify="full").info
    assert list(grown.splits) == ["train"]
    assert grown.splits["train"].dropped == {"too_long": 50}


class Killed(BaseException):
    """What ends the work without a chance to clean up."""


@pytest.mark.parametrize("when", ["encoding", "writing", "moving", "index"])
def test_adding_that_was_ended_goes_on(
    files: tuple[str, str], tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("store", "other"):
        prepare(PrepareConfig(files=files[:1]), tmp_path / name, workers=Here())

    def end(done: int, total: int, phase: str, words: int) -> None:
        if phase == when and done > total // 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        if when in ("moving", "index"):
            moved: list[Path] = []

            def replace(self: Path, target: Path) -> Path:
                if target.parent.name in ("train", "valid") or target.name == "store.json":
                    moved.append(target)
                    if len(moved) > 4 if when == "moving" else target.name == "store.json":
                        raise Killed
                return self.rename(target)

            patch.setattr(Path, "replace", replace)
        add(files[1], tmp_path / "store", end)
    before = Store.open(tmp_path / "store", verify="full")
    assert before.digest == Store.open(tmp_path / "other").digest
    add(files[1], tmp_path / "store")
    add(files[1], tmp_path / "other")
    grown = Store.open(tmp_path / "store", verify="full")
    assert grown.info == Store.open(tmp_path / "other").info
    with pytest.raises(UserError, match="second: in .* already"):
        add(files[1], tmp_path / "store")


def test_a_file_is_known_whichever_folder_it_is_named_from(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "store"
    prepare(PrepareConfig(files=("first",)), out, workers=Here())
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir("inner")
    for path in ("../first", files[0]):
        with pytest.raises(UserError, match="first: in .* already"):
            add(path, out)
    add("../second", out)
    assert [one["file"] for one in Store.open(out).info.sources] == list(files)


def test_a_file_that_has_grown_is_not_added_again(files: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "store"
    info = prepare(PrepareConfig(files=files[:1]), out, workers=Here())
    with Path(files[0]).open("a") as file:
        file.write("the cook sings\n")
    before, now = info.sources[0]["bytes"], Path(files[0]).stat().st_size
    expected = f"already with {before:,} bytes, now {now:,}: its lines, expected files that are not"
    with pytest.raises(UserError, match=expected):
        add(files[0], out)


def test_mistakes_leave_the_store_as_it_was(files: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "store"
    with pytest.raises(UserError, match="no such store"):
        add(files[1], out)
    prepare(PrepareConfig(files=files[:1], max_words=9), out, workers=Here())
    digest = Store.open(out).digest
    table = tmp_path / "a.jsonl"
    table.write_text(json.dumps({"text": "a", "label": "x"}) + "\n")
    (tmp_path / "empty").write_text("\n\n")
    for path, settings, expected in (
        (files[0], {}, "first: in .* already, expected files that are not"),
        (files[1], {"max_words": 7}, "--max-words 7: expected 9, as .* was prepared with"),
        (files[1], {"lowercase": True}, "--lowercase: expected --no-lowercase, as .* was prepared"),
        (files[1], {"vocab_size": 300}, "--vocab-size 300: expected none, as .* was prepared with"),
        (files[1], {"tokenizer": "bpe"}, "--tokenizer bpe: expected words, as .* was prepared"),
        (files[1], {"overwrite": True}, "expected one of --append and --overwrite, found both"),
        (str(table), {"column": "text", "label_column": "label"}, "found labels"),
        (str(tmp_path / "empty"), {}, "no sentences: dropped 2 empty"),
    ):
        with pytest.raises(UserError, match=expected):
            add(path, out, **settings)
    record = json.loads((out / "store.json").read_text())
    assert record["digest"] == digest
    assert not list(tmp_path.glob(".*"))
    del record["threshold"], record["checksum"]
    (out / "store.json").write_text(json.dumps({**record, "version": 1}))
    with pytest.raises(UserError, match="prepared by an earlier version"):
        add(files[1], out)


def test_of_two_that_add_at_once_the_second_to_begin_is_told(
    files: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "store"
    prepare(PrepareConfig(files=files[:1]), out, workers=Here())
    (tmp_path / "third").write_text("".join(f"{line}\n" for line in FIRST[100:300]))
    key_of = append.key_of

    def meanwhile(*of: Any) -> str:  # the index is read, the lock not held
        monkeypatch.setattr(append, "key_of", key_of)
        add(files[1], out)
        return key_of(*of)

    monkeypatch.setattr(append, "key_of", meanwhile)
    with pytest.raises(UserError, match="store: changed meanwhile"):
        add(str(tmp_path / "third"), out)
    add(str(tmp_path / "third"), out)
    grown = Store.open(out, verify="full")
    kept = [*sentences(grown, "train"), *sentences(grown, "valid")]
    assert sorted(kept) == sorted([*FIRST, *SECOND, *FIRST[100:300]])
    assert not list(tmp_path.glob(".*"))
