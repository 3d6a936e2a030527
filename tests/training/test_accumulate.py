"""Updates from parts of a batch are those from the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lvtrain
from lvtrain.data.batches import Batches
from lvtrain.data.store import Store
from lvtrain.errors import UserError
from lvtrain.model import Model
from lvtrain.objectives.corruption import CorruptionConfig
from lvtrain.objectives.divergence import KLConfig
from lvtrain.presets import preset
from tests.training.smooth import smooth

ARAE = smooth()


def trained(system: str, model: Any, store: Path, out: Path, **settings: Any) -> torch.Tensor:
    lvtrain.train(
        system, store, out, model=model, steps=6, batch_size=24, threads=1, validate_every=0,
        checkpoint_every=3, tensorboard=False, **settings,
    )  # fmt: skip
    module = Model.load(out, "latest").system
    assert isinstance(module, torch.nn.Module)
    return torch.cat([p.detach().double().flatten() for p in module.parameters()])


def sgd(system: str) -> Any:
    model, _ = preset(system, "tiny")
    return replace(model, optimizer=replace(model.optimizer, kind="sgd", lr=0.3))


@pytest.mark.parametrize(
    ("system", "model"),
    [
        ("arae", ARAE),
        ("arae", replace(ARAE, schedule="alternating")),
        ("arae", replace(ARAE, fresh=0)),
        ("lm", sgd("lm")),
        ("vae", replace(sgd("vae"), kl=KLConfig(), word_dropout=0.3, dropout=0.2)),
        ("dae", replace(sgd("dae"), corruption=CorruptionConfig(drop=0.2, swap=0.2))),
    ],
    ids=["overlapped", "alternating", "one batch", "lm", "vae", "dae"],
)
def test_parts_add_up_to_the_whole(system: str, model: Any, store: Path, tmp_path: Path) -> None:
    whole = trained(system, model, store, tmp_path / "whole")
    parts = trained(system, model, store, tmp_path / "parts", accumulate=4)
    assert (whole - parts).norm() < 1e-6 * whole.norm()
    # A run goes on with other parts than it was begun with.
    lvtrain.train(system, store, tmp_path / "parts", model=model, steps=7, batch_size=24, threads=1,
                  validate_every=0, checkpoint_every=3, tensorboard=False, accumulate=2,
                  resume="auto")  # fmt: skip


def test_a_batch_in_parts_that_are_not_equal_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--batch-size 24: .* multiple of --accumulate 5"):
        trained("lm", None, store, tmp_path / "run", accumulate=5)
    assert not (tmp_path / "run").exists()


def test_a_part_is_what_a_rank_of_its_own_would_have(store: Path) -> None:
    split = Store.open(store).split("train")
    (ours,) = [Batches(split, batch_size=24, seed=0, rank=1, world=2).at(3).part(2, 3)]
    theirs = Batches(split, batch_size=24, seed=0, rank=1 + 2 * 2, world=2 * 3).at(3)
    assert torch.equal(ours.tokens, theirs.tokens) and torch.equal(ours.lengths, theirs.lengths)
    assert ours.rows.tolist() == theirs.rows.tolist()
    assert float(ours.share) == pytest.approx(float(theirs.share))
