from __future__ import annotations

import pytest
import torch
from torch import nn

from lvtrain.config import OptimizerConfig
from lvtrain.errors import NonFiniteLoss
from lvtrain.randomness import Key
from lvtrain.training.engine import TorchEngine
from lvtrain.training.watch import Watch

CONFIGS = [
    OptimizerConfig(kind="adam", lr=0.1),
    OptimizerConfig(kind="sgd", lr=0.1, clip=0.5),
    OptimizerConfig(kind="adam", lr=0.1, clip=0.5, betas=(0.5, 0.9)),
]


def at(step: int) -> Key:
    return Key(seed=0, step=step)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))


def update(engine: TorchEngine, step: int) -> float | None:
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
    engine.backward(10 * engine.module(x).square().mean(), at(step))
    return norm_of(engine.step(at(step)))


def norm_of(figures: dict[str, torch.Tensor]) -> float | None:
    assert figures.keys() <= {"gradient_norm"}
    return figures["gradient_norm"].item() if figures else None


@pytest.mark.parametrize("config", CONFIGS)
def test_an_update_is_that_of_torchs_own_optimiser(config: OptimizerConfig) -> None:
    engine, module = TorchEngine("m", network(), config, 10), network()
    optimizer = (
        torch.optim.Adam(module.parameters(), lr=config.lr, betas=config.betas)
        if config.kind == "adam"
        else torch.optim.SGD(module.parameters(), lr=config.lr)
    )
    for step in range(5):
        norm = update(engine, step)
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (10 * module(x).square().mean()).backward()
        if config.clip:
            expected = nn.utils.clip_grad_norm_(module.parameters(), config.clip)
            assert norm == pytest.approx(expected.item(), rel=1e-4)
        else:
            assert norm is None, "it was not measured"
        optimizer.step()
    for ours, theirs in zip(engine.module.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip", [0.0, 0.01, 1e6])
def test_a_sparse_gradient_moves_the_weights_as_the_dense_one_does(clip: float) -> None:
    words = torch.tensor([[3, 3, 1], [7, 3, 0]])
    norms, tables = [], []
    for sparse in (False, True):
        torch.manual_seed(0)
        table = nn.Embedding(9, 4, sparse=sparse)
        config = OptimizerConfig(kind="sgd", lr=0.5, clip=clip)
        engine = TorchEngine("m", table, config, 10)
        for step in range(3):
            engine.backward(table(words).exp().sum(), at(step))
            norms.append(norm_of(engine.step(at(step))))
        tables.append(table.weight.detach())
    assert norms == [None] * 6 if not clip else norms[:3] == pytest.approx(norms[3:], rel=1e-6)
    torch.testing.assert_close(*tables)


@pytest.mark.parametrize("config", CONFIGS)
def test_state_holds_all_that_the_next_update_needs(config: OptimizerConfig) -> None:
    one = TorchEngine("m", network(), config, 10)
    update(one, 0)
    saved = {name: tensor.clone() for name, tensor in one.state().items()}
    two = TorchEngine("m", nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)), config, 10)
    two.load(saved)
    for step in (1, 2):
        update(one, step)
        update(two, step)
    other = two.state()
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.state().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_nonfinite_loss_is_refused_before_the_update(value: float) -> None:
    engine = TorchEngine("critic", network(), CONFIGS[0], 10)
    before = nn.utils.parameters_to_vector(engine.module.parameters()).clone()
    with pytest.raises(NonFiniteLoss, match="critic: loss is"):
        engine.backward(engine.module(torch.ones(1, 4)).sum() * value, at(0))
    assert torch.equal(before, nn.utils.parameters_to_vector(engine.module.parameters()))


def test_a_nonfinite_gradient_is_refused_before_the_update() -> None:
    engine = TorchEngine("model", network(), CONFIGS[1], 10)
    before = nn.utils.parameters_to_vector(engine.module.parameters()).clone()
    # √x has an infinite slope at 0 and a finite value.
    engine.backward((engine.module(torch.ones(1, 4)) * 0).sum().abs().sqrt(), at(0))
    with pytest.raises(NonFiniteLoss, match="model: gradient norm is"):
        engine.step(at(0))
    assert torch.equal(before, nn.utils.parameters_to_vector(engine.module.parameters()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"module.0.weight": torch.zeros(3, 5)}, r"0.weight: expected \[3, 4\], found \[3, 5\]"),
        ({"module.9.weight": torch.zeros(1)}, r"9.weight: expected nothing, found \[1\]"),
        ({"module.0.weight": None}, r"0.weight: expected \[3, 4\], found nothing"),
    ],
    ids=["shape", "unknown", "missing"],
)
def test_another_modules_state_is_refused_and_changes_nothing(
    change: dict[str, torch.Tensor | None], said: str
) -> None:
    engine = TorchEngine("m", network(), CONFIGS[0], 10)
    before = {name: tensor.clone() for name, tensor in engine.state().items()}
    state = {n: torch.zeros_like(t) for n, t in before.items()} | change
    with pytest.raises(ValueError, match=said):
        engine.load({name: tensor for name, tensor in state.items() if tensor is not None})
    assert all(torch.equal(engine.state()[name], before[name]) for name in before)


@pytest.mark.parametrize("config", CONFIGS)
def test_an_engine_that_reads_nothing_back_updates_alike(config: OptimizerConfig) -> None:
    waiting = TorchEngine("m", network(), config, 10)
    free = TorchEngine("m", network(), config, 10, Watch(deferred=True))
    for step in range(5):
        assert update(free, step) == pytest.approx(update(waiting, step))
        free.check()
    for ours, theirs in zip(free.parameters, waiting.parameters, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("config", CONFIGS)
def test_after_a_deferred_loss_that_is_not_finite_no_engine_moves(config: OptimizerConfig) -> None:
    watch = Watch(deferred=True)
    first = TorchEngine("first", network(), config, 10, watch)
    second = TorchEngine("second", network(), config, 10, watch)
    update(first, 0)
    before = [p.detach().clone() for p in first.parameters]
    first.backward(first.module(torch.full((1, 4), torch.inf)).sum() * 0, at(1))
    first.step(at(1))
    for engine in (second, first):
        update(engine, 2)
    for engine, were in ((first, before), (second, list(network().parameters()))):
        for now, then in zip(engine.parameters, were, strict=True):
            assert torch.equal(now, then)
    with pytest.raises(NonFiniteLoss, match="first: loss is nan") as caught:
        second.check()
    assert caught.value.step == 1
