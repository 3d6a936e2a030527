"""Ranks that share a batch compute what one process does with all of it, whatever is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lvtrain.config import OptimizerConfig
from lvtrain.data.batches import Batches
from lvtrain.data.store import Store
from lvtrain.objectives.corruption import CorruptionConfig
from lvtrain.objectives.divergence import KLConfig
from lvtrain.presets import preset
from lvtrain.randomness import Key
from lvtrain.systems import entry
from lvtrain.training.engine import TorchEngine

SMALL = {"embedding": 8, "hidden": 8, "layers": 2, "dropout": 0.3}
# Free bits are of the mean over a rank's rows: they would tell ranks apart, without any noise.
KL = KLConfig(anneal="none", free_bits=0.0)
NOISE = CorruptionConfig(drop=0.2, blank=0.1, swap=0.2, shuffle=2.0)


class Kept(TorchEngine):
    """Keeps the loss and the gradients instead of updating by them."""

    def backward(self, loss: Tensor, key: Key, terms: Mapping[str, Tensor] | None = None) -> None:
        super().backward(loss, key, terms)
        self.loss = loss.detach()

    def step(self, key: Key) -> dict[str, Tensor]:
        return {}


def played(store: Path, system: str, changes: dict, rank: int, world: int) -> list[Tensor]:
    """The loss of one rank and its gradients, in double precision."""
    split = Store.open(store).split("train")
    config = replace(preset(system, "tiny")[0], **SMALL | changes)
    torch.manual_seed(0)
    built: nn.Module = entry(system).load()[1](config, split.vocab_size).double()
    engines: list[Kept] = []

    def engine(name: str, module: nn.Module, optimizer: OptimizerConfig) -> Kept:
        engines.append(Kept(name, module, optimizer, 10))
        return engines[-1]

    batches = Batches(split, batch_size=12, seed=0, rank=rank, world=world)
    built.game(engine).iterate(batches, Key(seed=0, step=7, rank=rank, world=world))  # type: ignore[operator]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in built.parameters()]
    return [engines[0].loss, *(g.to_dense() if g.is_sparse else g for g in gradients)]


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(
    ("system", "changes"),
    [
        ("lm", {}),
        ("lm", {"sampled_softmax": 40, "tied": True, "optimizer": OptimizerConfig(kind="sgd")}),
        ("ae", {"code": 6}),
        ("dae", {"corruption": NOISE, "optimizer": OptimizerConfig(kind="sgd")}),
        ("vae", {"latent": 5, "kl": KL, "sampled_softmax": 20}),
        ("vae", {"latent": 5, "kl": KL, "components": 3}),
    ],
    ids=["lm", "lm-sampled", "ae", "dae", "vae", "vae-mixture"],
)
def test_the_mean_over_ranks_is_the_loss_and_gradient_of_the_whole_batch(
    store: Path, system: str, changes: dict, world: int
) -> None:
    whole = played(store, system, changes, 0, 1)
    ranks = [played(store, system, changes, rank, world) for rank in range(world)]
    for of_ranks, expected in zip(zip(*ranks, strict=True), whole, strict=True):
        mean = torch.stack(of_ranks).mean(0)
        torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-12)
