"""A run on a cluster: the same loop as in one process, begun anew whenever a worker is lost.

The trainer, the game's schedules, the log and the checkpoints are those of `lvtrain.training`; only
the players are elsewhere. A step is a pure function of the weights and (seed, step), so what was
done since the last checkpoint is done again, and ends in the same weights bit for bit.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch

from lvtrain.begin import is_started
from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.connect import connected, joins
from lvtrain.cluster.game import Places, RemoteGame, game_shape
from lvtrain.cluster.group import NodeGone, WorkerFault, check_room, hired, seats
from lvtrain.cluster.metrics import count_fault
from lvtrain.cluster.storage import Storage
from lvtrain.config import RunConfig, to_json
from lvtrain.data.store import Store
from lvtrain.errors import Lost, UserError
from lvtrain.experiment import logged
from lvtrain.generation.recorded import read_config
from lvtrain.systems.seq2seq_policy import PolicyPlayer
from lvtrain.training import checkpoint
from lvtrain.training.checkpoint import Checkpoint
from lvtrain.training.folder import (
    CHECKPOINTS,
    Resume,
    as_begun,
    check_folder,
    find_checkpoint,
    held,
    must_agree,
)
from lvtrain.training.parts import Write
from lvtrain.training.trainer import Keep, Outcome, train


def carry_out(
    config: RunConfig, cluster: ClusterConfig, out: Path, resume: Resume = "never"
) -> Outcome:
    """Train as `config` says, into `out`, by workers as `cluster` says.

    Raises UserError where that cannot be, and NonFiniteLoss as in one process.
    """
    check(config, cluster)
    check_folder(out, config, resume)
    if not joins(cluster):
        wanted = seats(cluster, game_shape(config).adversary is not None)
        check_room(cluster, [cluster.needs(seat.role) for seat in wanted], _here())
    with held(out), ExitStack() as stack:
        storage = Storage(cluster.checkpoints) if cluster.checkpoints else None
        new = not check_folder(out, config, resume)
        found = _found(config, out, storage, resume, new)
        # Last: a cluster takes long to start.
        stack.enter_context(connected(cluster))
        failures = 0
        while True:
            if found and not new:
                config = as_begun(config, read_config(out))
            step = found.step if found else 0
            try:
                return _play(config, cluster, out, storage, found, new)
            except WorkerFault as fault:
                count_fault()
                steps = storage.steps() if storage else checkpoint.steps(out / CHECKPOINTS)
                reached = max([step, *steps])
                if isinstance(fault, NodeGone):
                    raise Lost(
                        f"the Ray node that the driver was on is gone ({fault}): the same command "
                        f"with --resume auto goes on from step {reached}"
                    ) from fault
                failures = 1 if reached > step else failures + 1
                if failures > cluster.failures:
                    raise UserError(
                        f"{fault}; given up after {failures} faults without a new checkpoint since "
                        f"step {reached}: --resume auto goes on from there"
                    ) from fault
                print(f"{fault}; starting again from step {reached}", flush=True)
                new = not (out / "config.json").exists()
            found = _found(config, out, storage, resume, new)


def _here() -> dict[str, float]:
    """What a Ray that is started on this machine has at most: it may count less."""
    gpus = math.inf if torch.cuda.is_available() else 0.0
    return {"CPU": float(os.cpu_count() or math.inf), "GPU": gpus}


def _found(
    config: RunConfig, out: Path, storage: Storage | None, resume: Resume, new: bool
) -> Checkpoint | None:
    """What the run goes on from. One whose checkpoints are elsewhere goes on without its folder,
    which may have gone with the node it was on."""
    if storage is None:
        return None if new else find_checkpoint(out, config)
    found = storage.latest()
    if found is not None:
        theirs, ours = found.meta["config"], to_json(config)
        differ = must_agree(ours, theirs)
        if resume == "never" and new:
            raise UserError(
                f"--checkpoints {storage.uri}: expected no checkpoints yet, found one of step "
                f"{found.step}; --resume auto goes on with it"
            )
        if differ:
            raise UserError(f"{found.path}: of another configuration: {', '.join(differ)}")
    kept = cast(Checkpoint | None, found)  # a Stored has all that is asked of it here
    return kept if new else find_checkpoint(out, config, lambda: kept)


def _play(
    config: RunConfig,
    cluster: ClusterConfig,
    out: Path,
    storage: Storage | None,
    found: Checkpoint | None,
    new: bool,
) -> Outcome:
    store = Store.open(config.store)
    shape = game_shape(config)
    with hired(config, cluster, shape.adversary is not None) as groups:
        where = storage.uri if storage else str((out / CHECKPOINTS).absolute())
        groups.start(where if found else "", found.step if found else 0)
        game = RemoteGame(groups, shape, config.train.log_every)
        with logged(config, out, found, new, store) as log:
            judge = None
            if config.train.validate_every and "valid" in store.splits:
                judge = game.validate
            keep = _keeping(storage, game, config) if storage else None
            places, started = Places(store, config), is_started(config)
            outcome = train(game, places, config.train, out, log, judge, found, keep, started)
            if storage:
                storage.fetch(out / CHECKPOINTS)
            return outcome


def _keeping(storage: Storage, game: RemoteGame, config: RunConfig) -> Keep:
    """Commits to storage, with the run's configuration: the storage may outlive its folder."""

    def keep(
        step: int, write: Write, meta: Mapping[str, Any], newest: int, also: Collection[int]
    ) -> None:
        said = {**meta, "config": to_json(config)}
        storage.commit(step, lambda name: game.write(f"{storage.uri}/{name}"), said, newest, also)

    return keep


def check(config: RunConfig, cluster: ClusterConfig) -> None:
    """Raise UserError for workers that a run cannot be shared among."""
    if cluster.transport == "nixl" and find_spec("nixl") is None:
        raise UserError("--transport nixl: expected the package nixl on all nodes, found none here")
    size = config.train.batch_size
    shape = game_shape(config)
    adversaries = cluster.adversaries if shape.adversary is not None else 1
    for flag, count in (("workers", cluster.workers), ("adversaries", adversaries)):
        if size % count:
            raise UserError(f"--batch-size {size}: expected a multiple of --{flag} {count}")
    if (size // cluster.workers) % (parts := config.train.accumulate):
        raise UserError(
            f"--batch-size {size}: expected a multiple of --workers {cluster.workers} times "
            f"--accumulate {parts}"
        )
    if cluster.samplers:
        if not isinstance(shape.model, PolicyPlayer):
            raise UserError(
                f"--samplers {cluster.samplers}: expected 0: only seq2seq-gan with --adversary "
                "brcsgan or wu rolls translations out"
            )
        if cluster.samplers % cluster.workers or (size // parts) % cluster.samplers:
            raise UserError(
                f"--samplers {cluster.samplers}: expected a multiple of --workers "
                f"{cluster.workers} that divides --batch-size {size} over --accumulate {parts}"
            )
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
                found = getattr(found, name, None)
            if found == wrong:
                raise UserError(
                    f"--critic.{setting.replace('_', '-')} {found}: couples the rows of a batch, "
                    f"which --adversaries {cluster.adversaries} would share out"
                )
