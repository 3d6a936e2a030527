"""Sentences out of files of every kind, and what is said of files that are wrong."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.errors import UserError
from lvtrain.text.files import find, label_names
from lvtrain.text.sources import Source, read

LINES = ["a first line", "", "zweite Zeile, schön", "third\u2028not a new line", "日本語 です"]
TABLE = pa.table({"text": LINES, "label": [0, 1, 0, 1, 1], "other": ["x"] * 5})


def texts(*patterns: Path | str, column: str | None = None) -> list[str]:
    return [sentence.text for sentence in read([str(p) for p in patterns], column=column)]


def complains(path: Path, *parts: str, column: str | None = None) -> None:
    """Reading must raise one line that begins with the file and holds the parts in order."""
    with pytest.raises(UserError) as error:
        texts(path, column=column)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert re.search(".*".join(map(re.escape, parts)), message), message


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def arrow(path: Path, table: pa.Table, stream: bool = False, rows: int = 2) -> Path:
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with path.open("wb") as file, new(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return path


def parquet(path: Path, table: pa.Table) -> Path:
    pq.write_table(table, path, row_group_size=2)
    return path


NUMBERED = pa.DictionaryArray.from_arrays(range(5), pa.array(LINES, pa.string_view()))
PLAIN = "\n".join(LINES).encode()
FORMATS: dict[str, Callable[[Path], Path]] = {
    "a.txt": lambda p: write(p, PLAIN + b"\n"),
    "no_newline_at_the_end": lambda p: write(p, PLAIN),
    "byte_order_mark.txt": lambda p: write(p, b"\xef\xbb\xbf" + PLAIN),
    "a.txt.gz": lambda p: write(p, gzip.compress(PLAIN)),
    "two_members.gz": lambda p: write(p, gzip.compress(PLAIN[:20]) + gzip.compress(PLAIN[20:])),
    "a.txt.zst": lambda p: write(p, zstandard.compress(PLAIN)),
    "compressed_by_content": lambda p: write(p, zstandard.compress(PLAIN)),
    "a.parquet": lambda p: parquet(p, TABLE),
    "a.arrow": lambda p: arrow(p, TABLE),
    "stream.arrow": lambda p: arrow(p, TABLE, stream=True),
    "a.jsonl": lambda p: write(p, "\n".join(json.dumps({"text": t}) for t in LINES).encode()),
    "large_string.arrow": lambda p: arrow(
        p, pa.table({"text": pa.array(LINES, pa.large_string())})
    ),
    "string_view.arrow": lambda p: arrow(p, pa.table({"text": pa.array(LINES, pa.string_view())})),
    "string_view.parquet": lambda p: parquet(
        p, pa.table({"text": pa.array(LINES, pa.string_view())})
    ),
    "dictionary_of_views.arrow": lambda p: arrow(p, pa.table({"text": NUMBERED}), rows=5),
    "dictionary.parquet": lambda p: parquet(
        p, pa.table({"text": pa.array(LINES).dictionary_encode()})
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_sentences(tmp_path: Path, name: str) -> None:
    path = FORMATS[name](tmp_path / name)
    column = "text" if path.suffix in (".parquet", ".arrow") else None
    assert texts(path, column=column) == LINES


def test_carriage_returns_are_whitespace(tmp_path: Path) -> None:
    assert [t.strip() for t in texts(write(tmp_path / "dos.txt", b"a b\r\nc\r\n"))] == ["a b", "c"]


@given(st.lists(st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"]))))
def test_lines_are_what_stands_between_newlines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    lines = ["first", *lines]
    write(path, "".join(f"{line}\n" for line in lines).encode())
    assert texts(path) == lines


def test_files_larger_than_a_block_are_read_whole(tmp_path: Path) -> None:
    chooser = random.Random(0)
    lines = ["é" * int(10 ** chooser.uniform(0, 5.4)) for _ in range(150)]
    path = write(tmp_path / "a.gz", gzip.compress("\n".join(lines).encode(), 1))
    found = list(read([str(path)]))
    assert [s.text for s in found] == lines
    assert [s.line for s in found] == list(range(1, len(lines) + 1))


def test_globs_are_sorted_and_files_keep_their_order(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text(f"{name}\n")
    assert texts(tmp_path / "*.txt") == ["a.txt", "b.txt"]
    assert texts(tmp_path / "c.md", tmp_path / "a.txt") == ["c.md", "a.txt"]
    (tmp_path / "x[1].txt").write_text("brackets\n")
    assert texts(tmp_path / "x[1].txt") == ["brackets"]


def test_a_folder_of_a_dataset_is_read_in_the_order_of_its_state(tmp_path: Path) -> None:
    for name, line in (("data-00001-of-2.arrow", "first"), ("data-00000-of-2.arrow", "second")):
        arrow(tmp_path / name, pa.table({"text": [line]}), stream=True)
    assert texts(tmp_path) == ["second", "first"]
    files = [{"filename": f"data-0000{i}-of-2.arrow"} for i in (1, 0)]
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": files}))
    assert texts(tmp_path) == ["first", "second"]


def test_a_folder_of_splits_asks_for_one(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        arrow(tmp_path / split / "data-00000-of-00001.arrow", TABLE, stream=True)
    complains(tmp_path, "name a split, test or train")
    (tmp_path / "none").mkdir()
    complains(tmp_path / "none", "without Arrow files")
    (tmp_path / "none" / "a.txt").write_text("a\n")
    complains(tmp_path / "none", "without Arrow files", "name its files, as", "none/*")


def test_a_file_missing_from_a_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}]}))
    with pytest.raises(UserError, match=r"a\.arrow: no such file, expected as state\.json names"):
        texts(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": []}))
    complains(tmp_path, "a dataset without rows, expected sentences")


def test_missing_files_name_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a\n")
    complains(tmp_path / "corpsu.txt", "no such file", "did you mean 'corpus.txt'?")
    complains(tmp_path / "corpus*.tx", "no file matches", "corpus.txt")
    complains(tmp_path / "nowhere" / "a.txt", "no such file")


def test_names_that_stand_for_no_file_say_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the name of a file, found an empty one"):
        find([""])
    (tmp_path / "link").symlink_to("nowhere.txt")
    complains(tmp_path / "link", "a link to nowhere.txt, which is no file")
    complains(tmp_path / ("x" * 300), "cannot be read: File name too long")
    (tmp_path / "folder1").mkdir()
    complains(tmp_path / "folder*", "expected files, only folders match", "folder1")


def test_a_file_is_given_once_but_beside_others(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x\n")
    (tmp_path / "link.txt").symlink_to("a.txt")
    a, side = str(tmp_path / "a.txt"), str(tmp_path / "b.txt")
    for other in (a, str(tmp_path / "." / "*.txt"), str(tmp_path / "link.txt")):
        with pytest.raises(UserError, match=r"given twice, expected each input file once"):
            Source(files=[a, other])
    (chunk, _) = Source(files=[a, a], target=[side, a]).chunks()
    assert chunk.targets == ["x"]


def test_files_of_other_kinds_are_not_taken_for_text(tmp_path: Path) -> None:
    complains(write(tmp_path / "a.csv", b"id,text\n1,a\n"), "csv files are not read")
    complains(write(tmp_path / "a.tsv.gz", gzip.compress(b"1\ta\n")), "tsv files are not read")
    complains(write(tmp_path / "a.bz2", bz2.compress(PLAIN)), "bzip2 file, expected plain text")
    complains(write(tmp_path / "a.xz", lzma.compress(PLAIN)), "xz file, expected plain text")
    complains(write(tmp_path / "a.zip", b"PK\x03\x04\0\0"), "zip file, expected plain text")


@pytest.mark.parametrize("name", ["a.txt", "a.parquet", "a.arrow", "stream.arrow"])
def test_names_of_files_need_not_be_utf8(tmp_path: Path, name: str) -> None:
    path = FORMATS[name](tmp_path / name).rename(tmp_path / f"\udcef-{name}")
    assert texts(path, column="text" if path.suffix != ".txt" else None) == LINES


def test_files_that_cannot_be_read_twice_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    complains(tmp_path / "pipe", "not a regular file")


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a.parquet", "a.arrow"])
def test_empty_files(tmp_path: Path, name: str) -> None:
    complains(write(tmp_path / name, b""), "empty file")


def test_files_without_rows(tmp_path: Path) -> None:
    complains(write(tmp_path / "a.gz", gzip.compress(b"")), "no rows")
    complains(parquet(tmp_path / "a.parquet", TABLE.slice(0, 0)), "no rows", column="text")


def test_binary_files_name_the_line(tmp_path: Path) -> None:
    complains(write(tmp_path / "a.txt", b"a\nb\nc\0d\n"), "binary file", "line 3")


@pytest.mark.parametrize("filler", [0, 3_000_000])
def test_text_that_is_not_utf8_names_line_and_byte(tmp_path: Path, filler: int) -> None:
    before = b"a line\n" * (filler // 7)
    path = write(tmp_path / "a.txt", before + b"fine\nna\xefve\n")
    line = filler // 7 + 2
    complains(path, "not UTF-8", f"line {line}, byte 3 is 0xef")


def test_utf16_is_recognised(tmp_path: Path) -> None:
    for encoding in ("utf-16-le", "utf-16-be"):
        path = write(tmp_path / "english.txt", "\ufeffabc".encode(encoding))
        complains(path, "binary file: line 1 holds a zero byte", "UTF-16?")
    path = write(tmp_path / "a.txt", "\ufeffабв".encode("utf-16-le"))
    complains(path, "not UTF-8: line 1, byte 1", "UTF-16?")


def test_long_lines_are_measured_in_bounded_memory(tmp_path: Path) -> None:
    long = b"x" * (10 << 20)
    path = write(tmp_path / "a.txt", b"short\nshort\n" + long + b"\nshort\n")
    del long
    tracemalloc.start()
    complains(path, "line 3 is 10,485,760 bytes long", "at most 1,000,000")
    assert tracemalloc.get_traced_memory()[1] < 6 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("ending", [b"", b"\n", b"\nshort\n"])
@pytest.mark.parametrize("size", [20, 21])
def test_the_limit_is_exact_and_in_bytes(tmp_path: Path, ending: bytes, size: int) -> None:
    path = write(tmp_path / "a.txt", b"short\n" + "é".encode() * (size // 2) + b"x" * (size % 2))
    with path.open("ab") as file:
        file.write(ending)
    source = Source(files=[str(path)], line_limit=20)
    if size <= 20:
        assert len(next(source.chunks()).texts) >= 1
    else:
        with pytest.raises(UserError, match="line 2 is 21 bytes long, expected at most 20"):
            list(source.chunks())


@pytest.mark.parametrize(("codec", "suffix"), [("gzip", "gz"), ("zstd", "zst")])
def test_damaged_compressed_files(tmp_path: Path, codec: str, suffix: str) -> None:
    content = "\n".join(str(random.Random(0).random()) for _ in range(20_000)).encode()
    packed = gzip.compress(content) if codec == "gzip" else zstandard.compress(content)
    complains(write(tmp_path / f"a.{suffix}", packed[:-20]), "truncated", codec)
    damaged = bytearray(packed)
    damaged[len(packed) // 2] ^= 0xFF
    with pytest.raises(UserError):  # damage may decompress to bytes that are not text
        texts(write(tmp_path / f"b.{suffix}", bytes(damaged)))
    complains(write(tmp_path / f"c.{suffix}", b"plain text"), f"not a {codec} file")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream"])
def test_damaged_tables(tmp_path: Path, kind: str) -> None:
    table = pa.table({"text": [str(random.Random(0).random()) for _ in range(5000)]})
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    if kind == "parquet":
        parquet(path, table)
    else:
        arrow(path, table, stream=kind == "stream", rows=1000)
    content = path.read_bytes()
    complains(write(path, content[: len(content) // 2]), "corrupt or truncated")
    complains(write(path, b"plain text"), "orrupt")


@pytest.mark.parametrize("kind", ["text", "dictionary"])
def test_a_stream_cut_between_two_batches_is_not_whole(tmp_path: Path, kind: str) -> None:
    path, schema = tmp_path / "a.arrow", None
    ends = []
    with path.open("wb") as file:
        for _ in range(3):
            column = pa.array(["a", "b", f"c{len(ends)}"])
            batch = pa.record_batch(
                {"t": column.dictionary_encode() if kind == "dictionary" else column}
            )
            if schema is None:
                schema = batch.schema
                writer = pa.ipc.new_stream(file, schema)
            writer.write_batch(batch)
            ends.append(file.tell())
        writer.close()
    content = path.read_bytes()
    assert len(texts(path)) == 9 and len(content) == ends[-1] + 8
    for end in ends:
        said = ("truncated Arrow stream", "the marker of its end", f"{end:,}")
        complains(write(path, content[:end]), *said)
    write(path, content[: ends[-1]] + b"\0\0\0\0")  # as it was before Arrow 0.15
    assert len(texts(path)) == 9
    for cut in range(ends[1] + 1, len(content)):
        with pytest.raises(UserError):
            texts(write(path, content[:cut]))


@pytest.mark.parametrize("stream", [False, True])
def test_damage_that_points_out_of_the_file_is_told(tmp_path: Path, stream: bool) -> None:
    path = arrow(tmp_path / "a.arrow", pa.table({"t": ["a", "bc", "d"]}), stream, rows=3)
    content, ends = path.read_bytes(), np.array([0, 1, 3, 4], dtype=np.int32).tobytes()
    assert content.count(ends) == 1
    write(path, content.replace(ends, ends[:-4] + (1 << 30).to_bytes(4, "little")))
    # In a process of its own: to follow the damage is to be killed.
    code = f"from lvtrain.text.sources import read; print(*read([{str(path)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"UserError: {path}: corrupt or truncated Arrow" in done.stderr


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl"])
def test_unknown_columns_list_the_known_ones(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps({"text": "a", "label": 1}))
    else:
        (parquet if kind == "parquet" else arrow)(path, TABLE)
    complains(path, "unknown column 'txt'", "text, label", "did you mean 'text'?", column="txt")


def test_plain_text_has_no_columns(tmp_path: Path) -> None:
    complains(write(tmp_path / "a.txt", b"a\n"), "unknown column 'text'", column="text")


def test_a_column_is_guessed_only_where_there_is_no_doubt(tmp_path: Path) -> None:
    assert texts(parquet(tmp_path / "a.parquet", TABLE.select(["label", "text"]))) == LINES
    complains(parquet(tmp_path / "b.parquet", TABLE), "expected one column", "text, other")
    complains(parquet(tmp_path / "c.parquet", TABLE), "column 'label' holds int64", column="label")


def test_nested_columns_and_nulls(tmp_path: Path) -> None:
    pairs = [{"de": "ein Hund", "en": "a dog"}, {"de": None, "en": "a cat"}]
    table = pa.table({"translation": pairs})
    for path in (parquet(tmp_path / "a.parquet", table), arrow(tmp_path / "a.arrow", table)):
        assert texts(path, column="translation.de") == ["ein Hund", ""]
        source = Source(files=[str(path)], column="translation.en", target_column="translation.de")
        (chunk,) = source.chunks()
        assert (chunk.texts, chunk.targets) == (["a dog", "a cat"], ["ein Hund", ""])
        known = "translation.de, translation.en"
        complains(path, "unknown column 'translation.fr'", known, column="translation.fr")
        complains(path, "expected one column of text or the name of one", known)


def test_strings_of_a_table_that_are_not_utf8_name_the_row(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe"]).view(pa.string())
    views = pa.Array.from_buffers(pa.string_view(), 2, raw.cast(pa.binary_view()).buffers())
    for one in (raw, views):
        complains(arrow(tmp_path / "a.arrow", pa.table({"t": one})), "not UTF-8: row 2, byte 1")


@pytest.mark.parametrize(
    "column",
    [
        pa.array([b"a"], pa.binary_view()),
        pa.array([["a"]]),
        pa.array([1]),
        pa.nulls(1),
        pa.RunEndEncodedArray.from_arrays([1], ["a"]),
    ],
    ids=lambda column: str(column.type),
)
def test_a_column_that_is_no_text_is_of_the_wrong_type(tmp_path: Path, column: pa.Array) -> None:
    path = arrow(tmp_path / "a.arrow", pa.table({"t": column}))
    complains(path, f"column 't' holds {column.type}, expected text", column="t")


def test_zero_bytes_in_strings_of_a_table_name_the_row(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", pa.table({"t": ["a", "b", "c\0d"]}))
    complains(path, "column 't': row 3 holds a zero byte, expected text")


def test_long_strings_of_a_table_name_the_row(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", pa.table({"t": ["a", "b", "c" * 2_000_000]}))
    complains(path, "row 3 is 2,000,000 bytes long")


def test_lines_that_are_not_json_are_numbered(tmp_path: Path) -> None:
    complains(write(tmp_path / "a.jsonl", b'{"t": "a"}\n{"t": \n'), "line 2", "JSON object")
    complains(write(tmp_path / "b.jsonl", b"[1]\n"), "line 1", "JSON object")


def test_labels_come_from_a_column_with_their_names(tmp_path: Path) -> None:
    features = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}
    for table, expected in ((TABLE, "01011"), (TABLE.replace_schema_metadata(meta), None)):
        path = arrow(tmp_path / "a.arrow", table, stream=True)
        found = [s.label for s in read([str(path)], column="text", label_column="label")]
        assert found == (list(expected) if expected else ["bad", "good", "bad", "good", "good"])


def test_numbers_of_classes_without_a_name_are_placed(tmp_path: Path) -> None:
    features = {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}
    meta = {"huggingface": json.dumps({"info": {"features": features}})}

    def labels(*numbers: int | None) -> list[str | None]:
        table = pa.table({"text": ["a"] * len(numbers), "label": pa.array(numbers, pa.int64())})
        path = arrow(tmp_path / "a.arrow", table.replace_schema_metadata(meta))
        return [s.label for s in read([str(path)], label_column="label")]

    assert labels(1, 0) == ["good", "bad"]
    assert labels(1, -1, None) == ["good", "", ""]  # which prepare says are no labels
    with pytest.raises(UserError, match="column 'label': row 2 holds class 2, expected 0 to 1"):
        labels(1, 2)


def test_columns_of_one_name_are_told(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"]], names=["text", "text"])
    for path in (parquet(tmp_path / "a.parquet", table), arrow(tmp_path / "a.arrow", table)):
        complains(path, "expected one column 'text', found 2 of that name", column="text")


def test_bytes_are_no_labels(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", pa.table({"t": ["a"], "l": [b"x"]}))
    with pytest.raises(UserError, match="column 'l' holds binary, expected text"):
        list(read([str(path)], label_column="l"))


def test_labels_come_from_lines_or_from_names_of_files(tmp_path: Path) -> None:
    for name, content in (("x.0", "a\nb\n"), ("x.1", "c\n"), ("y", "p\nq\nr\n")):
        (tmp_path / name).write_text(content)
    files = [str(tmp_path / "x.*")]
    by_line = Source(files=files, labels=[str(tmp_path / "y")])
    by_file = Source(files=files, label_by_file=True)
    assert [c.labels for c in by_line.chunks()] == [["p", "q"], ["r"]]
    assert [c.labels for c in by_file.chunks()] == [["0", "0"], ["1"]]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["train.0.gz", "train.1.gz"], ["0", "1"]),
        (["neg/train.txt", "pos/train.txt"], ["neg", "pos"]),
        (["data/only.txt"], ["data.only.txt"]),
        (["a-b", "b-a"], ["a-b", "b-a"]),
        (["run-0/train.0", "run-0/train.1"], ["0", "1"]),
        (["fr/train/a.txt", "en/train/b.txt"], ["fr.a", "en.b"]),
        (["train.txt", "train.more.txt"], ["train.txt", "more"]),
        (["\udcef.txt", "b.txt"], ["\\udcef", "b"]),
    ],
)
def test_files_are_named_by_what_tells_them_apart(paths: list[str], names: list[str]) -> None:
    assert list(label_names([Path(p) for p in paths]).values()) == names


@pytest.mark.parametrize("shorter", ["main", "side"])
@pytest.mark.parametrize("kind", ["target", "labels"])
def test_parallel_files_of_unequal_length_give_both_counts(
    tmp_path: Path, shorter: str, kind: str
) -> None:
    main = tmp_path / "a.en"
    main.write_text("line\n" * (20_000 if shorter == "main" else 20_003))
    side = tmp_path / "b.de"
    side.write_text("line\n" * (20_000 if shorter == "side" else 20_003))
    first, second = (20_000, 20_003) if shorter == "main" else (20_003, 20_000)
    ended = main if shorter == "main" else side
    source = Source(files=[str(main)], **{kind: [str(side)]})  # type: ignore[arg-type]
    with pytest.raises(UserError) as error:
        list(source.chunks())
    assert f"{main} has {first:,} lines, {side} has {second:,}" in str(error.value)
    assert f"{ended} ended first" in str(error.value)


def test_parallel_files_need_not_be_cut_alike(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1\n2\n3\n")
    (tmp_path / "b1").write_text("x\n")
    (tmp_path / "b2").write_text("y\nz\n")
    source = Source(files=[str(tmp_path / "a")], target=[str(tmp_path / "b*")])
    (chunk,) = source.chunks()
    assert chunk.targets == ["x", "y", "z"]


def test_progress_ends_at_the_size_of_the_files(tmp_path: Path) -> None:
    for name, make in FORMATS.items():
        make(tmp_path / name)
    paths = [str(one.path) for one in find([str(tmp_path / "*.txt*")])]
    source = Source(files=paths)
    read_so_far = [chunk.read for chunk in source.chunks()]
    assert read_so_far == sorted(read_so_far)
    assert read_so_far[-1] == source.bytes
