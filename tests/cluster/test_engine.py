"""DeepSpeed behind the seam, against plain torch: two networks, the penalty, clipping, states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lvtrain.cluster.batch_norm import over_the_group
from lvtrain.cluster.engine import DeepSpeedEngine
from lvtrain.config import OptimizerConfig
from lvtrain.data.batches import Batches
from lvtrain.evaluation.sentences import FlatSplit
from lvtrain.kernels.gradient_penalty import gradient_penalty
from lvtrain.randomness import Key
from lvtrain.systems.language_model import LanguageModel, LanguageModelConfig
from lvtrain.training.engine import Engine, TorchEngine
from lvtrain.training.watch import Watch
from tests.cluster.ranks import on_ranks

STEPS, ROWS, WIDTH = 6, 8, 5
ADAM = OptimizerConfig(lr=1e-2, clip=0.05)
ZERO = [0, 1, 2]


def networks() -> tuple[nn.Sequential, nn.Sequential]:
    """An encoder and a critic, without kinks: a rounding stays a rounding."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, WIDTH))
    critic = nn.Sequential(nn.Linear(WIDTH, 11), nn.Tanh(), nn.Linear(11, 1))
    return encoder, critic


def play(
    encoder: nn.Module, critic: nn.Sequential, engines: dict[str, Engine], first: int, last: int,
    rank: int = 0, world: int = 1,
) -> None:  # fmt: skip
    """Two players: the critic under the penalty, the encoder by the critic's answer."""
    for step in range(first, last):
        key = Key(seed=0, step=step)
        draw = torch.Generator().manual_seed(step)
        words, fake = (torch.randn(ROWS, n, generator=draw)[rank::world] for n in (7, WIDTH))
        codes = encoder(words)
        seen = codes.detach()
        score = critic(seen).mean() - critic(fake).mean()
        engines["critic"].backward(score + gradient_penalty(critic, (seen + fake) / 2, 10.0), key)
        engines["critic"].step(key)
        points = seen.requires_grad_()
        (answer,) = torch.autograd.grad(critic(points).sum(), points)
        loss = codes.square().mean() - (codes * answer).sum(dim=1).mean()
        engines["encoder"].backward(loss, key)
        engines["encoder"].step(key)


def deepspeed(modules: dict[str, nn.Module], zero: int, config: OptimizerConfig) -> dict[str, Any]:
    watch = Watch(deferred=False)
    return {n: DeepSpeedEngine(n, m, config, STEPS, zero, watch) for n, m in modules.items()}


def arrays(state: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy().copy() for name, tensor in state.items()}


def trained(
    rank: int, world: int, zero: int, config: OptimizerConfig, first: int, last: int, found: Any
) -> dict[str, dict[str, np.ndarray]]:
    encoder, critic = networks()
    engines = deepspeed({"encoder": encoder, "critic": critic}, zero, config)
    for name, state in (found or {}).items():
        engines[name].load({key: torch.from_numpy(value) for key, value in state.items()})
    play(encoder, critic, engines, first, last, rank, world)
    return {name: arrays(engine.state()) for name, engine in engines.items()}


def plain(config: OptimizerConfig) -> dict[str, dict[str, np.ndarray]]:
    encoder, critic = networks()
    engines: dict[str, Engine] = {
        name: TorchEngine(name, module, config, STEPS)
        for name, module in (("encoder", encoder), ("critic", critic))
    }
    play(encoder, critic, engines, 0, STEPS)
    return {name: arrays(engine.state()) for name, engine in engines.items()}


def assert_near(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-6) -> None:
    for part, state in expected.items():
        assert found[part].keys() == state.keys()
        for name, value in state.items():
            error = np.linalg.norm(found[part][name] - value)
            assert error <= tolerance * np.linalg.norm(value) + 1e-12, (part, name, error)


@pytest.mark.parametrize("zero", ZERO)
@pytest.mark.parametrize("config", [ADAM, OptimizerConfig(kind="sgd", lr=0.1, clip=0.05)],
                         ids=["adam", "sgd"])  # fmt: skip
def test_two_players_with_penalty_and_clipping_are_those_of_plain_torch(
    zero: int, config: OptimizerConfig
) -> None:
    ranks = on_ranks(2, trained, zero, config, 0, STEPS, None)
    assert_near(ranks[0], plain(config))
    for part, state in ranks[0].items():
        for name, value in state.items():
            assert np.array_equal(value, ranks[1][part][name]), f"ranks differ in {part} {name}"


def _sampled(rank: int, world: int, zero: int | None) -> dict[str, np.ndarray]:
    """A language model with a sampled softmax, whose one table has sparse gradients alone."""
    torch.manual_seed(0)
    config = LanguageModelConfig(
        embedding=8, hidden=8, tied=True, sampled_softmax=20,
        optimizer=OptimizerConfig(kind="sgd", lr=0.5, clip=0.1),
    )  # fmt: skip
    model = LanguageModel(config, 60)
    engine: Engine = TorchEngine("model", model, config.optimizer, STEPS)
    if zero is not None:
        engine = deepspeed({"model": model}, zero, config.optimizer)["model"]
    words = torch.randint(4, 60, (40, 5), generator=torch.Generator().manual_seed(0))
    split = FlatSplit.of(words.tolist())
    batches = Batches(split, batch_size=ROWS, seed=0, rank=rank, world=world)
    game = model.game(lambda *_: engine)
    for step in range(STEPS):
        game.iterate(batches, Key(seed=0, step=step, rank=rank, world=world))
    return arrays(engine.state())


@pytest.mark.parametrize("zero", [0, 1])
def test_a_sampled_softmax_on_two_ranks_is_that_of_one(zero: int) -> None:
    ranks = on_ranks(2, _sampled, zero)
    assert_near({"model": ranks[0]}, {"model": _sampled(0, 1, None)})


def test_a_state_goes_on_at_another_stage_and_number_of_ranks() -> None:
    whole = on_ranks(2, trained, 1, ADAM, 0, STEPS, None)[0]
    half = on_ranks(2, trained, 2, ADAM, 0, STEPS // 2, None)[0]
    again = on_ranks(2, trained, 1, ADAM, STEPS // 2, STEPS, half)[0]
    for part, state in whole.items():
        assert all(np.array_equal(value, again[part][name]) for name, value in state.items())
    assert_near(on_ranks(1, trained, 0, ADAM, STEPS // 2, STEPS, half)[0], whole)


def _refusals(rank: int, world: int, zero: int) -> list[str]:
    _, critic = networks()
    engine = deepspeed({"critic": critic}, zero, ADAM)["critic"]
    key, said = Key(seed=0, step=0), []
    engine.backward(critic(torch.ones(2, WIDTH)).mean(), key)
    try:
        engine.backward(critic(torch.ones(2, WIDTH)).mean(), key)
    except RuntimeError as error:
        said.append(str(error))
    engine.step(key)
    try:
        engine.backward(critic[0](torch.ones(2, WIDTH)).mean(), key)
    except RuntimeError as error:
        said.append(str(error))
    return said


@pytest.mark.parametrize("zero", ZERO)
def test_what_deepspeed_gets_wrong_is_refused(zero: int) -> None:
    twice, *parts = on_ranks(1, _refusals, zero)[0]
    assert twice == "critic: one backward a step: this is the second"
    # Stage 0 leaves parameters that no gradient reached as they are.
    assert parts == ([f"critic: ZeRO {zero} cannot update some parameters alone"] if zero else [])


def _normalised(rank: int, world: int) -> list[np.ndarray]:
    torch.manual_seed(0)
    norm = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    over_the_group(norm)
    x = torch.randn(12, 3)[rank::world].requires_grad_()
    for _ in range(2):
        y = norm(x)
    (y.square() * torch.arange(4)).sum().backward()
    return [t.detach().numpy() for t in (y, x.grad, *norm[1].buffers()) if t is not None]


def test_batch_normalisation_takes_the_rows_of_all_ranks() -> None:
    torch.manual_seed(0)
    norm = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    x = torch.randn(12, 3).requires_grad_()
    for _ in range(2):
        y = norm(x)
    (y.square() * torch.arange(4)).sum().backward()
    assert x.grad is not None
    ranks = on_ranks(2, _normalised)
    for rank, (rows, gradient, mean, var, batches) in enumerate(ranks):
        np.testing.assert_allclose(rows, y.detach()[rank::2], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradient, x.grad[rank::2], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mean, norm[1].running_mean, rtol=1e-6)
        np.testing.assert_allclose(var, norm[1].running_var, rtol=1e-6)
        assert batches == 2
