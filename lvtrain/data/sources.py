"""Sentences out of files, in bounded memory.

Plain text (a sentence a line), the same in gzip or Zstandard, JSON lines, Parquet, Arrow files and
streams, and the folders that Hugging Face `save_to_disk` writes; one or many, by name or glob. A
`Source` reads the sentences with whatever goes with them: labels and a parallel side, each from a
column of the same files or, line by line, from files of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa

from lvtrain.data.files import find, label_names
from lvtrain.data.tables import Row, open_table, table_format
from lvtrain.errors import UserError

BLOCK_BYTES: Final = 1 << 20
LINE_LIMIT: Final = 1_000_000
CHUNK_ROWS: Final = 8192

COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES: Final = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}


class Sentence(NamedTuple):
    """A sentence and where it stands."""

    text: str
    label: str | None
    file: str
    line: int


class Chunk(NamedTuple):
    """Consecutive sentences of one file."""

    file: str
    line: int
    """Number of the first sentence in its file, from 1."""
    texts: list[str]
    labels: list[str] | None
    targets: list[str] | None
    read: int
    """Bytes of the input that have been read so far, compressed as they lie."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files of sentences, with what goes with each sentence.

    Raises UserError, here or while reading, for anything that is wrong with the files.
    """

    files: Sequence[str]
    column: str | None = None
    label_column: str | None = None
    labels: Sequence[str] = ()
    """Files with the label of each sentence on a line."""
    label_by_file: bool = False
    """Each file is a label of its own, named by what tells its name from the others'."""
    target: Sequence[str] = ()
    """Files of the parallel side."""
    target_column: str | None = None
    """Its column, in `target` or, without them, in `files`."""
    line_limit: int = LINE_LIMIT
    paths: tuple[Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", find(self.files))

    @property
    def bytes(self) -> int:
        """Size of the files of sentences together."""
        return sum(path.stat().st_size for path in self.paths)

    def chunks(self) -> Iterator[Chunk]:
        """Read everything once, in order."""
        columns = [self.column]
        inline_target = self.target_column is not None and not self.target
        if self.label_column is not None:
            columns.append(self.label_column)
        if inline_target:
            columns.append(self.target_column)
        names = label_names(self.paths) if self.label_by_file else {}
        rows = _read_columns(self.paths, columns, self.line_limit)
        labels = _Side(self, "labels", find(self.labels), None) if self.labels else None
        targets = (
            _Side(self, "parallel", find(self.target), self.target_column) if self.target else None
        )
        for part in rows:
            count = len(part.columns[0])
            chunk_labels: list[str] | None = None
            chunk_targets = part.columns[-1] if inline_target else None
            if self.label_column is not None:
                chunk_labels = part.columns[1]
            elif self.label_by_file:
                chunk_labels = [names[part.path]] * count
            elif labels is not None:
                chunk_labels = [label.strip() for label in labels.take(count, rows)]
            if targets is not None:
                chunk_targets = targets.take(count, rows)
            yield Chunk(
                str(part.path),
                part.line,
                part.columns[0],
                chunk_labels,
                chunk_targets,
                part.read,
            )
        for side in (labels, targets):
            if side is not None:
                side.finish()


def read(
    patterns: Sequence[str], *, column: str | None = None, label_column: str | None = None
) -> Iterator[Sentence]:
    """Read sentences one by one: `Source.chunks` for those who do not count the time."""
    source = Source(files=patterns, column=column, label_column=label_column)
    for chunk in source.chunks():
        for i, text in enumerate(chunk.texts):
            label = chunk.labels[i] if chunk.labels else None
            yield Sentence(text, label, chunk.file, chunk.line + i)


class _Part(NamedTuple):
    """Consecutive rows of one file: a list for each column asked for."""

    path: Path
    line: int
    columns: list[list[str]]
    read: int


def _read_columns(
    paths: Sequence[Path], columns: Sequence[str | None], line_limit: int
) -> Iterator[_Part]:
    """Read columns of files; None is the text itself or the only column that holds text."""
    before = 0
    for path in paths:
        line = 1
        for values, read in _read_file(path, columns, line_limit):
            yield _Part(path, line, values, before + read)
            line += len(values[0])
        if line == 1:
            raise UserError(f"{path}: no rows, expected sentences")
        before += path.stat().st_size


def _read_file(
    path: Path, columns: Sequence[str | None], line_limit: int
) -> Iterator[tuple[list[list[str]], int]]:
    try:
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    kind = table_format(path, head)
    if kind is not None:
        yield from open_table(path, kind, columns, line_limit)
        return
    codec = next((codec for magic, codec in COMPRESSED.items() if head.startswith(magic)), None)
    expected = SUFFIXES.get(path.suffix)
    if expected != codec and expected is not None:
        raise UserError(f"{path}: not a {expected} file, as its name says")
    lines = _read_lines(path, codec, line_limit)
    stem = path.with_suffix("") if expected else path
    if stem.suffix in (".jsonl", ".ndjson"):
        yield from _read_json(path, lines, columns)
        return
    named = next((name for name in columns if name is not None), None)
    if named is not None:
        raise UserError(f"{path}: unknown column '{named}': plain text has no columns")
    for _, texts, read in lines:
        yield [texts], read


def _read_json(
    path: Path, lines: Iterable[tuple[int, list[str], int]], columns: Sequence[str | None]
) -> Iterator[tuple[list[list[str]], int]]:
    """Take fields out of the JSON object on each line."""
    for first, texts, read in lines:
        values: list[list[str]] = [[] for _ in columns]
        for number, text in enumerate(texts, first):
            try:
                row = Row(json.loads(text))
            except (json.JSONDecodeError, TypeError, RecursionError):
                raise UserError(f"{path}: line {number}: expected a JSON object") from None
            for name, into in zip(columns, values, strict=True):
                into.append(row.get(name, f"{path}: line {number}"))
        yield values, read


def _read_lines(path: Path, codec: str | None, limit: int) -> Iterator[tuple[int, list[str], int]]:
    """Read lines of UTF-8: the number of the first, the lines, the bytes of the file read."""
    line = 1
    rest: list[bytes] = []
    rest_bytes = 0
    for block, read in _blocks(path, codec):
        zero = block.find(b"\0")
        end = block.rfind(b"\n") + 1
        if zero >= 0:
            found = line + block.count(b"\n", 0, zero)
            raise UserError(f"{path}: binary file: line {found} holds a zero byte, expected text")
        if not end:
            rest_bytes += len(block)
            if rest_bytes <= limit:
                rest.append(block)  # beyond the limit, only its length is of interest
            continue
        first_end = block.find(b"\n")
        if rest_bytes + first_end > limit:
            raise _too_long(path, line, rest_bytes + first_end, limit)
        texts = _decode(path, line, b"".join([*rest, block[: end - 1]]), limit)
        yield line, texts, read
        line += len(texts)
        rest, rest_bytes = [block[end:]], len(block) - end
    if rest_bytes > limit:
        raise _too_long(path, line, rest_bytes, limit)
    if rest_bytes:
        yield line, _decode(path, line, b"".join(rest), limit), path.stat().st_size


def _blocks(path: Path, codec: str | None) -> Iterator[tuple[bytes, int]]:
    """Read a file in blocks, decompressed, with the bytes of it read so far."""
    try:
        with pa.OSFile(str(path)) as file:
            stream = pa.CompressedInputStream(file, codec) if codec else file
            start = True
            while block := stream.read(BLOCK_BYTES):
                if start and block.startswith(b"\xef\xbb\xbf"):
                    block = block[3:]
                start = False
                yield block, file.tell()
    except OSError as error:
        reason = " ".join(str(error).split())
        broken = "truncated" if "runcated" in reason else "corrupt"
        kind = f"{broken} {codec} file" if codec else "cannot be read"
        raise UserError(f"{path}: {kind}: {reason}") from None


def _decode(path: Path, line: int, block: bytes, limit: int) -> list[str]:
    """Decode whole lines at once; look for the line only where something is wrong."""
    try:
        texts = block.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        before = block[: error.start]
        number = line + before.count(b"\n")
        column = error.start - (before.rfind(b"\n") + 1) + 1
        utf16 = line == number == column == 1 and block[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise UserError(
            f"{path}: not UTF-8: line {number}, byte {column} is 0x{block[error.start]:02x}"
            + (" (UTF-16?)" if utf16 else "")
        ) from None
    if 4 * max(map(len, texts)) > limit:  # a character has at most four bytes
        for number, text in enumerate(texts, line):
            if (size := len(text.encode())) > limit:
                raise _too_long(path, number, size, limit)
    return texts


def _too_long(path: Path, line: int, size: int, limit: int) -> UserError:
    return UserError(
        f"{path}: line {line} is {size:,} bytes long, expected at most {limit:,}: "
        "is there a sentence a line?"
    )


class _Side:
    """Files read in step with the sentences: as many lines, one for each."""

    def __init__(self, source: Source, kind: str, paths: Sequence[Path], column: str | None):
        self._kind = kind
        self._names = _join(source.files), _join(map(str, paths))
        self._rows = iter(_flat(_read_columns(paths, [column], source.line_limit)))
        self._taken = 0

    def take(self, count: int, main: Iterator[_Part]) -> list[str]:
        """Return the next lines; if they run out, count what `main` has left and raise."""
        lines = list(islice(self._rows, count))
        if len(lines) < count:
            left = sum(len(part.columns[0]) for part in main)
            raise self._unequal(self._taken + count + left, self._taken + len(lines))
        self._taken += count
        return lines

    def finish(self) -> None:
        """Raise if there are lines left."""
        left = sum(1 for _ in self._rows)
        if left:
            raise self._unequal(self._taken, self._taken + left)

    def _unequal(self, main: int, side: int) -> UserError:
        ended = self._names[0] if main < side else self._names[1]
        return UserError(
            f"{self._kind} files of unequal length: {self._names[0]} has {main:,} lines, "
            f"{self._names[1]} has {side:,} ({ended} ended first)"
        )


def _flat(parts: Iterable[_Part]) -> Iterator[str]:
    for part in parts:
        yield from part.columns[0]


def _join(names: Iterable[str]) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
