"""A run on a cluster: the same loop as in one process, begun anew whenever a worker is lost.

The trainer, the game's schedules, the log and the checkpoints are those of `lvtrain.training`; only
the players are elsewhere. A step is a pure function of the weights and (seed, step), so what was
done since the last checkpoint is done again, and ends in the same weights bit for bit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray
import torch

from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.group import Groups, WorkerFault, hired
from lvtrain.cluster.players import Place, RemoteAdversary, RemoteModel
from lvtrain.cluster.worker import Elsewhere
from lvtrain.config import RunConfig
from lvtrain.data.batches import Batches
from lvtrain.data.store import Store
from lvtrain.errors import UserError
from lvtrain.experiment import logged
from lvtrain.model import build
from lvtrain.randomness import Key
from lvtrain.training.checkpoint import Checkpoint, FileRecord
from lvtrain.training.engine import Engine
from lvtrain.training.folder import Resume, check_folder, find_checkpoint, held
from lvtrain.training.game import AdversaryPlayer, Game, Metrics, ModelPlayer, Source
from lvtrain.training.trainer import Outcome, train


def carry_out(
    config: RunConfig, cluster: ClusterConfig, out: Path, resume: Resume = "never"
) -> Outcome:
    """Train as `config` says, into `out`, by workers as `cluster` says.

    Raises UserError where that cannot be, and NonFiniteLoss as in one process.
    """
    check(config, cluster)
    check_folder(out, config, resume)
    with held(out), connected(cluster):
        new = not check_folder(out, config, resume)
        failures, before = 0, -1
        while True:
            found = None if new else find_checkpoint(out, config)
            step = found.step if found else 0
            failures = 0 if step > before else failures
            before = step
            try:
                return _play(config, cluster, out, found, new)
            except WorkerFault as fault:
                failures += 1
                if failures > cluster.failures:
                    raise UserError(
                        f"{fault}; given up after {failures} faults without a new checkpoint since "
                        f"step {step}: --resume auto goes on from there"
                    ) from fault
                print(f"{fault}; starting again from step {step}", flush=True)
                new = not (out / "config.json").exists()


def _play(
    config: RunConfig, cluster: ClusterConfig, out: Path, found: Checkpoint | None, new: bool
) -> Outcome:
    store = Store.open(config.store)
    shape = game_shape(config)
    with hired(config, cluster, shape.adversary is not None) as groups:
        groups.start(found.path.parent.absolute() if found else None, found.step if found else 0)
        game = RemoteGame(groups, shape, config.train.log_every)
        with logged(config, out, found, new, store) as log:
            judge = None
            if config.train.validate_every and "valid" in store.splits:
                judge = game.validate
            return train(game, Places(store, config), config.train, out, log, judge, found)


def game_shape(config: RunConfig) -> Game:
    """The game of a system without its parameters, for its schedule and its rounds."""
    with torch.device("meta"):
        system = build(config)
    return system.game(lambda name, module, optimizer: cast(Engine, Elsewhere(name)))


class Places:
    """The batches of a run by their numbers, rows and words: what the driver says of them."""

    def __init__(self, store: Store, config: RunConfig) -> None:
        self._split = store.split("train")
        train = config.train
        self._batches = Batches(
            self._split, batch_size=train.batch_size, seed=train.seed, by_length=train.by_length
        )

    def at(self, index: int) -> Any:
        rows = self._batches.global_rows(index, index + 1)[0]
        return Place(index, rows, int(np.sum(self._split.lengths(rows) + 1)))


class RemoteGame:
    """A game whose players are groups of workers."""

    def __init__(self, groups: Groups, shape: Game, every: int) -> None:
        self._groups, self._every = groups, every
        sizes = len(groups.of("model")), len(groups.of("adversary"))
        self._model = RemoteModel([m.actor for m in groups.of("model")], sizes[1])
        self._adversary = None
        if shape.adversary is not None:
            self._adversary = RemoteAdversary(
                [m.actor for m in groups.of("adversary")], sizes[0], shape.adversary.rounds
            )
        # The schedules hand on what players give, and never look into it.
        self._game = Game(
            model=cast(ModelPlayer, self._model),
            adversary=cast(AdversaryPlayer | None, self._adversary),
            schedule=shape.schedule,
            fresh=shape.fresh,
        )
        self._asked = time.perf_counter()

    @property
    def batches_per_iteration(self) -> int:
        return self._game.batches_per_iteration

    def iterate(self, batches: Source, key: Key) -> tuple[Metrics, int]:
        promised, words = self._game.iterate(batches, key)
        pending = self._emptied()
        # All of them: an error of work whose result nobody needs is an error too.
        results = dict(zip(map(id, pending), self._groups.get(pending), strict=True))
        metrics: Metrics = {}
        for references in promised.values():
            ranks = [results[id(reference)] for reference in cast(Any, references)]
            metrics |= {n: sum(rank[n] for rank in ranks) / len(ranks) for n in ranks[0]}
        if (key.step + 1) % self._every == 0:
            metrics |= self._idle()
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

    def _emptied(self) -> list[Any]:
        players = [player for player in (self._model, self._adversary) if player is not None]
        pending = [reference for player in players for reference in player.pending]
        for player in players:
            player.pending = []
        return pending

    def check(self) -> None:
        """Workers raise what they meet at once: it arrives with the figures of the iteration."""

    def check_state(self) -> None:
        self._groups.get(m.actor.check_state.remote() for m in self._groups.members)

    def write(self, folder: Path) -> Mapping[str, FileRecord]:
        where = str(folder.absolute())
        found = self._groups.get(m.actor.save.remote(where) for m in self._groups.members)
        return {name: record for records in found for name, record in records.items()}

    def validate(self, step: int) -> dict[str, float]:
        """The figures on the validation split, by the first worker of the model."""
        theirs = self._adversary.workers[0].weights.remote() if self._adversary else None
        return self._groups.get([self._model.workers[0].validate.remote(step, theirs)])[0]


def check(config: RunConfig, cluster: ClusterConfig) -> None:
    """Raise UserError for workers that a run cannot be shared among."""
    size = config.train.batch_size
    shape = game_shape(config)
    adversaries = cluster.adversaries if shape.adversary is not None else 1
    for flag, count in (("workers", cluster.workers), ("adversaries", adversaries)):
        if size % count:
            raise UserError(f"--batch-size {size}: expected a multiple of --{flag} {count}")
    if cluster.zero and shape.adversary is not None and shape.schedule == "alternating":
        raise UserError(
            f"--zero {cluster.zero}: expected 0 with the alternating schedule, which updates the "
            "encoder without the decoder: ZeRO's flat optimiser cannot"
        )
    critic = getattr(config.model, "critic", None)
    if cluster.adversaries > 1 and critic is not None:
        for setting, wrong in (("norm", "batch"), ("lipschitz.per_sample", False)):
            found = critic
            for name in setting.split("."):
                found = getattr(found, name)
            if found == wrong:
                raise UserError(
                    f"--critic.{setting.replace('_', '-')} {found}: couples the rows of a batch, "
                    f"which --adversaries {cluster.adversaries} would share out"
                )


@contextmanager
def connected(cluster: ClusterConfig) -> Iterator[None]:
    """Be a driver of the Ray cluster that is asked for, or of one that is started for the time.

    A process that is one already stays one.
    """
    if ray.is_initialized():
        yield
        return
    address = cluster.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "local")
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    ray.init(address=address, log_to_driver=False, configure_logging=False, **own)
    try:
        yield
    finally:
        ray.shutdown()
