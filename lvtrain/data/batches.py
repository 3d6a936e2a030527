"""The batches of a split: batch `i` is a pure function of (seed, i, rank, world).

The order is a function (`order.py`), so nothing is held of it but a key: a run resumed at step 10^6
reads on at once. What is held is a window of batches, gathered together because one pass over many
rows in the order of the file is cheap and many small ones are not; it changes no value.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, Self, cast

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from lvtrain.data.feistel import feistel, mix
from lvtrain.data.order import Order
from lvtrain.data.tokenizer import PAD
from lvtrain.errors import UserError

WINDOW_ROWS: Final = 1 << 18
WINDOW_BYTES: Final = 32 << 20
FIRST_WINDOW: Final = 16
"""Batches of the first window; each one after it in sequence has twice as many."""
GROUP_BATCHES: Final = 8
"""Least number of batches in a group of adjacent lengths, where a split has as many."""


class Rows(Protocol):
    """What is read of a split. Rows are numbered from the shortest to the longest."""

    rows: int
    labelled: bool
    parallel: bool

    @property
    def max_length(self) -> int:
        """Length of the longest row, without the end."""
        ...

    @property
    def buckets(self) -> list[tuple[int, int, int]]:
        """Length, first row and number of rows of each group of rows of one length."""
        ...

    def lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of tokens of each row, without the end."""
        ...

    def padded(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return rows, ended and padded, in any integer type, and their lengths with the end."""
        ...


class Companions(Rows, Protocol):
    """What is read of a split whose rows have labels or parallel sides."""

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of the label of each row."""
        ...

    def target_lengths(self, rows: np.ndarray) -> np.ndarray:
        """Return the number of tokens of each parallel side, without the end."""
        ...

    def padded_targets(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the parallel sides of rows as `padded` does the rows."""
        ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Sentences of one step, longest first.

    Every rank pads to the longest sentence of the whole batch, so that what is drawn for each
    token has one shape whatever the number of ranks.
    """

    tokens: Int64[Tensor, "B T"]
    """Ids, the end after each sentence, then padding."""
    lengths: Int64[Tensor, " B"]
    """Tokens of each sentence, with the end."""
    rows: np.ndarray
    """Number of each row in its split."""
    index: int
    words: int
    """Tokens of the batch, ends counted and padding not."""
    share: float | Tensor = 1.0
    """Words of these rows for each that a rank has on average. Times it, a mean over the words of
    the rows is, averaged over the ranks, the mean over all words of the whole batch."""
    labels: Int64[Tensor, " B"] | None = None
    targets: Int64[Tensor, "B S"] | None = None
    target_lengths: Int64[Tensor, " B"] | None = None
    target_share: float | Tensor = 1.0
    """What `share` is, of the words of the parallel side."""

    def part(self, part: int, parts: int) -> Self:
        """Return rows `part`, `part + parts`, …: of those that this rank has what a rank of their
        own would have of them, but for the count of `words`, which is that of all."""
        if parts == 1:
            return self
        chosen: dict[str, Any] = {
            name: value[part::parts]
            for name, value in vars(self).items()
            if isinstance(value, Tensor) and value.dim()
        }
        chosen["share"] = self.share * parts * chosen["lengths"].sum() / self.lengths.sum()
        if self.target_lengths is not None:
            words = chosen["target_lengths"].sum() / self.target_lengths.sum()
            chosen["target_share"] = self.target_share * parts * words
        return replace(self, **chosen, rows=self.rows[part::parts])

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on a device, to which it goes while the host works on."""
        pinned = torch.device(device).type == "cuda" and self.tokens.device.type == "cpu"
        tensors: dict[str, Any] = {
            name: (value.pin_memory() if pinned else value).to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


class Batches:
    """The batches of a split in random order, one epoch after the other without end.

    `batch_size` counts the sentences of all ranks together; rank r takes rows r, r + world, … of
    each batch. An epoch visits each row once, but for the `rows % batch_size` of a last, smaller
    batch: which ones is random. A split smaller than a batch is repeated to fill it.

    With `by_length`, a batch holds sentences of about one length, and little is padded: rows are
    permuted within groups of adjacent lengths, and then the batches. With `locality` as well, each
    rank reads a part of the split that hardly any other reads. `limit_rows` reads a random subset
    of so many rows. Batches are handed over on `device`. With `prefetch`, a thread reads the
    rows of the batches to come.
    """

    def __init__(
        self,
        split: Rows,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        by_length: bool = False,
        locality: bool = False,
        limit_rows: int | None = None,
        device: torch.device | str = "cpu",
        prefetch: bool = False,
    ) -> None:
        if batch_size < 1 or batch_size % world:
            raise UserError(
                f"batch size: expected a multiple of the {world} ranks, found {batch_size}"
            )
        if split.rows < 1 or (limit_rows is not None and limit_rows < 1):
            raise UserError("expected at least one sentence to make batches of, found none")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world}")
        if locality and not by_length:
            raise ValueError("locality without by_length")
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.by_length = by_length
        self.device = torch.device(device)
        self._subset = subset(split.rows, limit_rows, seed)
        self.rows = split.rows if self._subset is None else len(self._subset)
        groups = self._group_starts() if by_length else None
        self._order = Order(self.rows, batch_size, seed, groups, locality)
        self._window: _Window | None = None
        self._reader = ThreadPoolExecutor(1, "batches") if prefetch else None
        self._coming: tuple[int, Future[_Window]] | None = None
        self._most_batches = max(1, _most_rows(split) // batch_size)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch."""
        return self._order.per_epoch

    def at(self, index: int) -> Batch:
        """Return batch `index`, counted from the start of training."""
        window = self._window
        if window is None or not window.first <= index < window.stop:
            window = self._window = self._take(index)
            if self._reader is not None:
                size = 2 * (window.stop - window.first)
                self._coming = window.stop, self._reader.submit(self._read, window.stop, size)
        batch = window.batch(index)
        return batch if self.device.type == "cpu" else batch.to(self.device)

    def global_rows(self, first: int, stop: int) -> np.ndarray:
        """Return the rows of batches `first` to `stop`, all ranks', longest first: `[n, B]`."""
        parts = []
        while first < stop:
            epoch, start = divmod(first, self.per_epoch)
            end = min(stop - epoch * self.per_epoch, self.per_epoch)
            rows = self._order.batches(epoch, np.arange(start, end))
            parts.append(rows if self._subset is None else self._subset[rows])
            first += end - start
        return _longest_first(self.split, np.concatenate(parts))

    def _take(self, index: int) -> _Window:
        """Return the window that begins with a batch."""
        if self._coming is not None:
            first, window = self._coming
            self._coming = None
            if first == index:
                return window.result()
            if not window.cancel():
                window.exception()  # waits: two threads must not open the same shards
        before, count = self._window, FIRST_WINDOW
        if before is not None and before.stop == index:
            count = 2 * (before.stop - before.first)
        return self._read(index, count)

    def _read(self, index: int, count: int) -> _Window:
        stop = index + min(count, self._most_batches)
        rows = self.global_rows(index, stop)
        return _Window(self.split, index, rows, self.rank, self.world)

    def _group_starts(self) -> list[int]:
        """Cut the rows, ascending by length, where the length changes and enough were before."""
        starts = [0]
        for start in self._length_starts():
            enough = GROUP_BATCHES * self.batch_size
            if start - starts[-1] >= enough and self.rows - start >= enough:
                starts.append(start)
        return starts

    def _length_starts(self) -> list[int]:
        """Return the first place of each length that occurs, in ascending order."""
        if self._subset is None:
            return [first for _, first, _ in self.split.buckets]
        return np.unique(self.split.lengths(self._subset), return_index=True)[1].tolist()


def sequential(
    split: Rows,
    batch_size: int,
    *,
    rank: int = 0,
    world: int = 1,
    limit_rows: int | None = None,
    seed: int = 0,
) -> Iterator[Batch]:
    """Read a split once, shortest sentences first, the last batch as small as it comes out.

    Ranks share each batch as in `Batches`; of the last one, some may get no row.
    """
    chosen = subset(split.rows, limit_rows, seed)
    total = split.rows if chosen is None else len(chosen)
    whole = total // batch_size
    block = max(1, _most_rows(split) // batch_size)
    bounds = [(first, min(first + block, whole)) for first in range(0, whole, block)]
    for first, stop in [*bounds, (whole, whole + 1)]:
        places = np.arange(first * batch_size, min(stop * batch_size, total))
        if len(places):
            rows = (places if chosen is None else chosen[places]).reshape(stop - first, -1)
            window = _Window(split, first, _longest_first(split, rows), rank, world)
            for index in range(first, stop):
                yield window.batch(index)


class _Window:
    """Consecutive batches, gathered together."""

    def __init__(self, split: Rows, first: int, rows: np.ndarray, rank: int, world: int) -> None:
        self.first = first
        self.stop = first + len(rows)
        self._rows = np.ascontiguousarray(rows[:, rank::world])
        shape, flat = self._rows.shape, self._rows.reshape(-1)
        self._widths = (split.lengths(rows[:, 0]) + 1).tolist()
        tokens, lengths = split.padded(flat)
        self._tokens = _widened(tokens, max(self._widths), shape)
        self._lengths = lengths.reshape(shape)
        everyone = (split.lengths(rows.reshape(-1)) + 1).reshape(rows.shape)
        self._shares = self._lengths.sum(axis=1) * world / everyone.sum(axis=1)
        self._labels: np.ndarray | None = None
        self._targets: np.ndarray | None = None
        if split.labelled:
            self._labels = cast(Companions, split).labels(flat).reshape(shape)
        if split.parallel:
            parallel = cast(Companions, split)
            everyone = parallel.target_lengths(rows.reshape(-1)).reshape(rows.shape) + 1
            self._target_widths = everyone.max(axis=1).tolist()
            targets, target_lengths = parallel.padded_targets(flat)
            self._targets = _widened(targets, max(self._target_widths), shape)
            self._target_lengths = target_lengths.reshape(shape)
            self._target_shares = self._target_lengths.sum(axis=1) * world / everyone.sum(axis=1)

    def batch(self, index: int) -> Batch:
        """Return one batch, copied: it neither changes the window nor keeps it alive."""
        i = index - self.first
        labels = targets = target_lengths = None
        target_share = 1.0
        if self._labels is not None:
            labels = _tensor(self._labels[i])
        if self._targets is not None:
            targets = _tensor(self._targets[i, :, : self._target_widths[i]])
            target_lengths = _tensor(self._target_lengths[i])
            target_share = float(self._target_shares[i])
        return Batch(
            tokens=_tensor(self._tokens[i, :, : self._widths[i]]),
            lengths=_tensor(self._lengths[i]),
            rows=self._rows[i].copy(),
            index=index,
            words=int(self._lengths[i].sum()),
            share=float(self._shares[i]),
            labels=labels,
            targets=targets,
            target_lengths=target_lengths,
            target_share=target_share,
        )


def _longest_first(split: Rows, rows: np.ndarray) -> np.ndarray:
    """Order the rows of each batch `[n, B]` by descending length."""
    lengths = split.lengths(rows.reshape(-1)).reshape(rows.shape)
    return np.take_along_axis(rows, np.argsort(-lengths, axis=1, kind="stable"), axis=1)


def _most_rows(split: Rows) -> int:
    """Return how many rows a window may hold."""
    return min(WINDOW_ROWS, WINDOW_BYTES // (2 * split.max_length + 2))


def subset(rows: int, limit: int | None, seed: int) -> np.ndarray | None:
    """Draw `limit` of the rows at random, ascending; None is all of them."""
    if limit is None or limit >= rows:
        return None
    return np.sort(feistel(rows, mix(seed, -1))(np.arange(limit)))


def _widened(tokens: np.ndarray, width: int, shape: tuple[int, ...]) -> np.ndarray:
    """Pad rows to the longest of a batch, which another rank may have: `[*shape, width]`."""
    missing = max(0, width - tokens.shape[1])
    if missing:
        tokens = np.pad(tokens, ((0, 0), (0, missing)), constant_values=PAD)
    return tokens.reshape(*shape, tokens.shape[1])


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))
