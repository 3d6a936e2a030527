"""A run on a cluster: the same loop as in one process, begun anew whenever a worker is lost.

The trainer, the game's schedules, the log and the checkpoints are those of `lvtrain.training`; only
the players are elsewhere. A step is a pure function of the weights and (seed, step), so what was
done since the last checkpoint is done again, and ends in the same weights bit for bit.
"""

from __future__ import annotations

from pathlib import Path

from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.connect import connected
from lvtrain.cluster.game import Places, RemoteGame, game_shape
from lvtrain.cluster.group import WorkerFault, hired
from lvtrain.config import RunConfig
from lvtrain.data.store import Store
from lvtrain.errors import UserError
from lvtrain.experiment import logged
from lvtrain.training.checkpoint import Checkpoint
from lvtrain.training.folder import Resume, check_folder, find_checkpoint, held
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
