"""The passes of `prepare` over its sentences, part by part: one counts, one encodes.

A pass is a function of a `Task`, which any process can carry out: it reads one part of a source and
leaves its result in the folder of the work, complete or not at all. What is there already is not
done again, so that work goes on where it was killed; and the results are read in the order of the
parts, so that how many processes there were makes no difference.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from lvtrain.data.folder import write_whole
from lvtrain.data.info import TARGET_TOKENIZER, TOKENIZER
from lvtrain.data.layout import Layout
from lvtrain.data.spill import Slice, Spill
from lvtrain.data.tokenizer import UNK, Tokenizer
from lvtrain.errors import Passing, UserError
from lvtrain.prepare.counts import WordCounts
from lvtrain.prepare.labels import check_labels, check_number
from lvtrain.prepare.sorter import Sorter, SplitRows
from lvtrain.prepare.tally import Tally
from lvtrain.prepare.workers import Advance
from lvtrain.text.sources import Chunk, Part


class Readable(Protocol):
    """What can be read more than once: files or sentences in memory."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def bytes(self) -> int:
        """What there is to read."""
        ...

    def parts(self) -> list[Part]:
        """Cut it into what can be read on its own, in order."""
        ...

    def chunks(self, part: Part | None = None) -> Iterator[Chunk]:
        """Read everything, or a part, once, in order."""
        ...

    def check_unchanged(self) -> None:
        """Raise UserError where it is no longer what it was when it was found."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """One part of one source, and where its results go."""

    source: Readable
    split: str
    part: Part
    number: int
    """Its place among the parts of all sources."""
    folder: Path
    sorter: Sorter
    deduplicated: bool = False
    """Leave out what the file of duplicates of this part names."""

    def read(
        self, advance: Advance
    ) -> Iterator[tuple[Chunk, dict[str, SplitRows], dict[str, Counter[str]], np.ndarray]]:
        """Read the part: each chunk, and what `Sorter.sort` makes of it."""
        duplicates = self._duplicates()
        read = first = 0
        for chunk in self.source.chunks(self.part):
            stop = first + len(chunk.texts)
            duplicate = None
            if duplicates is not None:
                duplicate = np.zeros(len(chunk.texts), dtype=bool)
                low, high = np.searchsorted(duplicates, [first, stop])
                duplicate[duplicates[low:high] - first] = True
            parts, dropped, hashes = self.sorter.sort(chunk, self.split, duplicate)
            yield chunk, parts, dropped, hashes
            words = sum(len(part.words.codes) for part in parts.values())
            read, first = self.advanced(read, chunk, words, advance), stop
        advance(self.part.bytes - read, 0)

    def advanced(self, before: int, chunk: Chunk, words: int, advance: Advance) -> int:
        """Tell what a chunk adds to the bytes read before; gives their sum. Of a line that reaches
        over the end of the part, the rest counts with the parts that it lies in."""
        read = min(chunk.read, self.part.bytes)
        advance(read - before, words)
        return read

    def _duplicates(self) -> np.ndarray | None:
        if not self.deduplicated or self.split != "train":
            return None
        return np.load(duplicate_rows(self), mmap_mode="r")


def duplicate_rows(task: Task) -> Path:
    """Return the file of the rows of a part that are duplicates, ascending."""
    return task.folder / f"duplicates-{task.number:05d}.npy"


AnyTask = TypeVar("AnyTask", bound=Task)


class InPiece(UserError):
    """A mistake found in a piece of a file, where lines are counted from the piece's start."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        """Of the task."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.number)


def by_piece(function: Callable[[AnyTask, Advance], None]) -> Callable[[AnyTask, Advance], None]:
    """Have a function of tasks tell a mistake in a piece of a file from another."""

    @wraps(function)
    def told(task: AnyTask, advance: Advance) -> None:
        try:
            function(task, advance)
        except UserError as error:
            if task.part.piece and not isinstance(error, Passing):
                raise InPiece(str(error), task.number) from None
            raise

    return told


def counted(task: Task) -> Path:
    """Return where `count_part` puts what it finds."""
    return task.folder / f"counted-{task.sorter.threshold}-{task.number:05d}.json"


@by_piece
def count_part(task: Task, advance: Advance) -> None:
    """Count the words of the training sentences of a part, those for validation left out."""
    words, target_words = WordCounts(), WordCounts()
    labels: set[str] | None = None
    all_dropped: Counter[str] = Counter()
    smallest, largest = None, None
    for chunk, parts, dropped, hashes in task.read(advance):
        for some in dropped.values():
            all_dropped += some
        if len(hashes):
            found = int(hashes.min()), int(hashes.max())
            smallest = found[0] if smallest is None else min(smallest, found[0])
            largest = found[1] if largest is None else max(largest, found[1])
        rows = parts["train"]
        words.add(rows.words)
        if rows.targets is not None:
            target_words.add(rows.targets)
        if chunk.labels is not None:
            check_labels(chunk, chunk.labels)
            labels = (labels or set()).union(chunk.labels)
            check_number(chunk.file, labels)
    out = counted(task)
    words.save(out.with_suffix(".words"))
    target_words.save(out.with_suffix(".targets"))
    record = {
        "dropped": all_dropped,
        "smallest": smallest,
        "largest": largest,
        "labels": None if labels is None else sorted(labels),
    }
    write_whole(out, json.dumps(record).encode())


@dataclass(frozen=True, kw_only=True)
class Coding(Task):
    """A task of the second pass."""

    layout: Layout
    labels: tuple[str, ...] | None
    tokenizers: Path
    """The folder that they are in."""


def encoded(task: Task) -> Path:
    """Return where `encode_part` says what it found and where the rows are."""
    return task.folder / f"encoded-{task.number:05d}.json"


@by_piece
def encode_part(task: Coding, advance: Advance) -> None:
    """Encode every sentence of a part into runs of rows."""
    spill = Spill(task.folder, f"encoded-{task.number:05d}", task.layout)
    tallies: dict[str, Tally] = {task.split: Tally()}
    for chunk, parts, dropped, _ in task.read(advance):
        if chunk.labels is not None:
            check_labels(chunk, chunk.labels, task.labels or ())
        for split, some in dropped.items():
            tallies.setdefault(split, Tally()).dropped += some
        for split, rows in parts.items():
            if len(rows.words):
                _encode(task, split, rows, spill, tallies.setdefault(split, Tally()))
    spill.flush()
    record = {
        "tallies": {split: vars(tally) for split, tally in tallies.items()},
        "slices": [asdict(one) for one in spill.slices],
    }
    write_whole(encoded(task), json.dumps(record).encode())


def read_encoded(path: Path) -> tuple[dict[str, Tally], list[Slice]]:
    """Read what `encode_part` left."""
    record = json.loads(path.read_text())
    tallies = {split: Tally.from_json(tally) for split, tally in record["tallies"].items()}
    slices = [
        Slice(**{**one, "columns": {name: tuple(at) for name, at in one["columns"].items()}})
        for one in record["slices"]
    ]
    return tallies, slices


def _encode(task: Coding, split: str, rows: SplitRows, spill: Spill, tally: Tally) -> None:
    """Encode the sentences of one split of one chunk, write and count them."""
    ids, lengths = _tokenizer(task.tokenizers / TOKENIZER).encode_flat(rows.words)
    most = task.sorter.max_words
    keep = lengths <= most
    targets = None
    if rows.targets is not None:
        targets = _tokenizer(task.tokenizers / TARGET_TOKENIZER).encode_flat(rows.targets)
        keep &= targets[1] <= most
    if not keep.all():  # pieces can be more than words
        tally.dropped["too_long"] += int((~keep).sum())
        ids, lengths = ids[np.repeat(keep, lengths)], lengths[keep]
        if targets is not None:
            targets = targets[0][np.repeat(keep, targets[1])], targets[1][keep]
        rows = rows.only(keep)
    labels = None
    if rows.labels is not None:
        numbers = {label: i for i, label in enumerate(task.labels or ())}
        labels = np.array([numbers[label] for label in rows.labels], dtype=np.int32)
    spill.add(split, ids, lengths, labels, targets)
    tally.words += len(rows.words.codes)
    tally.tokens += len(ids) + len(lengths)
    tally.unknown += int((ids == UNK).sum())
    if targets is not None:
        tally.target_tokens += len(targets[0]) + len(targets[1])
        tally.target_unknown += int((targets[0] == UNK).sum())
    rows_of = np.bincount(lengths) if len(lengths) else lengths
    tally.lengths.update({i: n for i, n in enumerate(rows_of.tolist()) if n})


@lru_cache(maxsize=2)
def _cached(path: Path, modified: int) -> Tokenizer:
    return Tokenizer.load(path)


def _tokenizer(path: Path) -> Tokenizer:
    return _cached(path, path.stat().st_mtime_ns)
