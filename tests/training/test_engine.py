"""An engine's update is the textbook's, whatever passes it saves."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvtrain.config import OptimizerConfig
from lvtrain.training.engine import NonFiniteLoss, TorchEngine


class Table(nn.Module):
    """A table of embeddings, some of whose rows are read, and a layer on top."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sparse = sparse
        self.table = nn.Parameter(torch.randn(9, 4))
        self.layer = nn.Linear(4, 1)

    def loss(self) -> Tensor:
        words = torch.tensor([[3, 3, 1], [7, 3, 0]])
        return self.layer(F.embedding(words, self.table, sparse=self.sparse)).exp().sum()


@pytest.mark.parametrize("clip", [0.0, 0.01, 1e6])
@pytest.mark.parametrize("sparse", [False, True])
def test_sgd_clips_and_steps_as_torch_does_on_dense_gradients(clip: float, sparse: bool) -> None:
    module, expected = Table(sparse), Table(False)
    engine = TorchEngine("model", module, OptimizerConfig(kind="sgd", lr=0.5, clip=clip), 10)
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.5)
    for step in range(3):
        engine.backward(module.loss())
        norm = engine.step(step)
        optimizer.zero_grad()
        expected.loss().backward()
        if clip:
            total = nn.utils.clip_grad_norm_(expected.parameters(), clip)
            assert norm == pytest.approx(total.item(), rel=1e-6)
        optimizer.step()
        for mine, other in zip(module.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("clip", [0.0, 0.01])
def test_adam_clips_and_steps_as_torch_does(clip: float) -> None:
    module, expected = Table(False), Table(False)
    config = OptimizerConfig(lr=0.1, betas=(0.5, 0.9), clip=clip)
    engine = TorchEngine("model", module, config, 10)
    optimizer = torch.optim.Adam(expected.parameters(), lr=0.1, betas=(0.5, 0.9))
    for step in range(3):
        engine.backward(module.loss())
        engine.step(step)
        optimizer.zero_grad()
        expected.loss().backward()
        if clip:
            nn.utils.clip_grad_norm_(expected.parameters(), clip)
        optimizer.step()
        for mine, other in zip(module.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(mine, other)


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    module = Table(True)
    engine = TorchEngine("model", module, OptimizerConfig(kind="sgd", lr=1.0, clip=1.0), 10)
    before = [p.detach().clone() for p in module.parameters()]
    with torch.no_grad():
        module.layer.bias.fill_(1000.0)
    with pytest.raises(NonFiniteLoss, match="model: loss is inf"):
        engine.backward(module.loss())
    engine.backward(module.layer.weight.sum())
    assert module.layer.weight.grad is not None
    module.layer.weight.grad[0, 0] = math.nan
    with pytest.raises(NonFiniteLoss, match="gradient norm is nan"):
        engine.step(0)
    assert torch.equal(module.table, before[0]) and torch.equal(module.layer.weight, before[1])
