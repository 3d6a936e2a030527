"""`lvtrain prepare`: what it says to mistakes, one line on standard error and exit status 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lvtrain.cli import run
from lvtrain.errors import UserError
from lvtrain.prepare.prepare import PrepareConfig, prepare


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    assert run(["prepare", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("lvtrain: error: ").rstrip()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("a b\nc d\n")
    return path


def test_half_a_surrogate_pair_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "fine"}\n{"text": "a \\ud800 b"}\n')
    assert refused(capsys, file, "--out", tmp_path / "store") == (
        f"{file}: line 2: column 'text': not UTF-8: character 3 is the lone surrogate \\ud800"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_flag_of_files_without_any_is_not_taken_for_absent(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--labels", "--valid-target", "--test"):
        said = refused(capsys, corpus, flag, "--out", tmp_path / "store")
        assert said == f"prepare: {flag}: expected at least one file, found none"


def test_a_flag_that_is_given_must_be_the_stores_whatever_its_value(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, more = tmp_path / "store", tmp_path / "more.txt"
    more.write_text("a b c\n")
    how = ("--max-words", "5", "--lowercase", "--valid-fraction", "0", "--vocab-size", "3")
    assert run(["prepare", str(corpus), "--out", str(store), *how]) == 0
    for given, expected in (
        (["--max-words", "50"], "--max-words 50: expected 5"),  # the default
        (["--max_words=50"], "--max-words 50: expected 5"),
        (["--no-lowercase"], "--no-lowercase: expected --lowercase"),
        (["--tokenizer", "bpe"], "--tokenizer bpe: expected words"),
        (["--vocab-size", "None"], "--vocab-size none: expected 3"),
    ):
        said = refused(capsys, more, "--out", store, "--append", *given)
        assert said == f"{expected}, as {store} was prepared with"
    assert run(["prepare", str(more), "--out", str(store), "--append", "--max-words", "5"]) == 0


def test_to_a_store_of_pieces_its_flags_may_be_given_again(corpus: Path, tmp_path: Path) -> None:
    store, more = tmp_path / "store", tmp_path / "more.txt"
    more.write_text("a b c\n")
    corpus.write_text("ab ab abc\n" * 20)
    pieces = ["--tokenizer", "bpe"]
    command = ["prepare", str(corpus), "--out", str(store), *pieces, "--vocab-size", "257"]
    assert run([*command, "--valid-fraction", "0"]) == 0
    assert run(["prepare", str(more), "--out", str(store), "--append", *pieces]) == 0


def test_an_empty_name_is_not_the_current_folder(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert refused(capsys, corpus, "--out", "") == "prepare: --out: expected a path, found none"
    assert list(Path().iterdir()) == []


def test_sizes_of_vocabularies_may_be_written_as_numbers_of_words_are(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in (["--vocab-size", "1e6"], ["--vocab-size=1.0E+06"]):
        said = refused(capsys, corpus, "--out", tmp_path / "store", *size)
        assert said.startswith(f"{corpus}: vocabulary larger than the data") and "1,000,000" in said
    said = refused(capsys, corpus, "--out", tmp_path / "store", "--vocab-size", "1.23e1")
    assert "--vocab-size: expected an integer, found '1.23e1'" in said


def test_memory_of_one_process_is_no_place_for_what_others_write(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, corpus, "--out", "memory://a/store")
    assert said.startswith("--out memory://a/store: each process has a memory of its own, expected")
    with pytest.raises(UserError, match="--out memory://a/store: each process has a memory"):
        prepare(PrepareConfig(files=(str(corpus),), processes=2), "memory://a/store")


def test_what_fails_leaves_no_folder_made_for_it(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "store"
    said = refused(capsys, corpus, "--out", out, "--vocab-size", "100")
    assert said.startswith(f"{corpus}: vocabulary larger than the data")
    assert not out.parent.exists()


def test_an_output_that_cannot_be_is_found_before_the_input_is_read(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latin = tmp_path / "latin.txt"
    latin.write_bytes(b"\xff\n")
    assert refused(capsys, latin, "--out", corpus / "x").startswith(f"{corpus}/x: cannot be wri")
    assert refused(capsys, latin, "--out", corpus).startswith(f"{corpus}: exists already")
