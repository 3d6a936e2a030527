"""Sentences out of files, in bounded memory.

Plain text (a sentence a line), the same in gzip or Zstandard, JSON lines, Parquet, Arrow files and
streams, and the folders that Hugging Face `save_to_disk` writes; one or many, by name or glob. A
`Source` reads the sentences with whatever goes with them: labels and a parallel side, each from a
column of the same files or, line by line, from files of their own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from lvtrain.errors import UserError
from lvtrain.text.columns import most_pieces, read_columns, text_column_of
from lvtrain.text.files import Input, check_unchanged, find, label_names
from lvtrain.text.json_lines import check_unicode
from lvtrain.text.lines import LINE_LIMIT
from lvtrain.text.side import Run, Side

CHUNK_ROWS: Final = 8192
PART_BYTES: Final = 32 << 20
"""Bytes of files that are read on their own, by one of many processes."""


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
    label_runs: Sequence[Run] = ()
    """Where the labels stand, if in files of their own."""

    def place_of_label(self, row: int) -> str:
        """Say where the label of a sentence stands, as messages do."""
        file, line, first = self.file, self.line, 0
        for run in self.label_runs:
            if run.first <= row:
                first, file, line = run
        return f"{file}: line {line + row - first}"


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
                pieces = min(-(-held // PART_BYTES), most_pieces(path, size))
                bounds = [held * k // pieces for k in range(pieces + 1)]
                column = self.column
                if pieces > 1 and column is None:
                    column = text_column_of(path, self.line_limit)
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
        rows = read_columns(inputs, columns, self.line_limit, piece)
        labels = targets = None
        if self.labels:
            labels = self._side("labels", self.label_inputs, None)
        if self.target:
            targets = self._side("parallel", self.target_inputs, self.target_column)
        for block in rows:
            count = len(block.columns[0])
            chunk_labels: list[str] | None = None
            label_runs: list[Run] = []
            chunk_targets = block.columns[-1] if inline_target else None
            if self.label_column is not None:
                chunk_labels = block.columns[1]
            elif self.label_by_file:
                chunk_labels = [names[block.path]] * count
            elif labels is not None:
                found, label_runs = labels.take(count, rows)
                chunk_labels = [label.strip() for label in found]
            if targets is not None:
                chunk_targets, _ = targets.take(count, rows)
            yield Chunk(
                str(block.path),
                block.line,
                block.columns[0],
                chunk_labels,
                chunk_targets,
                block.read,
                label_runs,
            )
        for side in (labels, targets):
            if side is not None:
                side.finish()

    def check_unchanged(self) -> None:
        """Raise UserError for a file that is no longer as it was found."""
        check_unchanged((*self.inputs, *self.label_inputs, *self.target_inputs))

    def _side(self, kind: str, inputs: Sequence[Input], column: str | None) -> Side:
        names = self.name, _join(str(one.path) for one in inputs)
        return Side(kind, names, read_columns(inputs, [column], self.line_limit))


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

    def check_unchanged(self) -> None:
        """What is in memory stays as it is."""


def read(
    patterns: Sequence[str], *, column: str | None = None, label_column: str | None = None
) -> Iterator[Sentence]:
    """Read sentences one by one: `Source.chunks` for those who do not count the time."""
    source = Source(files=patterns, column=column, label_column=label_column)
    for chunk in source.chunks():
        for i, text in enumerate(chunk.texts):
            label = chunk.labels[i] if chunk.labels else None
            yield Sentence(text, label, chunk.file, chunk.line + i)


def _check_once(inputs: Sequence[Input]) -> None:
    """Raise UserError for a file that was named, or matched, more than once."""
    seen: set[str] = set()
    for path, _, _ in inputs:
        real = os.path.realpath(path) if isinstance(path, Path) else str(path)
        if real in seen:
            raise UserError(f"{path}: given twice, expected each input file once")
        seen.add(real)


def _join(names: Iterable[str]) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"
