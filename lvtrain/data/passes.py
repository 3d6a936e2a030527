"""The two passes of `prepare` over its sentences: one counts, one encodes.

Which split a sentence goes to, or that it is dropped, is a function of the sentence alone: both
passes agree, a second run gives the same bytes, and a corpus that grows keeps its splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, compress
from pathlib import Path
from typing import Final, Protocol
from zlib import crc32

import numpy as np

from lvtrain.data.info import TARGET_TOKENIZER, TOKENIZER, SplitInfo, reasons
from lvtrain.data.shards import Layout, ShardWriter
from lvtrain.data.sources import Chunk
from lvtrain.data.tokenizer import UNK, Tokenizer
from lvtrain.errors import UserError, nearest

Progress = Callable[[int, int, str], None]
"""Called with what is done, the total, and the name of the phase."""

HASH_RANGE: Final = 1 << 32
MOST_LABELS: Final = 10_000
SPLITS: Final = ("train", "valid", "test")


class Readable(Protocol):
    """What can be read twice: files or sentences in memory."""

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    @property
    def bytes(self) -> int:
        """What there is to read."""
        ...

    def chunks(self) -> Iterator[Chunk]:
        """Read everything once, in order."""
        ...


@dataclass(frozen=True)
class _Rows:
    """Sentences of one chunk that go into one split."""

    words: list[list[str]]
    labels: list[str] | None
    targets: list[list[str]] | None

    def only(self, keep: Sequence[bool]) -> _Rows:
        """Return the rows that `keep` marks."""
        return _Rows(
            list(compress(self.words, keep)),
            None if self.labels is None else list(compress(self.labels, keep)),
            None if self.targets is None else list(compress(self.targets, keep)),
        )


@dataclass(frozen=True, kw_only=True)
class Sorter:
    """Decides what becomes of each sentence, the same way in both passes."""

    lowercase: bool
    max_words: int
    seed: int
    threshold: int
    """Training sentences with a hash below it are for validation."""

    def split(self, text: str) -> list[str]:
        return (text.lower() if self.lowercase else text).split()

    def sort(self, chunk: Chunk, split: str) -> tuple[dict[str, _Rows], Counter[str], list[int]]:
        """Return the rows of each split, the sentences dropped by reason, the hashes seen."""
        words = list(map(self.split, chunk.texts))
        targets = None if chunk.targets is None else list(map(self.split, chunk.targets))
        rows = _Rows(words, chunk.labels, targets)
        shortest = longest = list(map(len, words))
        if targets is not None:
            sizes = list(map(len, targets))
            shortest = list(map(min, shortest, sizes))
            longest = list(map(max, longest, sizes))
        keep = [
            short > 0 and long <= self.max_words
            for short, long in zip(shortest, longest, strict=True)
        ]
        dropped: Counter[str] = Counter()
        if not all(keep):
            dropped["empty"] = shortest.count(0)
            dropped["too_long"] = len(keep) - sum(keep) - dropped["empty"]
            rows = rows.only(keep)
        if split != "train" or not self.threshold:
            return {split: rows}, dropped, []
        hashes = [
            crc32(" ".join(line).encode("utf-8", "replace"), self.seed) for line in rows.words
        ]
        held_out = [code < self.threshold for code in hashes]
        if not any(held_out):
            return {"train": rows}, dropped, hashes
        parts = {"train": rows.only([not held for held in held_out]), "valid": rows.only(held_out)}
        return parts, dropped, hashes


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the first pass learns of the training sentences."""

    sorter: Sorter
    words: Counter[str]
    target_words: Counter[str]
    dropped: Counter[str]
    """Sentences left out, by reason, those of too many pieces not yet known."""
    parallel: bool
    labels: tuple[str, ...] | None


def count(source: Readable, sorter: Sorter, report: Progress) -> Seen:
    """Count the words of the training sentences, those for validation left out.

    Where the corpus is so small that no hash falls below the threshold, or none above, the pass is
    repeated with one that holds out the sentence of the smallest hash, or all but that of the
    largest, if there are two that differ.
    """
    while True:
        words: Counter[str] = Counter()
        target_words: Counter[str] = Counter()
        labels: set[str] | None = None
        all_dropped: Counter[str] = Counter()
        smallest, largest = HASH_RANGE, -1
        for chunk in source.chunks():
            parts, dropped, hashes = sorter.sort(chunk, "train")
            all_dropped += dropped
            smallest = min(smallest, min(hashes, default=smallest))
            largest = max(largest, max(hashes, default=largest))
            words.update(chain.from_iterable(parts["train"].words))
            target_words.update(chain.from_iterable(parts["train"].targets or ()))
            if chunk.labels is not None:
                labels = (labels or set()) | _check_labels(chunk, chunk.labels)
                if len(labels) > MOST_LABELS:
                    raise UserError(
                        f"{chunk.file}: expected at most {MOST_LABELS:,} different labels, "
                        f"found more, such as '{chunk.labels[-1]}'"
                    )
            report(chunk.read, source.bytes, "counting")
        if not sorter.threshold or smallest < sorter.threshold <= largest:
            return Seen(
                sorter=sorter,
                words=words,
                target_words=target_words,
                dropped=all_dropped,
                parallel=bool(target_words),
                labels=None if labels is None else _ordered(labels),
            )
        if smallest >= largest:
            threshold = 0
        else:
            threshold = largest if largest < sorter.threshold else smallest + 1
        sorter = replace(sorter, threshold=threshold)


@dataclass(kw_only=True)
class _Tally:
    """Counts of one split in the second pass."""

    words: int = 0
    tokens: int = 0
    unknown: int = 0
    target_tokens: int = 0
    target_unknown: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)


def encode(
    sources: Mapping[str, Readable],
    seen: Seen,
    folder: Path,
    layout: Layout,
    tokenizers: Mapping[str, Tokenizer],
    report: Progress,
) -> dict[str, SplitInfo]:
    """Encode every sentence and write the shards of each split."""
    sorter, labels = seen.sorter, seen.labels
    names = [name for name in SPLITS if name in sources or (name == "valid" and sorter.threshold)]
    writers = {name: ShardWriter(folder, name, layout) for name in names}
    tallies = {name: _Tally() for name in names}
    numbers = {label: i for i, label in enumerate(labels or ())}
    total, before = sum(source.bytes for source in sources.values()), 0
    for split, source in sources.items():
        for chunk in source.chunks():
            if chunk.labels is not None:
                _check_labels(chunk, chunk.labels, numbers)
            parts, dropped, _ = sorter.sort(chunk, split)
            tallies[split].dropped += dropped
            for name, rows in parts.items():
                if rows.words:
                    _encode(
                        rows, tokenizers, numbers, sorter.max_words, writers[name], tallies[name]
                    )
            report(before + chunk.read, total, "encoding")
        before += source.bytes
    if "valid" not in sources and "valid" in names and not tallies["valid"].lengths:
        names.remove("valid")  # sentences held out by hash, each of too many pieces
        tallies["train"].dropped += tallies["valid"].dropped
    infos = {}
    for i, name in enumerate(names):
        report(i, len(names), "writing")
        source = sources.get(name, sources["train"])
        if not tallies[name].lengths:
            said = reasons(tallies[name].dropped, sorter.max_words)
            raise UserError(f"{source.name}: no sentences in the {name} split: dropped {said}")
        infos[name] = _finish(writers[name], tallies[name])
    report(len(names), len(names), "writing")
    return infos


def _finish(writer: ShardWriter, tally: _Tally) -> SplitInfo:
    """Write the shards of a split."""
    dropped = {reason: number for reason, number in sorted(tally.dropped.items()) if number}
    return SplitInfo(
        sentences=tally.lengths.total(),
        words=tally.words,
        tokens=tally.tokens,
        unknown=tally.unknown,
        dropped=dropped,
        lengths=dict(sorted(tally.lengths.items())),
        target_tokens=tally.target_tokens,
        target_unknown=tally.target_unknown,
        shards=tuple(writer.finish()),
    )


def _encode(
    rows: _Rows,
    tokenizers: Mapping[str, Tokenizer],
    numbers: Mapping[str, int],
    most: int,
    writer: ShardWriter,
    tally: _Tally,
) -> None:
    """Encode the sentences of one split of one chunk, write and count them."""
    ids, lengths = tokenizers[TOKENIZER].encode_flat(rows.words)
    keep = lengths <= most
    targets = None
    if rows.targets is not None:
        targets = tokenizers[TARGET_TOKENIZER].encode_flat(rows.targets)
        keep &= targets[1] <= most
    if not keep.all():  # pieces can be more than words
        tally.dropped["too_long"] += int((~keep).sum())
        ids, lengths = ids[np.repeat(keep, lengths)], lengths[keep]
        if targets is not None:
            targets = targets[0][np.repeat(keep, targets[1])], targets[1][keep]
        rows = rows.only(keep.tolist())
    labels = None
    if rows.labels is not None:
        labels = np.array([numbers[label] for label in rows.labels], dtype=np.int32)
    writer.add(ids, lengths, labels, targets)
    tally.words += sum(map(len, rows.words))
    tally.tokens += len(ids) + len(lengths)
    tally.unknown += int((ids == UNK).sum())
    if targets is not None:
        tally.target_tokens += len(targets[0]) + len(targets[1])
        tally.target_unknown += int((targets[0] == UNK).sum())
    tally.lengths.update(lengths.tolist())


def _check_labels(
    chunk: Chunk, labels: Sequence[str], known: Mapping[str, int] | None = None
) -> set[str]:
    """Return the labels of a chunk. Raises UserError for an empty or an unknown one."""
    found = set(labels)
    if "" in found:
        number = chunk.line + labels.index("")
        raise UserError(f"{chunk.file}: line {number}: no label, expected one for every sentence")
    unknown = found - known.keys() if known is not None else set()
    if unknown:
        first = min(unknown)
        raise UserError(
            f"{chunk.file}: line {chunk.line + labels.index(first)}: label '{first}' is not in the "
            f"training data: {', '.join(known or ())}" + nearest(first, known or ())
        )
    return found


def _ordered(labels: set[str]) -> tuple[str, ...]:
    """Sort labels, numbers by their value."""
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
