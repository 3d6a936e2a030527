"""JSON lines: the columns of objects, and what is said of lines that are not as the first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lvtrain.errors import UserError
from lvtrain.text import sources
from lvtrain.text.json_lines import check_unicode
from lvtrain.text.sources import Source


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def texts(file: str, **settings: Any) -> list[str]:
    return [text for chunk in Source(files=[file], **settings).chunks() for text in chunk.texts]


def complains(file: str, expected: str, **settings: Any) -> None:
    """Reading must raise one line: the file, then what is expected."""
    with pytest.raises(UserError) as error:
        texts(file, **settings)
    assert str(error.value) == f"{file}: {expected}"


def test_a_lone_surrogate_names_line_and_column(tmp_path: Path) -> None:
    lines = ('{"text": "a \U0001f600 b", "n": 1}', '{"text": "a \\ud800 b", "n": "\\udfff"}')
    file = write(tmp_path / "a.jsonl", *lines)
    said = "line 2: column 'text': not UTF-8: character 3 is the lone surrogate \\ud800"
    complains(file, said)
    side = Source(files=[write(tmp_path / "b", "x", "y")], target=[file], target_column="text")
    with pytest.raises(UserError) as error:
        list(side.chunks())
    assert str(error.value) == f"{file}: {said}"
    fine = write(tmp_path / "c.jsonl", lines[0], '{"text": "a", "n": "\\udfff"}')
    said = "line 2: column 'n': not UTF-8: character 1 is the lone surrogate \\udfff"
    complains(fine, said, column="text", label_column="n")
    assert texts(fine) == ["a \U0001f600 b", "a"]


def test_a_zero_byte_names_line_and_column(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "fine"}', '{"text": "a \\u0000 b"}')
    complains(file, "line 2: column 'text' holds a zero byte (\\u0000), expected text")


def test_a_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.jsonl", '{"t": "\\ud83d\\ude00"}')) == ["\U0001f600"]
    check_unicode("\U0001f600", "anywhere")


def test_the_text_column_is_that_of_the_first_line(tmp_path: Path) -> None:
    lines = ('{"text": "a", "n": 1}', '{"text": "b", "n": "also text"}', '{"text": null}')
    assert texts(write(tmp_path / "a.jsonl", *lines)) == ["a", "b", ""]


def test_every_piece_of_a_file_takes_the_column_of_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PART_BYTES", 1_000)
    rows: list[dict[str, Any]] = [{"text": f"a {i}", "n": 1} for i in range(40)]
    rows += [{"text": None, "note": f"b {i}"} for i in range(40)]
    rows += [{"text": f"c {i}", "note": "d"} for i in range(40)]
    source = Source(files=[write(tmp_path / "a.jsonl", *map(json.dumps, rows))])
    parts = source.parts()
    assert len(parts) > 3
    found = [text for part in parts for chunk in source.chunks(part) for text in chunk.texts]
    assert found == [row["text"] or "" for row in rows]


@pytest.mark.parametrize("column", [None, "text"])
def test_a_later_line_without_the_column_is_named(tmp_path: Path, column: str | None) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "a", "n": 1}', '{"txt": "b", "n": 1}')
    complains(
        file,
        "line 2: unknown column 'text': the columns are txt, n (did you mean 'txt'?)",
        column=column,
    )


def test_the_column_stays_fixed_beyond_a_block_of_lines(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "x" * 1000}) for _ in range(1500)]
    file = write(tmp_path / "a.jsonl", *lines, '{"other": "b"}')
    complains(file, "line 1501: unknown column 'text': the columns are other")


def test_a_first_line_in_doubt_lists_its_columns(tmp_path: Path) -> None:
    none = write(tmp_path / "a.jsonl", '{"n": 1, "t": null}')
    expected = "line 1: expected one column of text or the name of one, found"
    complains(none, f"{expected} none among n, t (null)")
    complains(write(tmp_path / "b.jsonl", '{"a": "x", "b": "y"}'), f"{expected} a, b")
    complains(write(tmp_path / "c.jsonl", "{}"), f"{expected} none among no columns")


@pytest.mark.parametrize(
    ("value", "found"),
    [("3", "a number"), ("NaN", "a number"), ("true", "true"), ('["a"]', "an array"),
     ('{"a": "b"}', "an object")],
)  # fmt: skip
def test_only_text_is_text(tmp_path: Path, value: str, found: str) -> None:
    file = write(tmp_path / "a.jsonl", '{"t": "a"}', f'{{"t": {value}}}')
    complains(file, f"line 2: column 't' holds {found}, expected text")


def test_labels_may_be_numbers(tmp_path: Path) -> None:
    lines = (f'{{"t": "a", "l": {value}}}' for value in ("1", "true", '"x"', "1.5"))
    source = Source(
        files=[write(tmp_path / "a.jsonl", *lines)], column="t", label_column="l"
    )  # fmt: skip
    (chunk,) = source.chunks()
    assert chunk.labels == ["1", "true", "x", "1.5"]


def test_columns_lie_in_objects_or_have_dots_in_their_names(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"t.de": "eins", "t": {"en": "one"}}')
    assert texts(file) == ["eins"]
    assert texts(file, column="t.en") == ["one"]
    complains(file, "line 1: unknown column 't.fr': the columns are t.de, t.en",
              column="t.fr")  # fmt: skip
    none = write(tmp_path / "b.jsonl", '{"t": {"de": "eins", "en": null}, "n": {}}')
    expected = "line 1: expected one column of text or the name of one, found none among"
    complains(none, f"{expected} t.de, t.en (null), n")
    many = json.dumps({"t": None, "of": dict.fromkeys(map(str, range(1_000)), 0)})
    twenty = ", ".join(["t (null)", *(f"of.{n}" for n in range(19))])
    complains(write(tmp_path / "c.jsonl", many), f"{expected} {twenty} and 981 more")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("", "an empty line"),
        ("[1]", "an array"),
        ('"a"', "a string"),
        ("null", "null"),
        ("{'t': 'a'}", "other text (Expecting property name enclosed in double quotes at "
                       "character 2)"),
        ('{"t": "a"', "other text (Expecting ',' delimiter at character 10)"),
        ('{"t": ' + "9" * 5000 + "}", "a number of too many digits"),
        ('{"t": ' + "[" * 100_000, "one nested too deeply"),
    ],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_object_is_said(tmp_path: Path, line: str, found: str) -> None:
    file = write(tmp_path / "a.jsonl", '{"t": "a"}', line, '{"t": "b"}')
    complains(file, f"line 2: expected a JSON object a line, found {found}")


def test_json_that_is_not_a_line_each_is_not_taken_for_text(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "lines.json", '{"t": "a"}', '{"t": "b"}')) == ["a", "b"]
    file = tmp_path / "array.json"
    file.write_text(json.dumps([{"t": "a"}], indent=1))
    complains(str(file), "line 1: expected a JSON object a line, found other text "
                         "(Expecting value at character 2)")  # fmt: skip
