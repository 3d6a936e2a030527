from __future__ import annotations

import pytest
import torch

from lvtrain.kernels import reference
from lvtrain.kernels.reparameterize import reparameterize


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


SEED = torch.tensor(2**40 + 7)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 33)], ids=str)
@pytest.mark.parametrize("chosen", [(0, 1), (0,), (1,)], ids=["both", "sample", "kl"])
def test_agrees_with_the_definition(shape, chosen):
    inputs = [draw(*shape), draw(*shape, seed=1)]
    ours, theirs = (f(*inputs, SEED) for f in (reparameterize, reference.reparameterize))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    cotangents = [torch.randn_like(ours[k]) for k in chosen]
    found, expected = (
        torch.autograd.grad([out[k] for k in chosen], inputs, cotangents, materialize_grads=True)
        for out in (ours, theirs)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_gradients_by_finite_differences():
    inputs = [draw(3, 2), draw(3, 2, seed=1)]
    assert torch.autograd.gradcheck(lambda mu, logvar: reparameterize(mu, logvar, SEED), inputs)


def test_any_strides():
    mu, logvar = draw(5, 3).T, draw(1, 5).expand(3, 5)
    for f in (reparameterize, reference.reparameterize):
        z, kl = f(mu, logvar, SEED)
        z.sum().backward(retain_graph=True)
        kl.mean().backward()
    ours, theirs = (f(mu, logvar, SEED) for f in (reparameterize, reference.reparameterize))
    found, expected = (
        torch.autograd.grad(out[0].sum() + out[1].mean(), [mu, logvar]) for out in (ours, theirs)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_seed_decides_the_noise():
    mu, logvar = draw(4, 3), draw(4, 3, seed=1)
    z, _ = reparameterize(mu, logvar, SEED)
    assert torch.equal(z, reparameterize(mu, logvar, SEED.clone())[0])
    assert not torch.equal(z, reparameterize(mu, logvar, SEED + 1)[0])


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    z, _ = reparameterize(draw(4, 3), draw(4, 3, seed=1), SEED)
    z.sum().backward()
    assert torch.equal(before, torch.get_rng_state())


def test_the_divergence_of_the_prior_from_itself_is_zero():
    zero = torch.zeros(2, 3)
    _, kl = reparameterize(zero, zero, SEED)
    assert torch.equal(kl, zero)


def test_a_small_divergence_keeps_its_precision():
    logvar = torch.full((1, 1), 1e-3)
    _, kl = reparameterize(torch.zeros(1, 1), logvar, SEED)
    torch.testing.assert_close(kl.item(), 2.5008335e-07, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu": torch.zeros(3)}, "mu: expected shape [B, Z], found [3]"),
        ({"mu": torch.zeros(2, 3, dtype=torch.long)}, "mu: expected a floating-point tensor"),
        ({"logvar": torch.zeros(2, 4)}, "logvar: expected shape [2, 3], found [2, 4]"),
        ({"logvar": torch.zeros(2, 3).double()}, "logvar: expected torch.float32"),
        ({"seed": torch.tensor(1.0)}, "seed: expected one int64"),
        ({"seed": torch.tensor([1, 2])}, "seed: expected one int64"),
        ({"seed": 3}, "seed: expected one int64"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    given = {"mu": torch.zeros(2, 3), "logvar": torch.zeros(2, 3), "seed": SEED} | change
    with pytest.raises(ValueError) as raised:
        reparameterize(**given)
    assert str(raised.value).startswith(message)
