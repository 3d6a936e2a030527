"""The store: text as integers on disk, memory-mapped, its rows grouped by exact length.

    tokenizer.json  [target_tokenizer.json]  store.json
    train/len-0007-00000.arrow  …  valid/…  test/…

`store.json` is written last and the folder is renamed into place as a whole, so a store is complete
or absent. The rows of a split are numbered from 0, shortest first, then in the order of the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np

from lvtrain.data.cache import Cache, own_folder, verify_there
from lvtrain.data.info import INDEX, TARGET_TOKENIZER, TOKENIZER, StoreInfo
from lvtrain.data.location import Uri, is_file, place, read_bytes
from lvtrain.data.shards import Shard, ShardInfo, allow_open, check_hash
from lvtrain.data.tokenizer import EOS, PAD, Tokenizer
from lvtrain.data.words import spans
from lvtrain.errors import UserError, nearest

Verify = Literal["auto", "size", "full"]

HASHED_BYTES: Final = 256 << 20
"""Stores up to this size are hashed whenever they are opened: a fraction of a second."""
RESIDENT_BYTES: Final = 16 << 20
"""Splits up to this size stay mapped; the pages of larger ones are given back after each read."""


class Split:
    """The rows of one split. Nothing of them is held in memory but the maps of their files."""

    def __init__(
        self, root: Path | Uri, name: str, info: StoreInfo, cache: Cache | None = None
    ) -> None:
        self.name = name
        self.info = info.splits[name]
        self.vocab_size = info.vocab_size
        self.labelled = info.labels is not None
        self.parallel = info.parallel
        self.rows = self.info.sentences
        self.tokens = self.info.tokens
        self._target_vocab_size = info.target_vocab_size or 0
        self._root = root
        self._cache = cache
        self._layout = info.layout
        shards = self.info.shards
        self._starts = np.cumsum([0, *(shard.rows for shard in shards)])
        self._lengths = np.array([shard.length for shard in shards], dtype=np.int64)
        self._open: dict[int, Shard] = {}
        allow_open(len(shards))
        self._releases = sum(shard.bytes for shard in shards) > RESIDENT_BYTES

    def __len__(self) -> int:
        return self.rows

    @property
    def max_length(self) -> int:
        """Length of the longest row, in tokens without the end."""
        return int(self._lengths[-1]) if len(self._lengths) else 0

    @cached_property
    def buckets(self) -> list[tuple[int, int, int]]:
        """Length, first row and number of rows of each group of rows of one length."""
        first, out = 0, []
        for length, rows in sorted(self.info.lengths.items()):
            out.append((length, first, rows))
            first += rows
        return out

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of tokens of each row, without the end."""
        rows = self._checked(rows)
        return self._lengths[np.searchsorted(self._starts, rows, side="right") - 1]

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows as `gather` does, but in the type of the store."""
        rows = self._checked(rows)
        lengths = self.lengths(rows)
        width = int(lengths.max(initial=0)) + 1
        tokens = np.full((len(rows), width), PAD, dtype=self._layout.tokens)
        for number, shard, local, into in self._visit(rows):
            values = shard.tokens.take(local, axis=0)
            self._check(values, self.vocab_size, number)
            length = shard.tokens.shape[1]
            tokens[into, :length] = values
            tokens[into, length] = EOS
        return tokens, lengths + 1

    def target_lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of tokens of the parallel side of each row, without the end."""
        rows = self._checked(rows)
        lengths = np.empty(len(rows), dtype=np.int64)
        for number, shard, local, into in self._visit(rows):
            _, lengths[into] = self._target_spans(number, shard, local)
        return lengths

    def padded_targets(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the parallel sides of rows as `targets` does, but in the type of the store."""
        rows = self._checked(rows)
        lengths = np.empty(len(rows), dtype=np.int64)
        found = []
        for number, shard, local, into in self._visit(rows):
            assert shard.targets is not None
            starts, lengths[into] = self._target_spans(number, shard, local)
            ids = shard.targets[0][spans(starts, lengths[into])]
            self._check(ids, self._target_vocab_size, number)
            found.append((into, ids))
        width = int(lengths.max(initial=0)) + 1
        tokens = np.full((len(rows), width), PAD, dtype=self._layout.targets)
        for into, ids in found:
            own = lengths[into]
            tokens[np.repeat(into, own), spans(np.zeros_like(own), own)] = ids
        tokens[np.arange(len(rows)), lengths] = EOS
        return tokens, lengths + 1

    def _target_spans(
        self, number: int, shard: Shard, local: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return where the parallel sides of rows of a shard start, and their lengths."""
        if shard.targets is None:
            raise ValueError(f"{self.name}: the store has no parallel side")
        values, offsets = shard.targets
        starts = offsets[local].astype(np.int64)
        lengths = offsets[local + 1] - starts
        if min(starts.min(), lengths.min()) < 0 or (starts + lengths).max() > len(values):
            raise self._corrupt(number, "expected ascending offsets, found others")
        return starts, lengths

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of rows and their lengths, ends included, in the order asked for.

        Shapes: `[rows, longest + 1]` int64, each row ended and padded, and `[rows]` int64.
        """
        tokens, lengths = self.padded(rows)
        return tokens.astype(np.int64), lengths

    def targets(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the parallel side of rows, as `gather` does the rows."""
        tokens, lengths = self.padded_targets(rows)
        return tokens.astype(np.int64), lengths

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the label of each row: `[rows]` int64."""
        rows = self._checked(rows)
        if not self.labelled:
            raise ValueError(f"{self.name}: the store has no labels")
        labels = np.empty(len(rows), dtype=np.int64)
        for _, shard, local, into in self._visit(rows):
            assert shard.labels is not None
            labels[into] = shard.labels[local]
        return labels

    def sentence(self, row: int) -> list[int]:
        """Return the tokens of one row, without the end."""
        return self.padded(np.array([row]))[0][0, :-1].tolist()

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        rows = np.asarray(rows)
        if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < self.rows:
            raise IndexError(f"{self.name}: row outside [0, {self.rows})")
        return rows

    def _visit(self, rows: np.ndarray) -> Iterator[tuple[int, Shard, np.ndarray, np.ndarray]]:
        """Yield the shards that rows lie in: number, shard, rows within it, places in `rows`.

        Ascending and a part of a shard at a time: pages are touched in the order they lie in, and
        no more of them are resident than one part has.
        """
        order = np.argsort(rows)
        ascending = rows[order]
        bounds = np.searchsorted(ascending, self._starts)
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            shard = self._shard(number)
            start, stop = bounds[number : number + 2].tolist()
            local = ascending[start:stop] - self._starts[number]
            places = order[start:stop]
            for part in shard.parts(local):
                shard = self._verified(number, local[part])
                yield number, shard, local[part], places[part]
                if self._releases:
                    shard.release()

    def _shard(self, number: int) -> Shard:
        shard = self._open.get(number)
        if shard is None:
            info = self.info.shards[number]
            if self._cache is not None:
                # What the cache has let go is let go here too, lest it should stay on the disk.
                self._open = {i: one for i, one in self._open.items() if one.path.exists()}
            shard = self._open[number] = self._map(info)
        return shard

    def _verified(self, number: int, rows: np.ndarray) -> Shard:
        """Return a shard with what some of its rows lie in compared with its checksums; a copy that
        was damaged here is fetched again, once. Raises UserError."""
        shard = self._shard(number)
        try:
            shard.verify(rows)
        except UserError:
            if self._cache is None:
                raise
            self._cache.discard_damaged(self.info.shards[number])
            del self._open[number]
            shard = self._shard(number)
            shard.verify(rows)
        return shard

    def _map(self, info: ShardInfo) -> Shard:
        if isinstance(self._root, Path):
            return Shard.open(self._root / info.file, info, self._layout)
        assert self._cache is not None
        path = self._cache.fetch(str(self._root), info)
        try:
            return self._map_copy(path, info)
        except UserError:  # damaged here; or another process needed the room that it had
            self._cache.discard_damaged(info)
            return self._map_copy(self._cache.fetch(str(self._root), info), info)

    def _map_copy(self, path: Path, info: ShardInfo) -> Shard:
        if not info.blocks:  # of version 1: what is read is not compared
            check_hash(path, info)
        return Shard.open(path, info, self._layout)

    def _check(self, ids: np.ndarray, vocab_size: int, number: int) -> None:
        if ids.size and (found := int(ids.max())) >= vocab_size:
            raise self._corrupt(number, f"expected ids below {vocab_size:,}, found {found:,}")

    def _corrupt(self, number: int, reason: str) -> UserError:
        return UserError(f"{self._root / self.info.shards[number].file}: corrupt shard: {reason}")


class Store:
    """A prepared corpus: its splits, its tokenisers and what is known of it."""

    def __init__(
        self,
        path: Path | Uri,
        info: StoreInfo,
        tokenizer: Tokenizer,
        target_tokenizer: Tokenizer | None,
        cache: Cache | None = None,
    ) -> None:
        self.path = path
        self.info = info
        self.tokenizer = tokenizer
        self.target_tokenizer = target_tokenizer
        """The vocabulary of the parallel side."""
        self._cache = cache

    @classmethod
    def open(
        cls, path: Path | Uri | str, verify: Verify = "auto", cache: Cache | None = None
    ) -> Self:
        """Open a store. Raises UserError, naming the file, if it is not whole.

        `verify="size"` checks the size, the columns and the number of rows of every shard;
        `"full"` its SHA-256 too; `"auto"` is "full" for stores that are quickly hashed. What is
        read of the others is compared with its checksums when it is read for the first time.

        The shards of a store at a URI are fetched, and verified, as they are needed; `cache` is
        where they are kept, by default in a folder of the user's.
        """
        root = place(path)
        info = read_index(root)
        tokenizer = _read_tokenizer(root, info, TOKENIZER)
        target = _read_tokenizer(root, info, TARGET_TOKENIZER) if info.parallel else None
        if isinstance(root, Uri):
            store = cls(root, info, tokenizer, target, cache or Cache(own_folder("shards")))
            if verify == "full":
                store.verify()
            return store
        store = cls(root, info, tokenizer, target)
        if verify == "full" or (verify == "auto" and store.bytes <= HASHED_BYTES):
            store.verify()
        for split in info.splits.values():
            for shard in split.shards:
                Shard.open(root / shard.file, shard, info.layout)
        return store

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, `train` first."""
        return tuple(self.info.splits)

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(s.bytes for split in self.info.splits.values() for s in split.shards)

    @property
    def digest(self) -> str:
        """SHA-256 that names the contents, for checkpoints to compare."""
        return self.info.digest

    def split(self, name: str) -> Split:
        """Return a split. Raises UserError if there is none of that name."""
        if name not in self.info.splits:
            raise UserError(
                f"{self.path}: no split '{name}', expected one of {', '.join(self.splits)}"
                + nearest(name, self.splits)
            )
        return Split(self.path, name, self.info, self._cache)

    def verify(self) -> None:
        """Check the SHA-256 of every shard, where the store is. Raises UserError, naming the first
        that differs."""
        for split in self.info.splits.values():
            for shard in split.shards:
                if isinstance(self.path, Path):
                    check_hash(self.path / shard.file, shard)
                else:
                    verify_there(str(self.path), shard)


def read_index(path: Path | Uri) -> StoreInfo:
    """Return what a store knows of itself. Raises UserError where there is none, or no store."""
    path = place(path)
    if isinstance(path, Path) and not path.is_dir():
        if path.exists():
            raise UserError(
                f"{path}: expected a folder that `lvtrain prepare` wrote, found "
                + ("a file" if path.is_file() else "no folder")
            )
        near = nearest(path.name, [p.name for p in path.parent.glob("*")])
        raise UserError(
            f"{path}: no such store, expected a folder that `lvtrain prepare` wrote{near}"
        )
    try:
        return StoreInfo.from_json(read_bytes(path / INDEX).decode())
    except FileNotFoundError:
        raise UserError(
            f"{path}: not a store: no {INDEX}, expected a folder that `lvtrain prepare` wrote"
        ) from None
    except OSError as error:
        raise UserError(f"{path / INDEX}: cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise UserError(f"{path / INDEX}: corrupt: expected a field {error}, found none") from None
    except (ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path / INDEX}: corrupt or of another version: {reason}") from None


def _read_tokenizer(path: Path | Uri, info: StoreInfo, name: str) -> Tokenizer:
    file = path / name
    expected = info.tokenizers[name]
    if not is_file(file):
        raise UserError(f"{file}: no such file, expected the tokenizer that {INDEX} names")
    content = read_bytes(file)
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise UserError(
            f"{file}: corrupt tokenizer: expected SHA-256 {expected[:16]}…, found {found[:16]}…"
        )
    return Tokenizer.from_json(content.decode(), file)
