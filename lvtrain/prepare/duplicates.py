"""Sentences that are there already, in any part of a corpus larger than memory.

Every sentence has one key or several, numbers of 64 bits; one that shares a key with an earlier
sentence is a duplicate. Keys are written in runs and compared range by range, so that memory is
that of one range whatever the corpus, or of the copies of one sentence where they are more. They
take 12 bytes each on the disk until they are compared.

    exact   one key: a hash of the sentence, its label and its parallel side
    near    MinHash with banding (Broder, "On the resemblance and containment of documents", 1997;
            Leskovec et al., "Mining of massive datasets", ch. 3): each key is a band of 6 minima of
            random hashes of the sentence's pairs of neighbouring words, of a single word the word
            itself. Two sentences whose sets of pairs have a Jaccard similarity of s share one of
            the 6 bands with probability 1 − (1 − s⁶)⁶: 0.99 at 0.9, 0.84 at 0.8, 0.09 at 0.5.
            8 minima a band would be sharper and miss more: of 47,000 short reviews it removed a
            fifth of those without an earlier one above 0.55, and found 73 % instead of 89 % of
            those from 0.8 to below 1. With 12 bands it did both, for twice the keys.

Of n different sentences, hashes of 64 bits take n² / 2⁶⁵ for duplicates: of 10⁸, one in a thousand
corpora or so.
"""

from __future__ import annotations

import io
import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal

import numpy as np

from lvtrain.data.feistel import mix
from lvtrain.data.folder import write_whole
from lvtrain.data.words import Words
from lvtrain.prepare.passes import Task, by_piece, duplicate_rows
from lvtrain.prepare.sorter import SplitRows
from lvtrain.prepare.workers import Advance

Kind = Literal["exact", "near"]

BANDS: Final = 6
BAND_ROWS: Final = 6
RUN_KEYS: Final = 1 << 21
"""Keys of a part that are held before they are written."""
COMPARED_KEYS: Final = 1 << 22
"""Keys held at a time while they are compared."""
_ENTRY: Final = np.dtype([("key", "<u8"), ("row", "<u4")])


@dataclass(frozen=True, kw_only=True)
class Comparing(Task):
    """A task of the pass that finds keys."""

    kind: Kind


def keyed(task: Task) -> Path:
    """Return where `write_keys` says how many keys each run of a part has."""
    return task.folder / f"keyed-{task.number:05d}.json"


@by_piece
def write_keys(task: Comparing, advance: Advance) -> None:
    """Write the keys of the sentences of a part in runs, each ascending, with their rows."""
    held: list[np.ndarray] = []
    runs: list[int] = []
    read = first = 0

    def flush() -> None:
        entries = np.concatenate(held)
        entries = entries[np.argsort(entries["key"], kind="stable")]
        path = _run(task.folder, task.number, len(runs))
        write_whole(path, entries.view(np.uint8).data)
        held.clear()
        runs.append(len(entries))

    for chunk in task.source.chunks(task.part):
        rows, empty, too_long = task.sorter.rows(chunk)
        kept = np.flatnonzero(~(empty | too_long))
        keys = (exact_keys if task.kind == "exact" else near_keys)(rows)[kept]
        entries = np.empty(keys.shape, dtype=_ENTRY)
        entries["key"] = keys
        entries["row"] = (first + kept)[:, None]
        if entries.size:
            held.append(entries.reshape(-1))
        if sum(map(len, held)) >= RUN_KEYS:
            flush()
        first += len(chunk.texts)
        read = task.advanced(read, chunk, len(rows.words.codes), advance)
    if held:
        flush()
    advance(task.part.bytes - read, 0)
    write_whole(keyed(task), json.dumps(runs).encode())


def find_duplicates(tasks: Sequence[Task]) -> None:
    """Compare the keys of all parts: writes, for each, the rows that share a key with an earlier
    one, and removes the keys."""
    if not all(duplicate_rows(task).exists() for task in tasks):
        found = [_found(task) for task in tasks]
        for path in found:
            path.unlink(missing_ok=True)  # of a comparison that did not end
        _compare(tasks, found)
        for task, path in zip(tasks, found, strict=True):
            rows = np.fromfile(path, dtype="<u4") if path.exists() else np.empty(0, dtype="<u4")
            _save(duplicate_rows(task), np.unique(rows).astype(np.int64))
    for task in tasks:
        for path in (_found(task), *task.folder.glob(f"keys-{task.number:05d}-*")):
            path.unlink(missing_ok=True)


def _compare(tasks: Sequence[Task], found: Sequence[Path]) -> None:
    """Append the rows of each part that share a key with an earlier one to its file, in no order
    and maybe more than once."""
    runs = [
        (part, _run(task.folder, task.number, i), size)
        for part, task in enumerate(tasks)
        for i, size in enumerate(json.loads(keyed(task).read_text()))
    ]
    ranges = max(1, sum(size for *_, size in runs) // COMPARED_KEYS)
    starts = [0] * len(runs)
    for bound in [(i << 64) // ranges for i in range(1, ranges + 1)]:
        pieces = []
        for i, (_, path, size) in enumerate(runs):
            # Opened for each range: of a large corpus there are more than may be open at a time.
            there = np.memmap(path, dtype=_ENTRY, mode="r", shape=size)
            stop = size if bound == 1 << 64 else bisect_left(there["key"], bound, starts[i])
            pieces.append(np.array(there[starts[i] : stop]))
            starts[i] = stop
        entries = np.concatenate(pieces) if pieces else np.empty(0, dtype=_ENTRY)
        part = np.repeat([part for part, *_ in runs], [len(piece) for piece in pieces])
        # Each piece is in the order of its keys and rows, and the pieces in that of the corpus.
        order = np.argsort(entries["key"], kind="stable")
        keys = entries["key"][order]
        again = order[1:][keys[1:] == keys[:-1]]
        for one in np.unique(part[again]).tolist():
            with found[one].open("ab") as file:
                file.write(np.unique(entries["row"][again[part[again] == one]]).data)


def _run(folder: Path, number: int, run: int) -> Path:
    return folder / f"keys-{number:05d}-{run:04d}"


def _found(task: Task) -> Path:
    return task.folder / f"found-{task.number:05d}"


def exact_keys(rows: SplitRows) -> np.ndarray:
    """Return the key of each sentence: `[sentences, 1]` uint64."""
    parts = [rows.words.lines]
    if rows.targets is not None:
        parts.append(rows.targets.lines)
    if rows.labels is not None:
        parts.append([label.encode() for label in rows.labels])
    texts = parts[0] if len(parts) == 1 else [b"\n".join(own) for own in zip(*parts, strict=True)]
    digests = b"".join([blake2b(text, digest_size=8).digest() for text in texts])
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 1)


def near_keys(rows: SplitRows) -> np.ndarray:
    """Return the bands of each sentence: `[sentences, BANDS]` uint64."""
    words = rows.words
    present = np.flatnonzero(words.lengths)
    keys = np.zeros((len(words), BANDS), dtype=np.uint64)
    if not len(present):
        return keys
    features, sizes = _pairs(words, words.lengths[present])
    starts = np.cumsum(sizes) - sizes
    for band in range(BANDS):
        key = np.full(len(present), mix(band), dtype=np.uint64)
        for row in range(BAND_ROWS):
            seed = np.uint64(mix(band, row))
            key = _hashed(key ^ np.minimum.reduceat(_hashed(features ^ seed), starts))
        keys[present, band] = key
    return keys


def _pairs(words: Words, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes of the pairs of neighbouring words of texts, and the number of each."""
    own = b"".join(
        [
            blake2b(word.lower().encode("utf-8", "surrogatepass"), digest_size=8).digest()
            for word in words.unique
        ]
    )
    hashes = np.frombuffer(own, dtype="<u8")[words.codes]
    pairs = _hashed(np.append(hashes[1:], np.uint64(0)) + _hashed(hashes))
    inside = np.ones(len(hashes), dtype=bool)
    inside[np.cumsum(lengths) - 1] = False
    # A single word stands for itself.
    inside[(np.cumsum(lengths) - 1)[lengths == 1]] = True
    single = np.repeat(lengths == 1, lengths)
    return np.where(single, hashes, pairs)[inside], np.maximum(lengths - 1, 1)


def _hashed(x: np.ndarray) -> np.ndarray:
    """Hash integers to others: MurmurHash3's 64-bit finaliser."""
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xFF51AFD7ED558CCD)
    x = x ^ (x >> np.uint64(33))
    x = x * np.uint64(0xC4CEB9FE1A85EC53)
    return x ^ (x >> np.uint64(33))


def _save(path: Path, array: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, array)
    write_whole(path, content.getbuffer())
