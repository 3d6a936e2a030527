"""The game of Zhao et al. 2018, piece by piece."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from lvtrain.config import OptimizerConfig
from lvtrain.modules.latent import on_sphere
from lvtrain.presets import REFERENCE, TINY
from lvtrain.randomness import Key
from lvtrain.systems.arae import ARAE, ARAEConfig, CodeAdversary
from lvtrain.training.engine import TorchEngine


def adversary(config: ARAEConfig) -> CodeAdversary:
    torch.manual_seed(0)
    arae = ARAE(config, 20)

    def engine(part: str, module: nn.Module, optimizer: OptimizerConfig) -> TorchEngine:
        return TorchEngine(part, module, optimizer, 100)

    return CodeAdversary(
        arae,
        engine("critic", arae.critic, config.critic.optimizer),
        engine("generator", arae.generator, config.generator.optimizer),
    )


def codes(n: int = 32) -> torch.Tensor:
    return on_sphere(torch.randn(n, TINY.autoencoder.code_size), TINY.autoencoder.radius)


def test_the_answer_is_each_rows_gradient_of_the_encoders_loss() -> None:
    player = adversary(TINY)
    c = codes().requires_grad_()
    (-TINY.answer_scale * player.arae.critic(c).sum()).backward()
    answer = player.answer({"codes": c.detach()})["codes"]
    torch.testing.assert_close(answer, c.grad)
    assert not answer.requires_grad


def test_the_generators_gradient_is_that_of_the_critics_mean_score() -> None:
    """Cutting the graph at the codes leaves the chain rule exact."""
    player = adversary(TINY)
    arae, key = player.arae, Key(seed=0, step=0)
    reference = {n: p.detach().clone() for n, p in arae.generator.named_parameters()}
    fake = arae.sample_codes(16, key.fold("noise"), torch.device("cpu"))
    expected = torch.autograd.grad(arae.critic(fake).mean(), list(arae.generator.parameters()))
    with torch.no_grad():
        for name, buffer in arae.generator.named_buffers():
            if "num_batches" not in name:
                buffer.fill_(1.0 if "var" in name else 0.0)
    found = {}
    for p in arae.generator.parameters():
        p.register_post_accumulate_grad_hook(lambda p: found.update({p: p.grad}))
    player.generate(16, key)
    for (name, p), gradient in zip(arae.generator.named_parameters(), expected, strict=True):
        torch.testing.assert_close(found[p], gradient, rtol=1e-4, atol=1e-7)
        assert gradient.abs().max() < 1e-9 or not torch.equal(p, reference[name])


def test_the_critic_learns_to_tell_codes_apart() -> None:
    player = adversary(TINY)
    real = {"codes": codes()}
    figures = [player.criticise(real, Key(seed=0, step=i)) for i in range(60)]
    assert figures[-1]["wasserstein"] > figures[0]["wasserstein"] + 0.05


def test_updating_the_critic_leaves_the_generator_alone_and_the_reverse() -> None:
    player = adversary(TINY)
    arae, key = player.arae, Key(seed=0, step=0)
    before = nn.utils.parameters_to_vector(arae.generator.parameters()).detach().clone()
    player.criticise({"codes": codes()}, key)
    assert torch.equal(before, nn.utils.parameters_to_vector(arae.generator.parameters()))
    before = nn.utils.parameters_to_vector(arae.critic.parameters()).detach().clone()
    player.generate(16, key)
    assert torch.equal(before, nn.utils.parameters_to_vector(arae.critic.parameters()))


def test_weight_clipping_bounds_every_weight() -> None:
    lipschitz = replace(TINY.critic.lipschitz, kind="clip", clip=0.01)
    player = adversary(replace(TINY, critic=replace(TINY.critic, lipschitz=lipschitz)))
    metrics = player.criticise({"codes": codes()}, Key(seed=0, step=0))
    assert "penalty" not in metrics
    assert all(p.abs().max() <= 0.01 for p in player.arae.critic.parameters())


def test_generated_codes_lie_where_real_ones_do() -> None:
    player = adversary(TINY)
    made = player.arae.sample_codes(8, Key(seed=0, step=0), torch.device("cpu"))
    radius = TINY.autoencoder.radius
    torch.testing.assert_close(made.norm(dim=1), torch.full((8,), radius))


def test_the_reference_preset_starts_with_the_small_codes_of_2018() -> None:
    """BatchNorm gains drawn from N(0, 0.02²): codes of norm about 0.06 where real ones have 1."""
    player = adversary(REFERENCE)
    made = player.arae.sample_codes(64, Key(seed=0, step=0), torch.device("cpu"))
    assert made.norm(dim=1).mean() < 0.1
