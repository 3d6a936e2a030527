"""What holds for every system."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lvtrain.config import OptimizerConfig
from lvtrain.data.batches import Batches
from lvtrain.data.store import Store
from lvtrain.errors import UserError
from lvtrain.presets import PRESETS, preset
from lvtrain.randomness import Key
from lvtrain.systems import SYSTEMS, entry
from lvtrain.training.engine import TorchEngine
from lvtrain.training.game import Game

EVERY = [(system, name) for system, presets in PRESETS.items() for name in presets]


def play(store: Path, system: str, name: str, steps: int) -> tuple[nn.Module, Game, list[float]]:
    split = Store.open(store).split("train")
    model, _ = preset(system, name)
    torch.manual_seed(0)
    info = Store.open(store).info
    sizes = (info.vocab_size, info.target_vocab_size)[: 1 + entry(system).parallel]
    if getattr(model, "one_vocabulary", False):
        sizes = (max(sizes),) * 2
    built = entry(system).load()[1](model, *sizes)

    def engine(part: str, module: nn.Module, optimizer: OptimizerConfig) -> TorchEngine:
        return TorchEngine(part, module, optimizer, steps)

    game = built.game(engine)
    batches = Batches(split, batch_size=16, seed=0)
    first = "cross_entropy" if system == "lm" or entry(system).parallel else "reconstruction"
    losses = [game.iterate(batches, Key(seed=0, step=i))[0][first] for i in range(steps)]
    return built, game, losses


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_loss_falls(store: Path, system: str) -> None:
    _, _, losses = play(store, system, "tiny", 40)
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


@pytest.mark.parametrize(("system", "name"), EVERY)
def test_every_preset_takes_a_step(store: Path, system: str, name: str) -> None:
    _, game, losses = play(store, system, name, 1)
    assert losses[0] > 0
    assert all(t.isfinite().all() for e in game.engines.values() for t in e.state().values())


@pytest.mark.parametrize("system", SYSTEMS)
def test_two_plays_of_one_seed_are_bitwise_equal(store: Path, system: str) -> None:
    (_, one, _), (_, two, _) = (play(store, system, "tiny", 3) for _ in range(2))
    for name, engine in one.engines.items():
        other = two.engines[name].state()
        assert all(torch.equal(t, other[n]) for n, t in engine.state().items())


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_parts_hold_every_parameter_once(store: Path, system: str) -> None:
    built, _, _ = play(store, system, "tiny", 1)
    held = [id(p) for part in built.parts.values() for p in part.parameters()]
    assert sorted(held) == sorted({id(p) for p in built.parameters()})


@pytest.mark.parametrize("schedule", ["overlapped", "alternating"])
def test_both_schedules_train_all_three_networks(store: Path, schedule: str) -> None:
    model, _ = preset("arae", "tiny")
    split = Store.open(store).split("train")
    torch.manual_seed(0)
    built = entry("arae").load()[1](replace(model, schedule=schedule), split.vocab_size)
    game = built.game(lambda part, module, config: TorchEngine(part, module, config, 2))
    before = {n: p.detach().clone() for n, p in built.named_parameters()}
    game.iterate(Batches(split, batch_size=16, seed=0), Key(seed=0, step=0))
    still = [n for n, p in built.named_parameters() if torch.equal(p, before[n])]
    # The critic's last bias cancels between real and generated codes: nothing moves it.
    assert still == ["critic.4.bias"]


def test_an_unknown_system_is_named_with_its_nearest() -> None:
    with pytest.raises(UserError, match="unknown system 'area'.*did you mean 'arae'"):
        entry("area")


def test_an_unknown_preset_is_named_with_its_nearest() -> None:
    with pytest.raises(UserError, match="unknown preset 'tinny'.*did you mean 'tiny'"):
        preset("arae", "tinny")
