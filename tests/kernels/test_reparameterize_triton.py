"""The Triton kernels against the definition: in the interpreter, or on a GPU where there is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lvtrain.kernels import dispatch, reference
from lvtrain.kernels.reparameterize import reparameterize, reparameterize_mixture

triton_kernels = pytest.importorskip("lvtrain.kernels.reparameterize_triton")
mixture_kernels = pytest.importorskip("lvtrain.kernels.reparameterize_mixture_triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SEED = torch.tensor(2**40 + 7, device=DEVICE)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def by_triton():
    with dispatch.forced("triton"):
        yield


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, dtype)


def noise(height: int, width: int, seed: Tensor = SEED, **place: int) -> Tensor:
    zero = torch.zeros(height, width, device=DEVICE)
    return reparameterize(zero, zero, seed, **place)[0]


def philox(seed: int, counter: tuple[int, int]) -> list[int]:
    """Philox4x32-10 of Salmon et al. 2011, with the counter's upper words 0."""
    word = 2**32 - 1
    key = [seed & word, seed >> 32 & word]
    c = [*counter, 0, 0]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ key[0], b & word, a >> 32 ^ c[3] ^ key[1], a & word]
        key = [key[0] + 0x9E3779B9 & word, key[1] + 0xBB67AE85 & word]
    return c


def test_philox_gives_the_published_words():
    assert [f"{w:08x}" for w in philox(0, (0, 0))] == "6627e8d5 e169c58d bc57ac4c 9b00dbd8".split()


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1, -(2**63)])
def test_the_noise_is_box_muller_of_philox(seed):
    found = noise(6, 3, torch.tensor(seed, device=DEVICE))
    for row in range(6):
        for column in range(3):
            words = philox(seed, (column, row // 4))
            first, second = words[:2] if row % 4 < 2 else words[2:]
            radius = math.sqrt(-2 * math.log((first + 0.5) / 2**32))
            angle = 2 * math.pi * ((second & 0x3FFFFFFF) / 2**32 - 1 / 8)
            pair = [math.cos(angle), math.sin(angle)]
            if second >> 31:
                pair.reverse()
            sign = -1 if second >> 30 & 1 else 1
            assert found[row, column].item() == pytest.approx(
                sign * radius * pair[row % 2], rel=1e-5, abs=1e-6
            )


def test_the_noise_is_standard_normal():
    e = noise(512, 64).double().cpu().flatten()
    n = len(e)
    moments = [e.mean(), e.square().mean() - 1, e.pow(3).mean(), e.pow(4).mean() - 3]
    # Within four standard errors of the mean, the variance, the skewness and the kurtosis.
    for moment, variance in zip(moments, (1, 2, 15, 96), strict=True):
        assert abs(moment.item()) < 4 * math.sqrt(variance / n)
    below = torch.special.ndtr(e.sort().values).numpy()
    steps = np.arange(n + 1) / n
    distance = max((steps[1:] - below).max(), (below - steps[:-1]).max())
    assert distance < 1.95 / math.sqrt(n)  # Kolmogorov–Smirnov at 0.1 %


def test_elements_are_uncorrelated():
    e = noise(128, 64).double()
    for a, b in ((e[1:], e[:-1]), (e[4:], e[:-4]), (e[:, 1:], e[:, :-1])):
        assert abs((a * b).mean().item()) < 4 / math.sqrt(a.numel())


def test_seeds_that_differ_in_any_bits_give_other_noise():
    seeds = [0, 1, 2**31, 2**32, 2**32 + 1, 2**62, -1]
    drawn = torch.stack([noise(32, 32, torch.tensor(s, device=DEVICE)) for s in seeds])
    drawn = drawn.flatten(1).double()
    correlation = (drawn @ drawn.T / drawn.shape[1]).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / math.sqrt(drawn.shape[1])


def test_the_noise_depends_on_the_place_alone():
    whole = noise(40, 130)
    assert torch.equal(noise(7, 33), whole[:7, :33])
    zero = torch.zeros(33, 7, device=DEVICE).T
    assert torch.equal(reparameterize(zero, zero, SEED)[0], whole[:7, :33])


@pytest.mark.parametrize("world", [2, 3, 4, 8])
def test_ranks_together_draw_what_one_process_does(world):
    whole = noise(7 * world, 33)
    for rank in range(world):
        assert torch.equal(noise(7, 33, rank=rank, world=world), whole[rank::world])


@pytest.mark.parametrize("world", [1, 3])
def test_backward_draws_the_noise_of_forward(world):
    logvar = torch.zeros(9, 40, device=DEVICE, requires_grad=True)
    place = {"rank": world - 1, "world": world}
    z, _ = reparameterize(torch.zeros(9, 40, device=DEVICE), logvar, SEED, **place)
    (dlogvar,) = torch.autograd.grad(z.sum(), logvar)
    assert torch.equal(2 * dlogvar, z.detach())


def with_noise(monkeypatch: pytest.MonkeyPatch, eps: Tensor) -> None:
    """Let the definition take the kernels' noise."""
    monkeypatch.setattr(reference, "noise", lambda seed, shape, dtype, device, *_: eps.to(dtype))


def laid_out(layout: str, dtype: torch.dtype, *shape: int) -> list[Tensor]:
    """μ and log σ² as different modules leave them."""
    if layout == "whole":
        return [draw(*shape, dtype=dtype), draw(*shape, seed=1, dtype=dtype)]
    if layout == "halves":
        return list(draw(shape[0], 2 * shape[1], dtype=dtype).chunk(2, dim=1))
    return [draw(*shape[::-1], dtype=dtype).T, draw(1, shape[1], dtype=dtype).expand(shape)]


def agree(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)


def compare(
    shape: tuple[int, int], layout: str, dtype: torch.dtype, chosen: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Hold the outputs, and the gradients through ``chosen`` of them, to the definition's."""
    inputs = [t.requires_grad_() for t in laid_out(layout, dtype, *shape)]
    with_noise(monkeypatch, noise(*shape))
    ours = reparameterize(*inputs, SEED)
    assert [t.dtype for t in ours] == [dtype, torch.float32]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    theirs = reference.reparameterize(*exact, SEED)
    agree(list(ours), list(theirs), TOLERANCE[dtype])
    # A gradient of stride 0, as a sum gives, and one of a transposed consumer.
    along = [draw(1, 1, dtype=dtype).expand(shape), draw(*shape[::-1], seed=2).T]
    found = torch.autograd.grad([ours[k] for k in chosen], inputs, [along[k] for k in chosen])
    expected = torch.autograd.grad(
        [theirs[k] for k in chosen], exact, [along[k].double() for k in chosen],
        materialize_grads=True,
    )  # fmt: skip
    agree(list(found), list(expected), TOLERANCE[dtype])


@pytest.mark.parametrize("chosen", [(0, 1), (0,), (1,)], ids=["both", "sample", "kl"])
@pytest.mark.parametrize(
    ("shape", "layout", "dtype"),
    [
        ((1, 1), "whole", torch.float32),
        ((1, 300), "halves", torch.float16),
        ((5, 3), "transposed", torch.float32),
        ((9, 64), "whole", torch.bfloat16),
        ((37, 33), "halves", torch.float32),
        ((37, 33), "transposed", torch.float16),
    ],
    ids=str,
)
def test_agrees_with_the_definition(shape, layout, dtype, chosen, monkeypatch):
    compare(shape, layout, dtype, chosen, monkeypatch)


@pytest.mark.parametrize("large", [0, 10**9], ids=["large", "small"])
def test_many_programs_agree_with_the_definition(large, monkeypatch):
    monkeypatch.setattr(triton_kernels, "LARGE", large)
    compare((33, 130), "halves", torch.float32, (0, 1), monkeypatch)


def sampled(f, chosen, mu, logvar, prior, **place) -> list[Tensor]:
    """z, KL and every gradient through those of them that are chosen."""
    outputs = f(mu, logvar, SEED, *prior, **place)
    loss = sum(outputs[k].square().sum() for k in chosen)
    inputs = [mu, logvar, *prior]
    return [*outputs, *torch.autograd.grad(loss, inputs, materialize_grads=True)]


@pytest.mark.parametrize("chosen", [(0, 1), (0,)], ids=["both", "sample"])
@pytest.mark.parametrize(("rows", "world", "large"), [(5, 3, 10**9), (17, 2, 0)], ids=str)
@pytest.mark.parametrize("f", [reparameterize, reparameterize_mixture])
def test_ranks_together_sample_what_one_process_does(f, rows, world, large, chosen, monkeypatch):
    monkeypatch.setattr(triton_kernels, "LARGE", large)
    prior = mixture(3, 20) if f is reparameterize_mixture else []
    prior = [t.requires_grad_() for t in prior]
    inputs = [t.requires_grad_() for t in laid_out("halves", torch.float32, rows * world, 20)]
    whole = sampled(f, chosen, *inputs, prior)
    of_prior = [torch.zeros_like(t) for t in prior]
    for rank in range(world):
        own = [t[rank::world].detach().requires_grad_() for t in inputs]
        found = sampled(f, chosen, *own, prior, rank=rank, world=world)
        for a, b in zip(found[:4], whole[:4], strict=True):
            torch.testing.assert_close(a, b[rank::world], rtol=1e-6, atol=1e-6)
        of_prior = [total + t for total, t in zip(of_prior, found[4:], strict=True)]
    for a, b in zip(of_prior, whole[4:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_small_divergence_keeps_its_precision():
    logvar = torch.tensor([[1e-3, -1e-3, 0.49, -0.51]], device=DEVICE, requires_grad=True)
    _, kl = reparameterize(torch.zeros_like(logvar), logvar, SEED)
    (dlogvar,) = torch.autograd.grad(kl.sum(), logvar)
    exact = logvar.detach().double()
    expected = (torch.expm1(exact) - exact) / 2
    torch.testing.assert_close(kl.double(), expected, rtol=3e-6, atol=0)
    torch.testing.assert_close(dlogvar.double(), torch.expm1(exact) / 2, rtol=3e-6, atol=0)


def test_extreme_variances_stay_finite():
    logvar = torch.tensor([[-200.0, -80.0, 80.0]], device=DEVICE, requires_grad=True)
    z, kl = reparameterize(torch.ones_like(logvar), logvar, SEED)
    (dlogvar,) = torch.autograd.grad(z.sum() + kl.sum(), logvar)
    assert z.isfinite().all() and kl.isfinite().all() and dlogvar.isfinite().all()


def mixture(components: int, width: int) -> list[Tensor]:
    return [draw(components, width, seed=3), draw(components, width, seed=4), draw(components)]


@pytest.mark.parametrize("chosen", [(0, 1), (0,), (1,)], ids=["both", "sample", "kl"])
@pytest.mark.parametrize(
    ("shape", "components", "layout", "dtype"),
    [
        ((1, 1), 1, "whole", torch.float32),
        ((5, 3), 2, "transposed", torch.float32),
        ((3, 300), 2, "halves", torch.float16),
        ((35, 20), 3, "halves", torch.float32),
    ],
    ids=str,
)
def test_mixture_agrees_with_the_definition(shape, components, layout, dtype, chosen, monkeypatch):
    inputs = [t.requires_grad_() for t in laid_out(layout, dtype, *shape)]
    prior = [t.requires_grad_() for t in mixture(components, shape[1])]
    with_noise(monkeypatch, noise(*shape))
    ours = reparameterize_mixture(*inputs, SEED, *prior)
    assert [t.dtype for t in ours] == [dtype, torch.float32]
    exact = [t.detach().double().requires_grad_() for t in (*inputs, *prior)]
    theirs = reference.reparameterize_mixture(*exact[:2], SEED, *exact[2:])
    scale = shape[1] ** 0.5  # of the sums over a row
    agree([ours[0], ours[1] / scale], [theirs[0], theirs[1] / scale], 4 * TOLERANCE[dtype])
    along = [draw(shape[1], shape[0]).T.to(dtype), draw(1, seed=2).expand(shape[0])]
    found = torch.autograd.grad(
        [ours[k] for k in chosen], [*inputs, *prior], [along[k] for k in chosen],
        materialize_grads=True,
    )  # fmt: skip
    expected = torch.autograd.grad(
        [theirs[k] for k in chosen], exact, [along[k].double() for k in chosen],
        materialize_grads=True,
    )  # fmt: skip
    for a, b in zip(found, expected, strict=True):
        bound = 4 * TOLERANCE[dtype] * (1 + b.abs().max().item())
        torch.testing.assert_close(a.double(), b, rtol=0, atol=bound)


def test_a_component_of_weight_zero_takes_no_part():
    inputs, prior = laid_out("whole", torch.float32, 3, 4), mixture(3, 4)
    prior[2][0] = -math.inf
    z, kl = reparameterize_mixture(*inputs, SEED, *prior)
    without = reparameterize_mixture(*inputs, SEED, *(t[1:] for t in prior))
    torch.testing.assert_close((z, kl), without)


def test_the_sample_is_the_same_against_either_prior():
    inputs = laid_out("whole", torch.float32, 6, 4)
    z, _ = reparameterize_mixture(*inputs, SEED, *mixture(2, 4))
    torch.testing.assert_close(z, reparameterize(*inputs, SEED)[0], rtol=1e-6, atol=1e-6)


def test_gradients_of_the_prior_are_the_same_every_time():
    inputs = [
        t.requires_grad_() for t in (*laid_out("whole", torch.float32, 40, 5), *mixture(2, 5))
    ]

    def gradients() -> tuple[Tensor, ...]:
        z, kl = reparameterize_mixture(*inputs[:2], SEED, *inputs[2:])
        return torch.autograd.grad(z.sum() + kl.sum(), inputs)

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


def test_torch_accepts_the_operations():
    inputs = [t.requires_grad_() for t in laid_out("halves", torch.float32, 3, 4)]
    prior = [t.requires_grad_() for t in mixture(2, 4)]
    for place in ((0, 1), (1, 3)):
        torch.library.opcheck(triton_kernels.sample, (*inputs, SEED, *place))
        torch.library.opcheck(mixture_kernels.sample_mixture, (*inputs, SEED, *prior, *place))


@pytest.mark.parametrize("place", [{}, {"rank": 1, "world": 3}], ids=["whole", "rank"])
def test_compiles_into_one_graph(place):
    mu, logvar = (t.requires_grad_() for t in laid_out("whole", torch.float32, 3, 4))
    prior = [t.requires_grad_() for t in mixture(2, 4)]

    def loss(mu: Tensor, logvar: Tensor) -> Tensor:
        z, kl = reparameterize(2 * mu, logvar, SEED, **place)
        w, more = reparameterize_mixture(mu, logvar, SEED, *prior, **place)
        return (z * w).sum() + kl.sum() + more.sum()

    inputs = [mu, logvar, *prior]
    expected = torch.autograd.grad(loss(mu, logvar), inputs)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(mu, logvar), inputs), expected)


@pytest.mark.parametrize("f", [reparameterize, reparameterize_mixture])
def test_a_second_derivative_is_refused(f):
    inputs = [t.requires_grad_() for t in laid_out("whole", torch.float32, 2, 3)]
    prior = mixture(2, 3) if f is reparameterize_mixture else []
    z, kl = f(*inputs, SEED, *prior)
    with pytest.raises(RuntimeError, match=f"{f.__name__} can be differentiated once"):
        (z.sum() + kl.sum()).backward(create_graph=True)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_a_cuda_graph_draws_anew_when_the_seed_is_changed():
    mu, logvar = (t.requires_grad_() for t in laid_out("whole", torch.float32, 64, 32))
    seed = SEED.clone()

    def step() -> tuple[Tensor, ...]:
        z, kl = reparameterize(mu, logvar, seed)
        return z, *torch.autograd.grad(z.square().sum() + kl.sum(), [mu, logvar])

    for _ in range(3):
        step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for value in (1, 2):
        seed.fill_(value)
        graph.replay()
        torch.testing.assert_close(captured, step(), rtol=0, atol=0)
