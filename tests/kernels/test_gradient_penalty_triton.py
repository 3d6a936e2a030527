"""The Triton passes of the gradient penalty: in the interpreter, or on a GPU where there is one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from lvtrain.kernels import dispatch, reference
from lvtrain.kernels import gradient_penalty as operation
from lvtrain.kernels.gradient_penalty import gradient_penalty
from lvtrain.kernels.gradient_penalty_layers import Pointwise

triton_kernels = pytest.importorskip("lvtrain.kernels.gradient_penalty_triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ACTIVATIONS = {"relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.2), "tanh": nn.Tanh}
NORMS = {
    "none": lambda width: [],
    "layer": lambda width: [nn.LayerNorm(width)],
    "layer-plain": lambda width: [nn.LayerNorm(width, elementwise_affine=False)],
    "batch": lambda width: [nn.BatchNorm1d(width)],
}


@pytest.fixture(autouse=True)
def by_triton():
    with dispatch.forced("triton"):
        yield


def points(batch: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, width, generator=generator).to(DEVICE)


def critic(activation: str, norm: str, width: int = 6, code: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    make, normalise = ACTIVATIONS[activation], NORMS[norm]
    model = nn.Sequential(
        nn.Linear(code, width),
        *normalise(width),
        make(),
        nn.Linear(width, width + 1, bias=False),
        *normalise(width + 1),
        make(),
        nn.Linear(width + 1, 1),
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7 * (6 / width) ** 0.5)
    return model.to(DEVICE)


def hold(
    model: nn.Module, x: Tensor, tolerance: float, per_sample: bool = True, of_points: bool = False
) -> None:
    """Compare with double backward in float64, the gradients to the largest of them all."""
    x = x.detach().requires_grad_(of_points)
    penalty = gradient_penalty(model, x, 3.0, 0.8, per_sample)
    wanted = [*([x] if of_points else []), *model.parameters()]
    found = torch.autograd.grad(penalty * 1.7, wanted)
    exact = copy.deepcopy(model).double()
    y = x.detach().double().requires_grad_()
    scores = exact(y)
    total = scores.sum() if per_sample else scores.mean()
    (gradient,) = torch.autograd.grad(total, y, create_graph=True)
    value = 3 * (reference.row_norm(gradient) - 0.8).square().mean()
    wanted = [*([y] if of_points else []), *exact.parameters()]
    expected = torch.autograd.grad(value * 1.7, wanted, materialize_grads=True)
    torch.testing.assert_close(penalty.double(), value, rtol=tolerance, atol=tolerance)
    largest = max(g.abs().max().item() for g in expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("per_sample", [True, False], ids=["per-sample", "batch-mean"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_agrees_with_double_backward(activation, norm, per_sample):
    hold(critic(activation, norm), points(7, 4), 1e-5, per_sample, of_points=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("activation", "norm"), [("leaky", "none"), ("tanh", "layer")])
def test_half_precision(activation, norm, dtype):
    model = critic(activation, norm).to(dtype)
    assert gradient_penalty(model, points(7, 4).to(dtype), 3.0).dtype == torch.float32
    hold(model, points(7, 4).to(dtype), 2e-2 if dtype == torch.float16 else 1e-1)


@pytest.mark.parametrize(
    ("batch", "code", "width", "norm"),
    [(1, 1, 1, "none"), (1, 5, 3, "layer"), (70, 3, 300, "none"), (70, 3, 40, "batch")],
)
def test_any_batch_and_width(batch, code, width, norm):
    hold(critic("leaky", norm, width, code), points(batch, code), 1e-5)


def test_rows_longer_than_a_tile():
    hold(critic("leaky", "none", 3, 1100), points(2, 1100), 1e-5)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_points_of_any_strides(norm):
    model = nn.Sequential(*NORMS[norm](4), nn.ReLU(), nn.Linear(4, 1)).to(DEVICE)
    hold(model, points(4, 6).T, 1e-5)
    hold(model, points(1, 4).expand(5, 4), 1e-5)


def test_a_linear_critic():
    hold(nn.Sequential(nn.Linear(4, 1)).to(DEVICE), points(5, 4), 1e-5)


def test_running_statistics_make_batch_normalisation_affine():
    model = critic("leaky", "batch")
    model(points(9, 4))
    hold(model.eval(), points(7, 4), 1e-5)


def test_rows_without_slope_give_finite_gradients():
    model = critic("relu", "none")
    nn.init.constant_(model[0].bias, -100.0)
    penalty = gradient_penalty(model, points(3, 4), 1e6)
    penalty.backward()
    assert penalty.item() == 1e6
    assert all(p.grad.abs().max() == 0 for p in model.parameters())


def test_the_same_bits_every_time():
    model, x = critic("tanh", "batch", 20), points(40, 4)

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(gradient_penalty(model, x, 3.0), list(model.parameters()))

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_multiplies_in_half_and_returns_single(kind):
    model, x = critic("leaky", "layer"), points(7, 4)
    with torch.autocast(DEVICE, kind):
        penalty = gradient_penalty(model, x, 3.0, 0.8)
    found = torch.autograd.grad(penalty, list(model.parameters()))
    expected = torch.autograd.grad(gradient_penalty(model, x, 3.0, 0.8), list(model.parameters()))
    largest = max(g.abs().max().item() for g in expected)
    assert penalty.dtype == torch.float32
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0.1 * largest)
    assert not torch.equal(found[0], expected[0])


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("full", [True, False], ids=["gain", "plain"])
def test_normalisation_over_several_tiles(dim, full):
    fused, plain = triton_kernels.Fused(), Pointwise()
    height, width = (3, 1100) if dim else (70, 20)
    v, t, w, a = (points(height + k, 2 * width)[:height, :width] for k in range(4))
    gain, bias = (a[0].contiguous(), v[0].contiguous()) if full else (None, None)
    results = []
    for pointwise, kind in ((fused, torch.float32), (plain, torch.float64)):
        v_, t_, w_, a_, gain_, bias_ = (
            None if s is None else s.to(kind) for s in (v, t, w, a, gain, bias)
        )
        out, z, inv = pointwise.normalise(a_, gain_, bias_, 1e-5, dim)
        pulled, _ = pointwise.project(v_, z, inv, gain_, None, dim)
        pushed, scaled = pointwise.project(t_, z, inv, None, gain_, dim)
        bend = pointwise.normalise_bend(
            v_, pulled, t_, pushed, w_ if full else None, z, inv, gain_, dim
        )
        results.append([out, z, inv.flatten(), pulled, pushed, scaled, *bend])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_compiles_into_one_graph():
    model, x = critic("tanh", "layer"), points(5, 4)

    def loss(x: Tensor) -> Tensor:
        return gradient_penalty(model, 2 * x, 3.0, 0.8) + model(x).mean()

    expected = torch.autograd.grad(loss(x), list(model.parameters()))
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(x), list(model.parameters()))
    torch.testing.assert_close(found, expected)


def test_torch_accepts_the_operation():
    model = critic("leaky", "batch")
    plan = operation._plan(model)
    slots = [k for k, t in enumerate(plan.tensors) if t is not None]
    tensors = [t for t in plan.tensors if t is not None]
    needs = [False, *(t is not None and t.requires_grad for t in plan.tensors)]
    torch.library.opcheck(
        operation._compiled,
        (points(5, 4), " ".join(plan.kinds), plan.constants, slots, tensors, needs, 3.0, 0.8, True),
    )


def test_a_second_derivative_is_refused():
    penalty = gradient_penalty(critic("tanh", "none"), points(3, 4), 1.0)
    with pytest.raises(RuntimeError, match="gradient_penalty can be differentiated once"):
        penalty.backward(create_graph=True)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_a_cuda_graph_holds_it_without_synchronising():
    model, x = critic("leaky", "none", 300, 300), points(64, 300)

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(gradient_penalty(model, x, 10.0), list(model.parameters()))

    for _ in range(3):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    x.copy_(points(64, 300).flip(0) / 2)
    graph.replay()
    torch.testing.assert_close(captured, step())
