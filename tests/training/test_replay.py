"""Iterations on fixed tensors, recorded by something that only plays them again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lvtrain.config import OptimizerConfig
from lvtrain.data.batches import Batch, Batches
from lvtrain.data.store import Store
from lvtrain.objectives.corruption import CorruptionConfig
from lvtrain.presets import preset
from lvtrain.randomness import Key, Tape
from lvtrain.systems import entry
from lvtrain.systems.language_model import LanguageModel
from lvtrain.training.engine import TorchEngine
from lvtrain.training.game import Metrics
from lvtrain.training.replay import Play, Recorded
from lvtrain.training.watch import Watch

STEPS = 8


def record(work: Play) -> Play:
    return work


def train(system: str, store: Path, widths: int | None, **changes: object) -> tuple[dict, Metrics]:
    data = Store.open(store)
    config, _ = preset(system, "tiny")
    config = replace(config, **changes)
    _, build = entry(system).load()
    torch.manual_seed(0)
    module: nn.Module = build(config, data.tokenizer.vocab_size)
    watch = Watch(deferred=True)

    def engine(name: str, part: nn.Module, optimizer: OptimizerConfig) -> TorchEngine:
        return TorchEngine(name, part, optimizer, STEPS, watch)

    game = module.game(engine)  # type: ignore[operator]
    player = game if widths is None else Recorded(game, record, widths, first=2)
    batches = Batches(data.split("train"), batch_size=8, seed=0)
    metrics: Metrics = {}
    for step in range(STEPS):
        metrics, words = player.iterate(batches, Key(seed=0, step=step))
        assert words == batches.at(step * game.batches_per_iteration).words
        watch.check()
    return module.state_dict(), metrics


def assert_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Rates are rounded to float32 on a tape: Adam lets weights with next to no gradient differ."""
    a, b = (torch.cat([t.double().flatten() for t in state.values()]) for state in (one, other))
    assert (a - b).norm() < 1e-3 * b.norm()


@pytest.mark.parametrize(
    ("system", "changes"),
    [
        ("arae", {}),
        ("vae", {}),
        ("lm", {}),
        ("dae", {}),
        ("vae", {"dropout": 0.2, "layers": 2, "components": 3}),
        ("lm", {"dropout": 0.2, "layers": 2}),
        ("dae", {"dropout": 0.2}),
    ],
    ids=lambda v: v if isinstance(v, str) else ",".join(v),
)
def test_recorded_iterations_are_those_that_are_played(
    system: str, changes: dict[str, float], store: Path
) -> None:
    # Padded to the width of the batch alone, what is drawn for each token has the same shape.
    (played, figures), (recorded, again) = (train(system, store, w, **changes) for w in (None, 1))
    assert figures.keys() == again.keys()
    for name in figures:
        assert float(again[name]) == pytest.approx(float(figures[name]), rel=1e-3, abs=1e-5), name
    assert_near(recorded, played)


def test_padding_to_a_common_width_changes_nothing_where_no_token_is_drawn_for(store: Path) -> None:
    (played, _), (recorded, _) = (train("arae", store, w) for w in (None, 6))
    assert_near(recorded, played)


def test_what_cannot_be_turned_to_another_step_is_played(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LanguageModel.loss

    def weighed(model: LanguageModel, batch: Batch, key: Key) -> tuple[Tensor, Metrics]:
        loss, figures = whole(model, batch, key)
        return loss * torch.rand((), generator=key.generator()), figures

    monkeypatch.setattr(LanguageModel, "loss", weighed)
    (played, _), (recorded, _) = (train("lm", store, w) for w in (None, 1))
    assert all(torch.equal(recorded[name], tensor) for name, tensor in played.items())


def test_a_tape_turns_every_draw_and_number_to_its_step() -> None:
    tape = Tape("cpu", step=4)
    taped = Key(seed=7, step=0, tape=tape)
    for step in (4, 9, 2):
        tape.turn(step)
        key = Key(seed=7, step=step)
        assert torch.equal(taped.fold("a").normal(3, 2), key.fold("a").normal(3, 2))
        assert torch.equal(taped.uniform(3), key.uniform(3))
        assert taped.fold("z").seed_tensor() == key.fold("z").seed_tensor()
        assert taped.number("rate", lambda s: 0.5 * s) == 0.5 * step


def test_corruption_is_drawn_alike_from_a_tape(store: Path) -> None:
    (played, _), (recorded, _) = (
        train("dae", store, w, corruption=CorruptionConfig(swap=0.3)) for w in (None, 1)
    )
    assert_near(recorded, played)
