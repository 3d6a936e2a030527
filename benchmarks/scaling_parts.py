"""What a cluster's iteration is made of: the work of a worker, and the way between two."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import ray
import torch
from torch import nn

from benchmarks.contest import Step
from lvtrain.cluster.engine import DeepSpeedEngine, join
from lvtrain.cluster.exchange import Packed, pack, unpack
from lvtrain.config import OptimizerConfig, RunConfig
from lvtrain.data.batches import Batch, Batches
from lvtrain.data.store import Store
from lvtrain.generation.recorded import build
from lvtrain.randomness import Key
from lvtrain.training.engine import Engine, TorchEngine
from lvtrain.training.game import Game
from lvtrain.training.memory import keep_freed_memory
from lvtrain.training.watch import Watch

EngineKind = Literal["torch", "DeepSpeed"]
MODEL = ("propose", "show", "decode", "learn")
ADVERSARY = ("criticise", "answer", "generate")
WARMUP = 5
Seconds = dict[str, float]


def phases(
    config: RunConfig,
    kind: EngineKind,
    threads: Sequence[int],
    sizes: Sequence[int],
    device: str = "cpu",
) -> Step:
    """Plays an iteration on one engine of each part, a group of one; gives for each number of
    threads and each size of batch the seconds of the model's phases and of the adversary's, all
    rounds of the critic together."""
    torch.set_num_threads(max(threads))
    keep_freed_memory()
    where = torch.device(device)
    if kind == "DeepSpeed":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        join(0, 1, "127.0.0.1", port, 60.0)
    watch = Watch(where, deferred=False)

    def engine(name: str, module: nn.Module, optimizer: OptimizerConfig) -> Engine:
        if kind == "torch":
            return TorchEngine(name, module, optimizer, config.train.steps, watch)
        return DeepSpeedEngine(name, module, optimizer, config.train.steps, 0, watch)

    system = build(config)
    cast(nn.Module, system).to(where)
    game = system.game(engine)
    split = Store.open(config.store).split("train")
    batches = [
        Batches(split, batch_size=size, seed=config.train.seed, device=where) for size in sizes
    ]

    def step(number: int) -> dict[tuple[int, int], Seconds]:
        key = Key(seed=config.train.seed, step=number)
        first = number * game.batches_per_iteration
        found = {}
        for count in threads:
            torch.set_num_threads(count)
            for size, source in zip(sizes, batches, strict=True):
                drawn = [source.at(first + i) for i in range(1 + game.fresh)]
                found[count, size] = _timed(game, drawn, key, where)
        return found

    return step


def _timed(game: Game, batches: Sequence[Batch], key: Key, device: torch.device) -> Seconds:
    """An overlapped iteration, as `Game` has it, with the time of each phase."""
    model, adversary = game.model, game.adversary
    assert adversary is not None
    seconds: Seconds = dict.fromkeys((*MODEL, *ADVERSARY), 0.0)

    def during(phase: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds[phase] += time.perf_counter() - started
        return result

    batch, *others = batches
    proposals = [during("propose", lambda: model.propose(batch, key))]
    proposals += during("show", lambda: model.show(others, key))
    for i in range(adversary.rounds):
        seen = proposals[i % len(proposals)]
        during("criticise", partial(adversary.criticise, seen, key.fold("critic", i)))
    answer = during("answer", lambda: adversary.answer(proposals[0]))
    during("generate", lambda: adversary.generate(len(batch.rows), key.fold("generator")))
    during("decode", model.decode)
    during("learn", lambda: model.learn(answer))
    return seconds


@dataclass(frozen=True)
class Way:
    """Median seconds of a batch's way from worker to worker."""

    pack: float
    store: float
    """From when it is packed until the other worker has it in hand: Ray's part."""
    unpack: float

    @property
    def whole(self) -> float:
        return self.pack + self.store + self.unpack


@dataclass(frozen=True, kw_only=True)
class Connection:
    """What lies between two workers, and between them and the driver."""

    ways: dict[int, Way]
    """By the rows of a batch."""
    call: float
    """Seconds of the driver for each of many calls of a worker."""
    wait: float
    """Seconds from a call to its result."""


class Sender:
    """A worker that hands batches of codes over, with the times it began and ended at."""

    def __init__(self, sizes: Sequence[int], code: int) -> None:
        torch.set_num_threads(1)
        self.codes = {rows: torch.randn(rows, code) for rows in sizes}

    def hand_over(self, rows: int) -> tuple[Packed, float, float]:
        started = time.perf_counter()
        packed = pack({"codes": self.codes[rows]})
        return packed, started, time.perf_counter()

    def nothing(self) -> None:
        pass


class Receiver:
    """A worker that a batch of codes is handed to."""

    def take(self, parcel: tuple[Packed, float, float]) -> Way:
        packed, started, ready = parcel
        here = time.perf_counter()
        unpack(packed)
        return Way(ready - started, here - ready, time.perf_counter() - here)


def connection(sizes: Sequence[int], code: int, repeats: int) -> Connection:
    """Medians between two processes of one node, whose clock is one."""
    sender = cast(Any, ray.remote)(Sender).options(num_cpus=0.5).remote(sizes, code)
    receiver = cast(Any, ray.remote)(Receiver).options(num_cpus=0.5).remote()
    ways = {}
    for rows in sizes:
        found = [
            ray.get(receiver.take.remote(sender.hand_over.remote(rows)))
            for _ in range(WARMUP + repeats)
        ][WARMUP:]
        parts = ("pack", "store", "unpack")
        ways[rows] = Way(*(statistics.median(getattr(w, part) for w in found) for part in parts))
    many = 20 * repeats
    started = time.perf_counter()
    ray.get([sender.nothing.remote() for _ in range(many)])
    each = (time.perf_counter() - started) / many
    waits = []
    for _ in range(repeats):
        started = time.perf_counter()
        ray.get(sender.nothing.remote())
        waits.append(time.perf_counter() - started)
    for actor in (sender, receiver):
        ray.kill(actor)
    return Connection(ways=ways, call=each, wait=statistics.median(waits))
