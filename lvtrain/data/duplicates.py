"""Sentences that are there already, in any part of a corpus larger than memory.

Every sentence has one key or several, numbers of 64 bits; one that shares a key with an earlier
sentence is a duplicate. Keys are written part by part and compared range by range, so that memory
is that of one range whatever the corpus.

    exact   one key: a hash of the sentence, its label and its parallel side
    near    MinHash with banding (Broder, "On the resemblance and containment of documents", 1997;
            Leskovec et al., "Mining of massive datasets", ch. 3): each key is a band of 6 minima of
            random hashes of the sentence's pairs of neighbouring words, of a single word the word
            itself. Two sentences whose sets of pairs have a Jaccard similarity of s share one of
            the 6 bands with probability 1 − (1 − s⁶)⁶: 0.99 at 0.9, 0.84 at 0.8, 0.09 at 0.5.

Of n different sentences, hashes of 64 bits take n² / 2⁶⁵ for duplicates: of 10⁸, one in a thousand
corpora or so.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Final, Literal

import numpy as np

from lvtrain.data.feistel import mix
from lvtrain.data.folder import write_whole
from lvtrain.data.passes import Task, by_piece
from lvtrain.data.sorter import SplitRows
from lvtrain.data.words import Words
from lvtrain.data.workers import Advance

Kind = Literal["exact", "near"]

BANDS: Final = 6
BAND_ROWS: Final = 6
COMPARED_KEYS: Final = 1 << 22
"""Keys held at a time while they are compared."""
_ENTRY: Final = np.dtype([("key", "<u8"), ("row", "<u4")])


@dataclass(frozen=True, kw_only=True)
class Comparing(Task):
    """A task of the pass that finds keys."""

    kind: Kind


def keyed(task: Task) -> Path:
    """Return where `write_keys` puts the keys of a part."""
    return task.folder / f"keys-{task.number:05d}.npy"


def duplicates(folder: Path, number: int) -> Path:
    """Return the file of the rows of a part that are duplicates, ascending."""
    return folder / f"duplicates-{number:05d}.npy"


@by_piece
def write_keys(task: Comparing, advance: Advance) -> None:
    """Write the keys of the sentences of a part, ascending, each with its row in the part."""
    found = []
    read = first = 0
    for chunk in task.source.chunks(task.part):
        rows, empty, too_long = task.sorter.rows(chunk)
        kept = np.flatnonzero(~(empty | too_long))
        keys = (exact_keys if task.kind == "exact" else near_keys)(rows)[kept]
        entries = np.empty(keys.shape, dtype=_ENTRY)
        entries["key"] = keys
        entries["row"] = (first + kept)[:, None]
        found.append(entries.reshape(-1))
        first += len(chunk.texts)
        advance(chunk.read - read, len(rows.words.codes))
        read = chunk.read
    advance(task.part.bytes - read, 0)
    whole = np.concatenate(found) if found else np.empty(0, dtype=_ENTRY)
    _save(keyed(task), whole[np.lexsort((whole["row"], whole["key"]))])


def find_duplicates(folder: Path, numbers: Sequence[int]) -> None:
    """Compare the keys of all parts: writes, for each, the rows that share a key with an earlier
    one."""
    if all(duplicates(folder, number).exists() for number in numbers):
        return
    files = [np.load(folder / f"keys-{number:05d}.npy", mmap_mode="r") for number in numbers]
    ranges = max(1, sum(map(len, files)) // COMPARED_KEYS)
    bounds = [(i << 64) // ranges for i in range(1, ranges)]
    cuts = [
        [0, *np.searchsorted(file["key"], np.array(bounds, dtype=np.uint64)).tolist(), len(file)]
        for file in files
    ]
    later: list[list[np.ndarray]] = [[] for _ in files]
    for i in range(ranges):
        pieces = [
            np.array(file[cut[i] : cut[i + 1]]) for file, cut in zip(files, cuts, strict=True)
        ]
        entries = np.concatenate(pieces)
        part = np.repeat(np.arange(len(files)), [len(piece) for piece in pieces])
        # Each piece is in the order of its keys and rows, and the pieces in that of the parts.
        order = np.argsort(entries["key"], kind="stable")
        keys = entries["key"][order]
        again = order[1:][keys[1:] == keys[:-1]]
        for one in np.unique(part[again]).tolist():
            later[one].append(np.unique(entries["row"][again[part[again] == one]]))
    for number, rows in zip(numbers, later, strict=True):
        found = np.unique(np.concatenate(rows)) if rows else np.empty(0, dtype=np.uint32)
        _save(duplicates(folder, number), found.astype(np.int64))


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
