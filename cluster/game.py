"""A game whose players are groups of workers, as the trainer plays it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from lvtrain.cluster.group import Groups
from lvtrain.cluster.metrics import Published
from lvtrain.cluster.players import Place, RemoteAdversary, RemoteModel
from lvtrain.cluster.worker import elsewhere
from lvtrain.config import RunConfig
from lvtrain.data.batches import Batches
from lvtrain.data.store import Store
from lvtrain.generation.recorded import build
from lvtrain.randomness import Key
from lvtrain.training.game import AdversaryPlayer, Game, Metrics, ModelPlayer, Source
from lvtrain.training.parts import FileRecord


def game_shape(config: RunConfig) -> Game:
    """The game of a system without its parameters, for its schedule and its rounds."""
    with torch.device("meta"):
        system = build(config)
    return system.game(elsewhere)


class Places:
    """The batches of a run by their numbers, rows and words: what the driver says of them."""

    def __init__(self, store: Store, config: RunConfig) -> None:
        self._split = store.split("train")
        train = config.train
        self._batches = Batches(
            self._split,
            batch_size=train.batch_size,
            seed=train.seed,
            by_length=train.by_length,
            locality=train.locality,
        )

    def at(self, index: int) -> Any:
        rows = self._batches.global_rows(index, index + 1)[0]
        return Place(index, rows, int(np.sum(self._split.lengths(rows) + 1)))


class RemoteGame:
    """A game whose players are groups of workers."""

    def __init__(self, groups: Groups, shape: Game, every: int) -> None:
        self._groups, self._every = groups, every
        sizes = len(groups.of("model")), len(groups.of("adversary"))
        transport = groups.cluster.transport
        self._model = RemoteModel([m.actor for m in groups.of("model")], sizes[1], transport)
        self._adversary = None
        if shape.adversary is not None:
            members = [m.actor for m in groups.of("adversary")]
            self._adversary = RemoteAdversary(members, sizes[0], transport, shape.adversary.rounds)
        # The schedules hand on what players give, and never look into it.
        self._game = Game(
            model=cast(ModelPlayer, self._model),
            adversary=cast(AdversaryPlayer | None, self._adversary),
            schedule=shape.schedule,
            fresh=shape.fresh,
            lag=shape.lag,
        )
        self._late: list[Any] = []
        self._before: Mapping[str, Any] = {}
        self._published = Published()
        self._asked = time.perf_counter()

    @property
    def batches_per_iteration(self) -> int:
        return self._game.batches_per_iteration

    def iterate(self, batches: Source, key: Key) -> tuple[Metrics, int]:
        """With a lag, what the adversary is asked for is waited for in the iteration after it, and
        its figures are those of the iteration before."""
        promised, words = self._game.iterate(batches, key)
        pending, late = self._model.emptied(), []
        if self._adversary is not None:
            late = self._adversary.emptied()
        if self._game.lag:
            late, self._late = self._late, late
        # All of them: an error of work whose result nobody needs is an error too.
        due = pending + late
        results = dict(zip(map(id, due), self._groups.get(due), strict=True))
        metrics: Metrics = {}
        for references in cast(Any, (*self._before.values(), *promised.values())):
            if id(references[0]) in results:
                ranks = [results[id(reference)] for reference in references]
                metrics |= {n: sum(rank[n] for rank in ranks) / len(ranks) for n in ranks[0]}
        self._before = promised if self._late else {}
        if (key.step + 1) % self._every == 0:
            metrics |= self._idle()
        self._published.step(words, metrics)
        return metrics, words

    def _idle(self) -> dict[str, float]:
        """The share of its time that each group waited, since this was last asked."""
        members = self._groups.members
        busy = self._groups.get(member.actor.busy.remote() for member in members)
        now = time.perf_counter()
        passed, self._asked = now - self._asked, now
        idle: dict[str, list[float]] = {}
        for member, seconds in zip(members, busy, strict=True):
            idle.setdefault(f"{member.seat.role}_idle", []).append(max(0.0, 1 - seconds / passed))
        return {name: sum(shares) / len(shares) for name, shares in idle.items()}

    def check(self) -> None:
        """Workers raise what they meet at once: it arrives with the figures of the iteration."""

    def check_state(self) -> None:
        self._groups.get(self._late)
        self._groups.get(m.actor.check_state.remote() for m in self._groups.members)

    def write(self, folder: Path | str) -> Mapping[str, FileRecord]:
        """Have the first worker of each group write its parts into a folder, a path or a URI."""
        where = folder if isinstance(folder, str) else str(folder.absolute())
        found = self._groups.get(m.actor.save.remote(where) for m in self._groups.members)
        return {name: record for records in found for name, record in records.items()}

    def validate(self, step: int) -> dict[str, float]:
        """The figures on the validation split, by the first worker of the model."""
        theirs = self._adversary.workers[0].weights.remote() if self._adversary else None
        return self._groups.get([self._model.workers[0].validate.remote(step, theirs)])[0]
