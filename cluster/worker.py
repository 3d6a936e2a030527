"""What all kinds of workers have in common: the players of a game, each in a process of its own.

A worker holds one player of the system, on DeepSpeed engines that it shares with the other workers
of its group. What it is asked to do are the steps of `lvtrain.training.game`; what it hands over
are rows for the workers of the other group (`exchange.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ray
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lvtrain.begin import begin
from lvtrain.cluster import engine as ds
from lvtrain.cluster.batch_norm import over_the_group
from lvtrain.cluster.config import ClusterConfig, Seat
from lvtrain.cluster.exchange import Packed, merge, met_by, pack, split, unpack
from lvtrain.cluster.storage import Storage
from lvtrain.config import OptimizerConfig, RunConfig
from lvtrain.errors import NonFiniteLoss
from lvtrain.generation.recorded import build
from lvtrain.randomness import Key
from lvtrain.training import checkpoint
from lvtrain.training.accumulate import accumulating
from lvtrain.training.engine import Engine, check_finite
from lvtrain.training.game import AdversaryPlayer, Metrics, ModelPlayer
from lvtrain.training.memory import keep_freed_memory
from lvtrain.training.parts import FileRecord, parts
from lvtrain.training.precision import products
from lvtrain.training.trainer import restore
from lvtrain.training.watch import Watch

Figures = dict[str, float]


class Elsewhere:
    """The engine of a part that workers of the other group have."""

    def __init__(self, name: str) -> None:
        self.name = name

    def accumulate(self, parts: int) -> None:
        """Nothing that is elsewhere is updated here."""

    def __getattr__(self, attribute: str) -> Any:
        raise RuntimeError(f"{self.name} is with the other group: {attribute} is not to be asked")


def elsewhere(name: str, module: nn.Module, optimizer: OptimizerConfig) -> Engine:
    """Makes the engines of a game that has none here."""
    return cast(Engine, Elsewhere(name))


class Worker:
    """What both kinds have in common: a seat in a group, the parts that it updates."""

    def __init__(self, config: RunConfig, cluster: ClusterConfig, seat: Seat) -> None:
        self.config, self.cluster, self.seat = config, cluster, seat
        self._phase = "the start"
        self._busy = 0.0
        self._failed: BaseException | None = None

    def __repr__(self) -> str:
        return str(self.seat)

    def pid(self) -> int:
        return os.getpid()

    def address(self) -> tuple[str, int]:
        """Where a group whose first rank this is can meet: this node, and a port that is this
        process's from now on. `join` finds the store that it was opened for, and shares it."""
        here = ray.util.get_node_ip_address()
        self._meeting = dist.TCPStore(
            here, 0, is_master=True, wait_for_workers=False, multi_tenant=True
        )
        return here, self._meeting.port

    @ray.method(concurrency_group="health")
    def phase(self) -> str:
        """What the worker is at: answered beside its work, by any worker that is not frozen."""
        return self._phase

    def start(self, address: str, port: int, found: str, step: int) -> None:
        """Join the group, build the player, and put it where the checkpoint of `step` in the folder
        or at the URI `found` left it, if there is one."""
        seat = self.seat
        self._settle()
        ds.join(seat.rank, seat.world, address, port, self.cluster.timeout)
        module = self._build()
        if not found:
            begin(self.system, self.config)  # before the engines: ZeRO has a copy of the weights
        self.player = self._player()
        if seat.world > 1:
            over_the_group(module)
        if found:
            stored = Storage(found).at(step) if "://" in found else checkpoint.at(Path(found), step)
            restore(self.player.engines, stored)
        self._phase, self._busy = f"step {step}", 0.0

    def _settle(self) -> None:
        """Take the threads and the device of this seat."""
        torch.set_num_threads(self.cluster.threads(self.seat.role))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            keep_freed_memory()

    def _build(self) -> nn.Module:
        """The system, without the weights of the run."""
        self.system = build(self.config)
        return cast(nn.Module, self.system).to(self.device)

    def _player(self) -> ModelPlayer | AdversaryPlayer:
        """The player of this seat, with engines for its parts alone."""
        of = self.system.game(elsewhere)
        mine = (of.model if self.seat.role == "model" else of.adversary).engines  # type: ignore[union-attr]
        watch = Watch(self.device, deferred=False)

        def engine(name: str, module: nn.Module, optimizer: OptimizerConfig) -> Engine:
            if name not in mine:
                return elsewhere(name, module, optimizer)
            return ds.DeepSpeedEngine(
                name, module, optimizer, self.config.train.steps, self.cluster.zero, watch
            )

        game = accumulating(self.system.game(engine), self.config.train.accumulate)
        player = game.model if self.seat.role == "model" else game.adversary
        assert player is not None
        return player

    @contextmanager
    def _doing(self, phase: str, key: Key | None = None) -> Iterator[None]:
        """Say what is being done and count its time; products in the precision of the run."""
        if self._failed is not None:
            raise self._failed  # what it was asked before came to nothing, and nobody may know yet
        self._phase = phase if key is None else f"step {key.step}, {phase}"
        started = time.perf_counter()
        try:
            with products(self.config.train.precision, self.device.type):
                yield
        except BaseException as error:
            if isinstance(error, NonFiniteLoss) and key is not None:
                error.step = key.step  # with a lag, the driver hears of it an iteration later
            self._failed = error
            raise
        self._busy += time.perf_counter() - started

    def _of_rank(self, key: Key) -> Key:
        return replace(key, rank=self.seat.rank, world=self.seat.world)

    def _handed(self, tensors: Mapping[str, Tensor]) -> Any:
        """A piece for each worker of the other group that this one meets, in the order of ranks."""
        if not self.seat.others:
            return None
        pieces = split(tensors, self.seat.rank, self.seat.world, self.seat.others)
        if self.cluster.transport != "store":
            return pieces
        packed = [pack(piece) for piece in pieces]
        return packed[0] if len(packed) == 1 else tuple(packed)

    def _got(self, handed: Sequence[Any]) -> dict[str, Tensor]:
        """This worker's rows from what workers of the other group handed over."""
        rank, world, others = self.seat.rank, self.seat.world, self.seat.others
        if self.cluster.transport == "store":
            pieces = [unpack(piece, self.device) for piece in handed]
        else:
            senders = met_by(rank, world, others)
            own = [met_by(sender, others, world).index(rank) for sender in senders]
            # Copied, as `unpack` does, out of a buffer that holds all of them.
            pieces = [
                {name: tensor.to(self.device, copy=True) for name, tensor in given[place].items()}
                for given, place in zip(handed, own, strict=True)
            ]
        return merge(pieces, rank, world, others)

    def save(self, folder: str) -> Mapping[str, FileRecord]:
        """Write this group's parts of a checkpoint into a folder, a path or a URI, where this is
        the first rank."""
        self._phase += ", saving"
        states = {name: engine.state() for name, engine in self.player.engines.items()}
        if self.seat.rank:
            return {}
        if "://" not in folder:
            return parts(states)(Path(folder))
        uri, _, name = folder.rpartition("/")
        storage = Storage(uri)
        return {f"{p}.safetensors": storage.write_part(name, p, s) for p, s in states.items()}

    def check_state(self) -> None:
        """Raise NonFiniteLoss, naming the tensor, where the group's state is not all finite."""
        for name, engine in self.player.engines.items():
            check_finite(name, engine.state())

    def weights(self) -> dict[str, Packed]:
        """The parameters and buffers of this group's parts."""
        return {n: pack(self.system.parts[n].state_dict()) for n in self.player.engines}

    def busy(self) -> float:
        """Seconds spent at work since the last time this was asked."""
        seconds, self._busy = self._busy, 0.0
        return seconds


def figures(metrics: Metrics) -> Figures:
    """Figures of an iteration as numbers, which cost less to hand over than tensors."""
    return {name: float(value) for name, value in metrics.items()}
