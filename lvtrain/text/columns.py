"""Columns of text out of files of any format: each file is told by its first bytes and its name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pyarrow import ArrowException

from lvtrain.data.location import Uri, open_file, unread
from lvtrain.errors import UserError
from lvtrain.text.files import Input
from lvtrain.text.json_lines import read_fields, text_column
from lvtrain.text.lines import read_lines
from lvtrain.text.tables import Format, groups, open_table, table_format

COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES: Final = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
UNREAD: Final = {"bzip2": rb"BZh\d1AY&", "xz": rb"\xfd7zXZ\0", "zip": rb"PK\x03\x04"}


class Block(NamedTuple):
    """Consecutive rows of one file: a list for each column asked for."""

    path: Path | Uri
    line: int
    columns: list[list[str]]
    read: int


def read_columns(
    inputs: Sequence[Input],
    columns: Sequence[str | None],
    line_limit: int,
    piece: tuple[int, int] = (0, 1),
) -> Iterator[Block]:
    """Read columns of files; None is the text itself or the only column that holds text."""
    before = 0
    for path, size, _ in inputs:
        line = 1
        if isinstance(path, Path) and (found := _size(path)) != size:
            raise UserError(
                f"{path}: expected {size:,} bytes as when it was found, found {found:,}: "
                "is it written to, or another file on another node?"
            )
        for values, read in _read_file(path, columns, line_limit, piece):
            yield Block(path, line, values, before + read)
            line += len(values[0])
        if line == 1 and piece == (0, 1):
            raise UserError(f"{path}: no rows, expected sentences")
        before += size


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise unread(path, error) from None


def _read_file(
    path: Path | Uri, columns: Sequence[str | None], line_limit: int, piece: tuple[int, int]
) -> Iterator[tuple[list[list[str]], int]]:
    kind, codec = _kind(path)
    if kind == "text" or kind == "json":
        lines = read_lines(path, codec, line_limit, *piece)
        if kind == "json":
            yield from read_fields(path, lines, columns)
            return
        named = next((name for name in columns if name is not None), None)
        if named is not None:
            raise UserError(f"{path}: unknown column '{named}': plain text has no columns")
        for _, texts, read in lines:
            yield [texts], read
    else:
        yield from open_table(path, kind, columns, line_limit, *piece)


def _kind(path: Path | Uri) -> tuple[Format | Literal["text", "json"], str | None]:
    """Tell what a file holds, and how it is compressed, by its first bytes and its name."""
    try:
        with path.open("rb") if isinstance(path, Path) else open_file(path) as file:
            head = file.read(8)
    except (OSError, ArrowException) as error:
        raise unread(path, error) from None
    kind = table_format(path, head)
    if kind is not None:
        return kind, None
    codec = next((codec for magic, codec in COMPRESSED.items() if head.startswith(magic)), None)
    expected = SUFFIXES.get(path.suffix)
    if expected != codec and expected is not None:
        raise UserError(
            f"{path}: not a {expected} file, as its name says: it begins with 0x{head[:4].hex()}"
        )
    for other, magic in UNREAD.items():
        if re.match(magic, head):
            raise UserError(f"{path}: {other} file, expected plain text, gzip or Zstandard")
    suffix = (path.with_suffix("") if expected else path).suffix
    if suffix in (".csv", ".tsv"):
        raise UserError(
            f"{path}: {suffix[1:]} files are not read, expected a sentence a line (.txt), "
            "JSON lines, Parquet or Arrow"
        )
    return "json" if suffix in (".jsonl", ".ndjson", ".json") else "text", codec


def most_pieces(path: Path | Uri, size: int) -> int:
    """Return into how many pieces a file can be cut."""
    kind, codec = _kind(path)
    if kind == "text" or kind == "json":
        return 1 if codec else size
    return groups(path, kind)


def text_column_of(path: Path | Uri, line_limit: int) -> str | None:
    """Return the only column of text of the first of JSON lines; None for another file, whose
    columns are the same wherever it is read."""
    kind, codec = _kind(path)
    if kind != "json":
        return None
    _, texts, _ = next(read_lines(path, codec, line_limit))
    return text_column(texts[0], f"{path}: line 1")
