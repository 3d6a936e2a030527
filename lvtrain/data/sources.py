"""Sentences out of files, in bounded memory.

Plain text (a sentence a line), the same in gzip or Zstandard, JSON lines, Parquet, Arrow files and
streams, and the folders that Hugging Face `save_to_disk` writes; one or many, by name or glob. A
`Source` reads the sentences with whatever goes with them: labels and a parallel side, each from a
column of the same files or, line by line, from files of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pyarrow import ArrowException

from lvtrain.data.files import Input, find, label_names
from lvtrain.data.json_lines import check_unicode, read_fields, text_column
from lvtrain.data.lines import LINE_LIMIT, read_lines
from lvtrain.data.location import Uri, open_file, unread
from lvtrain.data.tables import Format, groups, open_table, table_format
from lvtrain.errors import UserError

CHUNK_ROWS: Final = 8192
PART_BYTES: Final = 32 << 20
"""Bytes of files that are read on their own, by one of many processes."""

COMPRESSED: Final = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
SUFFIXES: Final = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}
UNREAD: Final = {"bzip2": rb"BZh\d1AY&", "xz": rb"\xfd7zXZ\0", "zip": rb"PK\x03\x04"}


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


class Part(NamedTuple):
    """What of a source is read on its own: some of its files, or a piece of one of them."""

    first: int
    stop: int
    """The files from `first` to before `stop`, in the source's order."""
    piece: int
    pieces: int
    """Of one file, its piece `piece` of so many."""
    bytes: int
    column: str | None = None
    """The only column of text of a file's first line, which its other pieces do not see."""

    @property
    def whole(self) -> Part:
        """The same with the file that it is a piece of."""
        return self._replace(piece=0, pieces=1)


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
    inputs: tuple[Input, ...] = field(init=False)
    label_inputs: tuple[Input, ...] = field(init=False)
    target_inputs: tuple[Input, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", find(self.files))
        object.__setattr__(self, "label_inputs", find(self.labels))
        object.__setattr__(self, "target_inputs", find(self.target))
        if not self.labels and not self.target:
            # Beside other files a repeated one can be meant: another translation of each line.
            _check_once(self.inputs)

    @property
    def name(self) -> str:
        """What messages call the files."""
        return _join(self.files)

    @property
    def bytes(self) -> int:
        """Size of the files of sentences together."""
        return sum(one.bytes for one in self.inputs)

    def parts(self) -> list[Part]:
        """Cut the source into parts of about `PART_BYTES`, in order.

        Files that stand beside others line by line are one part: where a line of one lies in
        another, only reading both tells.
        """
        if self.labels or self.target:
            return [Part(0, len(self.inputs), 0, 1, self.bytes)]
        parts: list[Part] = []
        first, held = 0, 0
        for i, (path, size, _) in enumerate(self.inputs):
            if held and held + size > PART_BYTES:
                parts.append(Part(first, i, 0, 1, held))
                first, held = i, 0
            held += size
            if held > PART_BYTES:
                pieces = min(-(-held // PART_BYTES), _most_pieces(path, size))
                bounds = [held * k // pieces for k in range(pieces + 1)]
                column = self.column
                if pieces > 1 and column is None:
                    column = _text_column(path, self.line_limit)
                parts += [
                    Part(i, i + 1, k, pieces, bounds[k + 1] - bounds[k], column)
                    for k in range(pieces)
                ]
                first, held = i + 1, 0
        if held:
            parts.append(Part(first, len(self.inputs), 0, 1, held))
        return parts

    def chunks(self, part: Part | None = None) -> Iterator[Chunk]:
        """Read everything, or a part, once, in order. Lines and bytes count from its start."""
        columns = [self.column]
        inline_target = self.target_column is not None and not self.target
        if self.label_column is not None:
            columns.append(self.label_column)
        if inline_target:
            columns.append(self.target_column)
        names = label_names([one.path for one in self.inputs]) if self.label_by_file else {}
        inputs, piece = self.inputs, (0, 1)
        if part is not None:
            inputs, piece = inputs[part.first : part.stop], (part.piece, part.pieces)
            columns[0] = part.column or self.column
        rows = _read_columns(inputs, columns, self.line_limit, piece)
        labels = targets = None
        if self.labels:
            labels = _Side(self, "labels", self.label_inputs, None)
        if self.target:
            targets = _Side(self, "parallel", self.target_inputs, self.target_column)
        for block in rows:
            count = len(block.columns[0])
            chunk_labels: list[str] | None = None
            chunk_targets = block.columns[-1] if inline_target else None
            if self.label_column is not None:
                chunk_labels = block.columns[1]
            elif self.label_by_file:
                chunk_labels = [names[block.path]] * count
            elif labels is not None:
                chunk_labels = [label.strip() for label in labels.take(count, rows)]
            if targets is not None:
                chunk_targets = targets.take(count, rows)
            yield Chunk(
                str(block.path),
                block.line,
                block.columns[0],
                chunk_labels,
                chunk_targets,
                block.read,
            )
        for side in (labels, targets):
            if side is not None:
                side.finish()


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Sentences in memory, with their labels and parallel sides."""

    texts: Sequence[str]
    labels: Sequence[str] | None = None
    targets: Sequence[str] | None = None

    @property
    def name(self) -> str:
        """What messages call them."""
        return "sentences"

    @property
    def bytes(self) -> int:
        """A measure of progress: the number of sentences."""
        return len(self.texts)

    def parts(self) -> list[Part]:
        """Return everything as one part: what is in memory is not sent to other processes."""
        return [Part(0, 1, 0, 1, self.bytes)]

    def chunks(self, part: Part | None = None) -> Iterator[Chunk]:
        """Read everything once, in order."""
        for start in range(0, len(self.texts), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            columns = [
                None if values is None else list(values[rows])
                for values in (self.texts, self.labels, self.targets)
            ]
            for values in columns:
                for number, text in enumerate(values or (), start + 1):
                    check_unicode(text, f"{self.name}: line {number}")
            texts, labels, targets = columns
            read = min(start + CHUNK_ROWS, len(self.texts))
            yield Chunk(self.name, start + 1, texts or [], labels, targets, read)


def read(
    patterns: Sequence[str], *, column: str | None = None, label_column: str | None = None
) -> Iterator[Sentence]:
    """Read sentences one by one: `Source.chunks` for those who do not count the time."""
    source = Source(files=patterns, column=column, label_column=label_column)
    for chunk in source.chunks():
        for i, text in enumerate(chunk.texts):
            label = chunk.labels[i] if chunk.labels else None
            yield Sentence(text, label, chunk.file, chunk.line + i)


class _Block(NamedTuple):
    """Consecutive rows of one file: a list for each column asked for."""

    path: Path | Uri
    line: int
    columns: list[list[str]]
    read: int


def _read_columns(
    inputs: Sequence[Input],
    columns: Sequence[str | None],
    line_limit: int,
    piece: tuple[int, int] = (0, 1),
) -> Iterator[_Block]:
    """Read columns of files; None is the text itself or the only column that holds text."""
    before = 0
    for path, size, _ in inputs:
        line = 1
        for values, read in _read_file(path, columns, line_limit, piece):
            yield _Block(path, line, values, before + read)
            line += len(values[0])
        if line == 1 and piece == (0, 1):
            raise UserError(f"{path}: no rows, expected sentences")
        before += size


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


def _most_pieces(path: Path | Uri, size: int) -> int:
    """Return into how many pieces a file can be cut."""
    kind, codec = _kind(path)
    if kind == "text" or kind == "json":
        return 1 if codec else size
    return groups(path, kind)


def _text_column(path: Path | Uri, line_limit: int) -> str | None:
    """Return the only column of text of the first of JSON lines; None for another file, whose
    columns are the same wherever it is read."""
    kind, codec = _kind(path)
    if kind != "json":
        return None
    _, texts, _ = next(read_lines(path, codec, line_limit))
    return text_column(texts[0], f"{path}: line 1")


def _check_once(inputs: Sequence[Input]) -> None:
    """Raise UserError for a file that was named, or matched, more than once."""
    seen: set[str] = set()
    for path, _, _ in inputs:
        real = os.path.realpath(path) if isinstance(path, Path) else str(path)
        if real in seen:
            raise UserError(f"{path}: given twice, expected each input file once")
        seen.add(real)


class _Side:
    """Files read in step with the sentences: as many lines, one for each."""

    def __init__(self, source: Source, kind: str, inputs: Sequence[Input], column: str | None):
        self._kind = kind
        self._names = source.name, _join(str(one.path) for one in inputs)
        self._rows = iter(_flat(_read_columns(inputs, [column], source.line_limit)))
        self._taken = 0

    def take(self, count: int, main: Iterator[_Block]) -> list[str]:
        """Return the next lines; if they run out, count what `main` has left and raise."""
        lines = list(islice(self._rows, count))
        if len(lines) < count:
            left = sum(len(block.columns[0]) for block in main)
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


def _flat(blocks: Iterable[_Block]) -> Iterator[str]:
    for block in blocks:
        yield from block.columns[0]


def _join(names: Iterable[str]) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
