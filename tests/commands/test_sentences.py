"""What commands make of odd sentences: empty, unknown, endless."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lvtrain.commands.sentences import stdin_parts
from lvtrain.errors import UserError

Ask = Callable[..., str]
Runs = dict[str, Path]


def feed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def test_a_line_comes_back_for_each_line_of_standard_input(
    runs: Runs, said: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "the boy smiles",
        "",
        "xyzzy plugh",
        " \t",
        "the boy " * 5_000,
        "two girls sing\r",
        "a",
    ]
    feed(monkeypatch, "\n".join(lines).encode())
    out = said("reconstruct", runs["ae"]).splitlines()
    assert [bool(line) for line in out] == [bool(line.split()) for line in lines]
    assert [out[0], out[5]] == said("reconstruct", runs["ae"], lines[0], lines[5]).splitlines()


def test_nothing_on_standard_input_is_nothing_said(
    runs: Runs, said: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, b"")
    assert said("reconstruct", runs["ae"]) == ""
    monkeypatch.setattr("sys.stdin", None)
    assert said("reconstruct", runs["ae"]) == ""


def test_an_empty_line_is_an_empty_reconstruction_in_json(runs: Runs, said: Ask) -> None:
    found = json.loads(said("reconstruct", runs["vae"], "", "the boy", "--json"))
    assert found[0] == {"source": "", "reconstruction": ""}
    assert found[1]["source"] == "the boy" and found[1]["reconstruction"]


def test_standard_input_that_is_no_text_is_named_with_its_line(
    runs: Runs, refused: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, b"the boy\n\nthe \xff boy\n")
    assert "standard input: line 3: not UTF-8" in refused("reconstruct", runs["ae"])


def test_a_mark_before_the_first_line_is_no_word_and_a_zero_byte_is_no_text(
    runs: Runs, said: Ask, refused: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, b"\xef\xbb\xbfthe boy\n\xef\xbb\xbfthe boy\n")
    records = json.loads(said("reconstruct", runs["ae"], "--json"))
    assert [record["source"] for record in records] == ["the boy", "\ufeffthe boy"]
    feed(monkeypatch, b"the boy\na\0b\n")
    assert "standard input: line 2 holds a zero byte" in refused("reconstruct", runs["ae"])


def test_what_has_come_is_not_kept_waiting_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stream:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
        os.write(writer, b"a\n\nb\nc")
        parts = stdin_parts(100, pauses=True)
        assert next(parts) == ["a", "", "b"], "a line without its end is not yet one"
        os.write(writer, b"c\nd\n\xff\ne\n")
        os.close(writer)
        assert next(parts) == ["cc", "d"], "those before a bad one"
        with pytest.raises(UserError, match="standard input: line 6: not UTF-8"):
            next(parts)


def test_a_stream_that_does_not_pause_comes_in_ever_larger_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [str(number) for number in range(1_000)]
    feed(monkeypatch, "\n".join(lines).encode())
    parts = list(stdin_parts(300, pauses=True))
    assert [len(part) for part in parts] == [64, 128, 256, 300, 252]
    assert [line for part in parts for line in part] == lines
    feed(monkeypatch, "\n".join(lines).encode())
    assert [len(part) for part in stdin_parts(300)] == [300, 300, 300, 100]


def test_standard_input_that_cannot_be_read_is_one_line(
    runs: Runs, tmp_path: Path, refused: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_only = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    with os.fdopen(written_only, "rb") as stream:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stream))
        assert "standard input: bad file descriptor" in refused("reconstruct", runs["ae"]).lower()


def test_a_language_model_says_that_it_has_no_codes(
    runs: Runs, tmp_path: Path, refused: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = runs["lm"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=None))  # It is not waited for.
    for argv in (
        ["reconstruct", lm],
        ["reconstruct", lm, "the boy"],
        ["interpolate", lm],
        ["interpolate", lm, "the boy", "the girl"],
        ["arithmetic", lm, "the boy", "--plus", "a", "--minus", "b"],
    ):
        assert "a language model has no codes" in refused(*argv)


def test_empty_lines_of_a_group_are_no_sentences(
    runs: Runs, tmp_path: Path, said: Ask, refused: Ask
) -> None:
    (tmp_path / "plus").write_text("\nthe boy smiles\n\n  \ntwo girls sing\n")
    (tmp_path / "none").write_text("\n \n")
    one = ["arithmetic", runs["vae"], "the boy", "--minus", "a baker sings", "--plus"]
    assert said(*one, f"@{tmp_path / 'plus'}") == said(*one, "the boy smiles", "two girls sing")
    assert "--plus: expected at least one sentence" in refused(*one, f"@{tmp_path / 'none'}")


def test_an_empty_sentence_has_no_way_from_it(runs: Runs, refused: Ask) -> None:
    assert "an empty one" in refused("interpolate", runs["ae"], "", "the boy")
    words = ("--plus", "a", "--minus")
    assert "an empty one" in refused("arithmetic", runs["ae"], " ", *words, "b")
    assert "scale: expected one that leaves codes finite, found 1e+39" in refused(
        "arithmetic", runs["vae"], "the boy", *words, "b", "--scale", "1e39"
    )
    assert "arithmetic: expected at least one sentence" in refused(
        "arithmetic", runs["vae"], *words, "b"
    )
    assert "--minus: expected sentences" in refused("arithmetic", runs["ae"], "a", *words, "")


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("interpolate", "--steps 0"), ("interpolate", "--steps 1"), ("interpolate", "--num 0"),
        ("interpolate", "--num -1"), ("arithmetic", "--scale nan"), ("arithmetic", "--scale inf"),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_is_refused_by_its_flag(
    runs: Runs, refused: Ask, command: str, flags: str
) -> None:
    given = [] if command == "interpolate" else ["the boy", "--plus", "a", "--minus", "b"]
    flag = flags.split()[0]
    assert f"{flag}: expected" in refused(command, runs["ae"], *given, *flags.split())
