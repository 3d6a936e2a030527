"""What the autoencoder shows the adversary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lvtrain.data.batches import Batches
from lvtrain.data.store import Store
from lvtrain.errors import NonFiniteLoss
from lvtrain.objectives.corruption import CorruptionConfig
from lvtrain.presets import TINY
from lvtrain.randomness import Key
from lvtrain.systems.autoencoder import Autoencoder, AutoencoderConfig, AutoencoderPlayer
from lvtrain.training.engine import TorchEngine

SMALL = replace(TINY.autoencoder, embedding=8, hidden=8, code=6)


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, corruption=CorruptionConfig(drop=0.2, shuffle=2.0)),
        replace(SMALL, layers=2, dropout=0.3),
    ],
    ids=["plain", "corrupted", "dropout"],
)
def test_batches_shown_together_have_the_codes_they_have_alone(
    store: Path, config: AutoencoderConfig
) -> None:
    split = Store.open(store).split("train")
    torch.manual_seed(0)
    model = Autoencoder(config, split.vocab_size)
    player = AutoencoderPlayer(model, TorchEngine("model", model, config.optimizer, 10))
    batches = [Batches(split, batch_size=8, seed=0).at(i) for i in (4, 9, 2)]
    key = Key(seed=0, step=3)
    for place, (batch, seen) in enumerate(zip(batches, player.show(batches, key), strict=True)):
        alone = player.propose(batch, key.fold("shown", place))["codes"]
        torch.testing.assert_close(seen["codes"], alone)
        assert not seen["codes"].requires_grad
    assert player.show([], key) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_of_two_terms_the_one_that_is_not_finite_is_named(store: Path, value: float) -> None:
    split = Store.open(store).split("train")
    torch.manual_seed(0)
    model = Autoencoder(SMALL, split.vocab_size)
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    player = AutoencoderPlayer(model, TorchEngine("model", model, SMALL.optimizer, 10))
    batch = Batches(split, batch_size=8, seed=0).at(0)
    codes = player.propose(batch, Key(seed=0, step=0))["codes"]
    player.decode()
    with pytest.raises(NonFiniteLoss, match="model: answer_norm is"):
        player.learn({"codes": torch.full_like(codes, value)})
    assert torch.equal(before, nn.utils.parameters_to_vector(model.parameters()))
