"""What the training benchmark sets against each other: the baseline, lvtrain, a matrix product."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from benchmarks.contest import Step
from benchmarks.eager_arae import EagerARAE
from benchmarks.synthetic import SyntheticSplit
from lvtrain.config import OptimizerConfig
from lvtrain.data.batches import Batches, Rows
from lvtrain.data.store import Store
from lvtrain.randomness import Key
from lvtrain.systems.arae import ARAE, ARAEConfig
from lvtrain.training.engine import TorchEngine
from lvtrain.training.game import Game, Schedule
from lvtrain.training.memory import keep_freed_memory
from lvtrain.training.replay import on_device
from lvtrain.training.watch import Watch

STEPS = 1_000_000
"""Length of the run that the iterations are taken from: rates may decay towards its end."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all contestants have in common."""

    model: ARAEConfig
    store: Path | None
    sentences: int
    vocab_size: int
    batch_size: int
    seed: int
    device: str
    threads: int
    apart: bool
    """Each contestant has a process of its own, so that it may set it up."""

    def batches(self) -> Batches:
        split: Rows
        if self.store:
            split = Store.open(self.store).split("train")
        else:
            split = SyntheticSplit(
                sentences=self.sentences, vocab_size=self.vocab_size, seed=self.seed
            )
        return Batches(split, batch_size=self.batch_size, seed=self.seed, device=self.device)

    def game(
        self, schedule: Schedule, engine_type: type[TorchEngine] = TorchEngine
    ) -> tuple[ARAE, Game]:
        torch.manual_seed(self.seed)
        arae = ARAE(replace(self.model, schedule=schedule), self.vocab_size).to(self.device)

        watch = Watch(self.device)

        def engine(name: str, module: nn.Module, config: OptimizerConfig) -> TorchEngine:
            return engine_type(name, module, config, STEPS, watch)

        return arae, arae.game(engine)

    def start(self, *, keep_memory: bool) -> None:
        """Set the process up."""
        torch.set_num_threads(self.threads)
        if keep_memory and self.apart:
            keep_freed_memory()

    def finish(self) -> None:
        """Wait until the device has done what was asked of it."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def baseline(setup: Setup, keep_memory: bool) -> Step:
    """An iteration of the eager implementation; gives its words."""
    setup.start(keep_memory=keep_memory)
    batches = setup.batches()
    arae = EagerARAE(setup.model, setup.vocab_size, torch.device(setup.device))

    def step(number: int) -> int:
        words = arae.iterate(batches, number)
        setup.finish()
        return words

    return step


def lvtrain(setup: Setup, schedule: Schedule) -> Step:
    """An iteration as `lvtrain train` takes it; gives its words."""
    setup.start(keep_memory=True)
    batches = setup.batches()
    game = on_device(setup.game(schedule)[1], setup.device)

    def step(number: int) -> int:
        _, words = game.iterate(batches, Key(seed=setup.seed, step=number))
        setup.finish()
        return words

    return step


def matrix_product(setup: Setup, size: int) -> Step:
    """One large product in float32: what the machine can do at best; gives its FLOPs."""
    setup.start(keep_memory=True)
    a = torch.randn(size, size, device=setup.device)
    b, out = torch.randn_like(a), torch.empty_like(a)

    def step(number: int) -> int:
        torch.mm(a, b, out=out)
        setup.finish()
        return 2 * size**3

    return step
