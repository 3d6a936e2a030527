"""Iterations that are recorded once and played again: on a GPU, as CUDA graphs.

An iteration launches several hundred small kernels, and on a GPU the host is slower at launching
them than the device at running them. So the launches are recorded, for each width of batches once,
and played with one call. What differs from step to step then has to lie in tensors that the
recording reads: the batches are copied into fixed ones, padded to a multiple of `WIDTHS`, and seeds
and rates are turned to the step on a tape (`lvtrain.randomness`).

The first iterations at a width are played as they are, and are ordinary steps; they leave the
optimisers' state and the compiled kernels in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lvtrain.data.batches import Batch
from lvtrain.data.tokenizer import PAD
from lvtrain.randomness import Key, NotPlayable, Tape
from lvtrain.training.game import Game, Metrics, Playable, Source
from lvtrain.training.parts import FileRecord

WIDTHS = 4
"""Batches are padded to a multiple of so many tokens: fewer recordings, a little more padding."""
FIRST = 3
"""Iterations at a width that are played before one is recorded."""

Play = Callable[[], Metrics]
Record = Callable[[Play], Play]
"""Takes work that reads and writes fixed tensors; gives what does it again."""


def cuda_graph() -> Record:
    """Record work as CUDA graphs that share their memory."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Play) -> Play:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            metrics = work()

        def play() -> Metrics:
            graph.replay()
            # The next replay writes over these.
            return {k: v.clone() if isinstance(v, Tensor) else v for k, v in metrics.items()}

        return play

    return record


def on_device(game: Game, device: torch.device | str) -> Playable:
    """The game as it is played fastest on a device."""
    return Recorded(game, cuda_graph()) if torch.device(device).type == "cuda" else game


class Recorded:
    """A game whose iterations are recorded by width; played where it cannot be recorded."""

    def __init__(
        self, game: Game, record: Record, widths: int = WIDTHS, first: int = FIRST
    ) -> None:
        self.game, self._record, self._widths, self._first = game, record, widths, first
        self._takes: dict[int, _Take] = {}
        self._playable = True

    @property
    def batches_per_iteration(self) -> int:
        return self.game.batches_per_iteration

    def check(self) -> None:
        self.game.check()

    def check_state(self) -> None:
        self.game.check_state()

    def write(self, folder: Path) -> Mapping[str, FileRecord]:
        return self.game.write(folder)

    def iterate(self, batches: Source, key: Key) -> tuple[Metrics, int]:
        if not self._playable:
            return self.game.iterate(batches, key)
        count = self.batches_per_iteration
        given = [batches.at(key.step * count + i) for i in range(count)]
        longest = max(
            t.shape[1] for batch in given for t in _tensors(batch).values() if t.dim() == 2
        )
        width = -(-longest // self._widths) * self._widths
        take = self._takes.get(width)
        if take is None:
            take = self._takes[width] = _Take(given, width, key)
        take.set(given, key.step)
        work = take.work(self.game, key)
        if take.play is None and take.played >= self._first:
            take.play = self._record(work)
        take.played += 1
        try:
            return (take.play or work)(), given[0].words
        except NotPlayable:
            self._playable = False
            return self.game.iterate(batches, key)


class _Take:
    """The fixed tensors of one width, and the recording that reads them."""

    def __init__(self, batches: list[Batch], width: int, key: Key) -> None:
        self.tape = Tape(batches[0].tokens.device, key.step)
        self.width, self.played = width, 0
        self.play: Play | None = None
        self.batches = [_padded(batch, width) for batch in batches]

    def set(self, batches: list[Batch], step: int) -> None:
        """Put the batches and the numbers of a step where the recording reads them."""
        for fixed, batch in zip(self.batches, batches, strict=True):
            for name, tensor in _tensors(batch).items():
                room = getattr(fixed, name)
                if tensor.dim() == 2:
                    room[:, tensor.shape[1] :] = PAD
                    room = room[:, : tensor.shape[1]]
                room.copy_(tensor)
        self.tape.turn(step)

    def work(self, game: Game, key: Key) -> Play:
        """One iteration on the fixed tensors."""
        taped, fixed = replace(key, step=0, tape=self.tape), _Fixed(self.batches)
        return lambda: game.iterate(fixed, taped)[0]


@dataclass(frozen=True)
class _Fixed:
    """Batches of one iteration, by their place in it."""

    batches: list[Batch]

    def at(self, index: int) -> Batch:
        return self.batches[index]


def _tensors(batch: Batch) -> dict[str, Tensor]:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}


def _padded(batch: Batch, width: int) -> Batch:
    changed: dict[str, Any] = {name: t.clone() for name, t in _tensors(batch).items()}
    missing = width - batch.tokens.shape[1]
    changed["tokens"] = F.pad(batch.tokens, (0, missing), value=PAD)
    if batch.targets is not None:
        # Both sides of a parallel text share a width here.
        changed["targets"] = F.pad(batch.targets, (0, width - batch.targets.shape[1]), value=PAD)
    return replace(batch, **changed)
