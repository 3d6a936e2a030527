from __future__ import annotations

import pytest
import torch

from lvtrain.kernels import reference
from lvtrain.kernels.reparameterize import reparameterize, reparameterize_mixture


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


def mixture(components: int, width: int) -> list[torch.Tensor]:
    return [draw(components, width, seed=2), draw(components, width, seed=3), draw(components)]


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 33)], ids=str)
@pytest.mark.parametrize("components", [1, 4])
@pytest.mark.parametrize("chosen", [(0, 1), (0,), (1,)], ids=["both", "sample", "kl"])
def test_mixture_agrees_with_the_definition(shape, components, chosen):
    inputs = [draw(*shape), draw(*shape, seed=1), *mixture(components, shape[1])]
    ours, theirs = (
        f(*inputs[:2], SEED, *inputs[2:])
        for f in (reparameterize_mixture, reference.reparameterize_mixture)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    cotangents = [torch.randn_like(ours[k]) for k in chosen]
    found, expected = (
        torch.autograd.grad([out[k] for k in chosen], inputs, cotangents, materialize_grads=True)
        for out in (ours, theirs)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_mixture_gradients_by_finite_differences():
    inputs = [draw(3, 2), draw(3, 2, seed=1), *mixture(3, 2)]
    assert torch.autograd.gradcheck(
        lambda mu, logvar, *prior: reparameterize_mixture(mu, logvar, SEED, *prior), inputs
    )


def test_a_single_standard_component_costs_what_the_normal_prior_does_on_average():
    mu, logvar = 0.3 * draw(1, 6), 0.3 * draw(1, 6, seed=1)
    _, exact = reparameterize(mu, logvar, SEED)
    standard = [torch.zeros(1, 6), torch.zeros(1, 6), torch.zeros(1)]
    _, estimates = reparameterize_mixture(
        mu.expand(20_000, 6), logvar.expand(20_000, 6), SEED, *standard
    )
    error = estimates.std() / len(estimates) ** 0.5
    assert (estimates.mean() - exact.sum()).abs() < 4 * error


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_keeps_the_divergence_single(dtype):
    inputs = [t.detach().to(dtype).requires_grad_() for t in (draw(3, 5), draw(3, 5, seed=1))]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    prior = [t.detach().float() for t in mixture(2, 5)]
    for f, rest in ((reparameterize, ()), (reparameterize_mixture, prior)):
        z, kl = f(*inputs, SEED, *rest)
        assert z.dtype == dtype and kl.dtype == torch.float32
        # The definition at the noise of float32, which z = μ + σ ε shows.
        eps = f(*(t.float() * 0 for t in inputs), SEED, *rest)[0].double()
        w = exact[0] + (exact[1] / 2).exp() * eps
        torch.testing.assert_close(z.double(), w, rtol=1e-2, atol=1e-2)
        found = torch.autograd.grad(z.sum(), inputs)
        expected = torch.autograd.grad(w.sum(), exact)
        for a, b in zip(found, expected, strict=True):
            assert a.dtype == dtype
            torch.testing.assert_close(a.double(), b, rtol=1e-2, atol=1e-2)
    mu, logvar = exact
    expected_kl = (mu.square() + logvar.exp() - 1 - logvar) / 2
    kl = reparameterize(*inputs, SEED)[1]
    torch.testing.assert_close(kl.double(), expected_kl, rtol=1e-5, atol=1e-6)


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


def sampled(f, mu, logvar, prior, **place) -> list[torch.Tensor]:
    """z, KL and every gradient."""
    z, kl = f(mu, logvar, SEED, *prior, **place)
    return [z, kl, *torch.autograd.grad(z.square().sum() + kl.sum(), [mu, logvar, *prior])]


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("f", [reparameterize, reparameterize_mixture])
def test_ranks_together_sample_what_one_process_does(f, rows, world):
    prior = mixture(3, 7) if f is reparameterize_mixture else []
    inputs = [draw(rows * world, 7), draw(rows * world, 7, seed=1)]
    whole = sampled(f, *inputs, prior)
    of_prior = [torch.zeros_like(t) for t in prior]
    for rank in range(world):
        own = [t[rank::world].detach().requires_grad_() for t in inputs]
        found = sampled(f, *own, prior, rank=rank, world=world)
        for a, b in zip(found[:4], whole[:4], strict=True):
            torch.testing.assert_close(a, b[rank::world], rtol=1e-12, atol=1e-12)
        of_prior = [total + t for total, t in zip(of_prior, found[4:], strict=True)]
    for a, b in zip(of_prior, whole[4:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("f", ["reparameterize", "reparameterize_mixture"])
def test_a_rank_agrees_with_the_definition(f):
    prior = mixture(2, 5) if f == "reparameterize_mixture" else []
    inputs = [draw(4, 5), draw(4, 5, seed=1)]
    ours, theirs = (
        sampled(function, *inputs, prior, rank=1, world=3)
        for function in (globals()[f], getattr(reference, f))
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


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


@pytest.mark.parametrize("f", [reparameterize, reparameterize_mixture])
def test_a_second_derivative_is_refused(f):
    prior = mixture(2, 3) if f is reparameterize_mixture else []
    z, kl = f(draw(2, 3), draw(2, 3, seed=1), SEED, *prior)
    with pytest.raises(RuntimeError, match=f"{f.__name__} can be differentiated once"):
        (z.sum() + kl.sum()).backward(create_graph=True)


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
        ({"seed": SEED.to("meta")}, "seed: expected a tensor on cpu like mu, found meta"),
        ({"rank": 1}, "rank: expected 0 ≤ rank < world = 1, found 1"),
        ({"rank": -1, "world": 2}, "rank: expected 0 ≤ rank < world = 2, found -1"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    given = {"mu": torch.zeros(2, 3), "logvar": torch.zeros(2, 3), "seed": SEED} | change
    with pytest.raises(ValueError) as raised:
        reparameterize(**given)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu": torch.zeros(3)}, "mu: expected shape [B, Z], found [3]"),
        ({"seed": 3}, "seed: expected one int64"),
        ({"rank": 2, "world": 2}, "rank: expected 0 ≤ rank < world = 2, found 2"),
        ({"component_logit": torch.zeros(0)}, "component_logit: expected shape [K], K ≥ 1"),
        ({"component_mean": torch.zeros(2, 4)}, "component_mean: expected shape [2, 3], found"),
        ({"component_logvar": torch.zeros(3, 3)}, "component_logvar: expected shape [2, 3], found"),
        (
            {"component_mean": torch.zeros(2, 3, dtype=torch.long)},
            "component_mean: expected a floating-point tensor on cpu like mu, found torch.int64",
        ),
        (
            {"component_logit": torch.zeros(2, device="meta")},
            "component_logit: expected a floating-point tensor on cpu like mu, found",
        ),
    ],
)
def test_a_wrong_argument_of_the_mixture_is_named(change, message):
    given = {"mu": torch.zeros(2, 3), "logvar": torch.zeros(2, 3), "seed": SEED}
    given |= {"component_mean": torch.zeros(2, 3), "component_logvar": torch.zeros(2, 3)}
    given |= {"component_logit": torch.zeros(2)} | change
    with pytest.raises(ValueError) as raised:
        reparameterize_mixture(**given)
    assert str(raised.value).startswith(message)
