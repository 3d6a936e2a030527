from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lvtrain.kernels import reference
from lvtrain.kernels.gradient_penalty import _plan, gradient_penalty
from lvtrain.kernels.lstm import lstm

ACTIVATIONS = {"relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.2), "tanh": nn.Tanh}
NORMS = {
    "none": lambda width: [],
    "layer": lambda width: [nn.LayerNorm(width)],
    "layer-plain": lambda width: [nn.LayerNorm(width, elementwise_affine=False)],
    "layer-no-bias": lambda width: [nn.LayerNorm(width, bias=False)],
    "batch": lambda width: [nn.BatchNorm1d(width)],
    "batch-plain": lambda width: [nn.BatchNorm1d(width, affine=False)],
    "batch-untracked": lambda width: [nn.BatchNorm1d(width, track_running_stats=False)],
}


def points(batch: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randn(batch, width, generator=generator, dtype=torch.float64)


def critic(activation: str, norm: str, width: int = 6, code: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    make, normalise = ACTIVATIONS[activation], NORMS[norm]
    model = nn.Sequential(
        nn.Sequential(nn.Linear(code, width), *normalise(width), make()),
        nn.Linear(width, width + 1, bias=False),
        *normalise(width + 1),
        make(),
        nn.Linear(width + 1, 1),
    ).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.7)
    model(points(9, code))
    return model


def expected(model: nn.Module, x: Tensor, per_sample: bool) -> tuple[Tensor, list[Tensor]]:
    """Double backward through autograd, the points' own gradient included."""
    x = x.clone().requires_grad_()
    scores = model(x)
    total = scores.sum() if per_sample else scores.mean()
    (gradient,) = torch.autograd.grad(total, x, create_graph=True)
    penalty = 3 * (gradient.norm(dim=1) - 0.8).square().mean()
    return penalty, torch.autograd.grad(
        penalty * 1.7, [x, *model.parameters()], materialize_grads=True
    )


@pytest.mark.parametrize("per_sample", [True, False], ids=["per-sample", "batch-mean"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_agrees_with_double_backward(activation, norm, training, per_sample):
    model = critic(activation, norm).train(training)
    assert _plan(model) is not None
    x = points(7, 4).requires_grad_()
    penalty = gradient_penalty(model, x, 3.0, 0.8, per_sample)
    found = torch.autograd.grad(penalty * 1.7, [x, *model.parameters()])
    value, gradients = expected(model, x.detach(), per_sample)
    torch.testing.assert_close(penalty, value, rtol=1e-10, atol=1e-12)
    for a, b in zip(found, gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batch", [1, 2, 33])
@pytest.mark.parametrize("sizes", [(4, 1), (1, 1, 1), (4, 5, 3, 2, 1)], ids=str)
def test_any_depth_and_width(sizes, batch):
    layers: list[nn.Module] = []
    torch.manual_seed(0)
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.Tanh()]
    model = nn.Sequential(*layers[:-1]).double()
    x = points(batch, sizes[0])
    penalty = gradient_penalty(model, x, 3.0, 0.8)
    found = torch.autograd.grad(penalty * 1.7, list(model.parameters()))
    value, gradients = expected(model, x, per_sample=True)
    torch.testing.assert_close(penalty, value)
    for a, b in zip(found, gradients[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_parameters_by_finite_differences():
    model = critic("tanh", "batch")
    names = [name for name, _ in model.named_parameters()]
    x = points(5, 4)

    def run(*values: Tensor) -> Tensor:
        with torch.no_grad():
            for name, value in zip(names, values, strict=True):
                model.get_parameter(name).copy_(value)
        return reference.gradient_penalty(model, x, 2.0)

    penalty = gradient_penalty(model, x, 2.0)
    gradients = torch.autograd.grad(penalty, list(model.parameters()))
    values = [p.detach().clone() for p in model.parameters()]
    step = 1e-6
    for k, gradient in enumerate(gradients):
        direction = torch.randn_like(values[k])
        ahead, behind = (
            run(*(v + s * step * direction if j == k else v for j, v in enumerate(values)))
            for s in (1, -1)
        )
        torch.testing.assert_close(
            ((ahead - behind) / (2 * step)).detach(),
            (gradient * direction).sum(),
            rtol=1e-6,
            atol=1e-8,
        )


def test_a_layer_used_twice_gets_both_gradients():
    torch.manual_seed(0)
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), nn.Linear(4, 1)).double()
    x = points(5, 4)
    found = torch.autograd.grad(gradient_penalty(model, x, 3.0, 0.8), list(model.parameters()))
    _, gradients = expected(model, x, per_sample=True)
    for a, b in zip(found, gradients[1:], strict=True):
        torch.testing.assert_close(a * 1.7, b)


def test_frozen_parameters_get_no_gradient():
    model = critic("tanh", "layer")
    _, gradients = expected(model, points(5, 4), per_sample=True)
    model[0][0].weight.requires_grad_(False)
    gradient_penalty(model, points(5, 4), 3.0, 0.8).backward()
    assert model[0][0].weight.grad is None
    torch.testing.assert_close(model[1].weight.grad * 1.7, gradients[5])


@pytest.mark.parametrize("kind", ["closed form", "autograd"])
def test_running_statistics_are_left_alone(kind):
    model = critic("relu", "batch")
    if kind == "autograd":
        model = nn.Sequential(model, nn.Flatten(0))
        assert _plan(model) is None
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert before
    gradient_penalty(model, points(5, 4), 1.0).backward()
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


class Squared(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square().sum(dim=1)


@pytest.mark.parametrize(
    "model",
    [
        Squared(),
        nn.Sequential(nn.Linear(4, 3), nn.GELU(), nn.Linear(3, 1)).double(),
        nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double(),
        nn.Sequential(nn.Linear(4, 2)).double(),
        nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Linear(3, 1)).double(),
        nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 1)
        ).double(),
    ],
    ids=["own-module", "gelu", "no-linear-end", "two-scores", "dropout", "spectral-norm"],
)
def test_any_other_critic_goes_through_autograd(model):
    assert _plan(model) is None
    penalty = gradient_penalty(model, points(3, 4), 1.0)
    if list(model.parameters()):
        penalty.backward()
    assert penalty.isfinite()


def test_a_hook_is_honoured():
    model = critic("tanh", "none")
    model[1].register_forward_hook(lambda module, args, out: out * 2)
    x = points(5, 4)
    value, _ = expected(model, x, per_sample=True)
    torch.testing.assert_close(gradient_penalty(model, x, 3.0, 0.8), value)


@pytest.mark.parametrize("weight", [2.0, 1e300])
@pytest.mark.parametrize("end", [nn.Linear(6, 1), nn.Sequential(nn.Linear(6, 1), nn.Flatten())])
def test_a_gradient_of_zero_gives_finite_gradients(end, weight):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), end).double().requires_grad_(True)
    model.zero_grad()
    nn.init.constant_(model[0].bias, -100.0)
    penalty = gradient_penalty(model, points(3, 4), weight)
    penalty.backward()
    assert penalty.item() == pytest.approx(weight)
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())


def test_without_a_graph_the_value_is_the_same():
    model = critic("leaky", "batch")
    with_graph = gradient_penalty(model, points(5, 4), 2.0)
    with torch.no_grad():
        without = gradient_penalty(model, points(5, 4), 2.0)
    assert torch.equal(with_graph, without) and not without.requires_grad


def test_single_precision_stays_near_double():
    model = critic("leaky", "batch", width=64, code=32)
    _, gradients = expected(model, points(64, 32), per_sample=True)
    single = model.float()
    penalty = gradient_penalty(single, points(64, 32).float(), 3.0, 0.8) * 1.7
    for a, b in zip(
        torch.autograd.grad(penalty, list(single.parameters())), gradients[1:], strict=True
    ):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max() + 1e-7


class Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("activation", ["relu", "leaky"])
def test_a_piecewise_linear_critic_takes_eight_products(activation):
    model = critic(activation, "none")
    with Products() as products:
        gradient_penalty(model, points(5, 4), 2.0).backward()
    assert products.count == 8


@pytest.mark.parametrize("requires_grad", [False, True])
def test_compiles_into_one_graph(requires_grad):
    model = critic("tanh", "batch")

    def loss(x: Tensor) -> Tensor:
        return gradient_penalty(model, 2 * x, 3.0, 0.8) + model(x).mean()

    x = points(5, 4).requires_grad_(requires_grad)
    wanted = [*([x] if requires_grad else []), *model.parameters()]
    expected = torch.autograd.grad(loss(x), wanted)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(x), wanted), expected)


def test_a_compiled_penalty_refuses_a_second_derivative():
    model = critic("tanh", "none")
    compiled = torch.compile(lambda x: gradient_penalty(model, x, 1.0), backend="eager")
    with pytest.raises(RuntimeError, match="gradient_penalty can be differentiated once"):
        compiled(points(3, 4)).backward(create_graph=True)


def test_autocast_multiplies_in_half_and_returns_single():
    model, x = critic("leaky", "layer").float(), points(7, 4).float()
    with torch.autocast("cpu", torch.bfloat16):
        penalty = gradient_penalty(model, x, 3.0, 0.8)
    found = torch.autograd.grad(penalty, list(model.parameters()))
    expected = torch.autograd.grad(gradient_penalty(model, x, 3.0, 0.8), list(model.parameters()))
    largest = max(g.abs().max().item() for g in expected)
    assert penalty.dtype == torch.float32
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0, atol=0.1 * largest)


def test_of_what_autocast_leaves_in_single_nothing_is_rounded():
    """A recurrent critic's sweep is in single on a CPU, and so is its slope."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.Parameter(torch.randn(8, 3)), nn.Parameter(torch.randn(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            y, _, _ = lstm(x.view(len(x), -1, 3), *self.weights, torch.zeros(8))
            return y.square().sum((1, 2))

    torch.manual_seed(0)
    model, x = Recurrent(), points(5, 6).float()
    expected = gradient_penalty(model, x, 3.0)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient_penalty(model, x, 3.0)
    assert torch.equal(found, expected)
    for a, b in zip(
        *(torch.autograd.grad(p, model.weights) for p in (found, expected)), strict=True
    ):
        assert torch.equal(a, b)


def test_a_second_derivative_is_refused():
    model = critic("tanh", "none")
    penalty = gradient_penalty(model, points(3, 4), 1.0)
    with pytest.raises(RuntimeError, match="gradient_penalty can be differentiated once"):
        penalty.backward(create_graph=True)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4).double(), "x: expected floats of shape [B, C]"),
        (torch.zeros(0, 4).double(), "x: expected floats of shape [B, C]"),
        (torch.zeros(2, 4).long(), "x: expected floats of shape [B, C]"),
        (torch.zeros(2, 3).double(), "x: expected shape [B, 4], found [2, 3]"),
        (torch.zeros(2, 4), "x: expected torch.float64 on cpu like the critic"),
    ],
)
def test_a_wrong_argument_is_named(x, message):
    with pytest.raises(ValueError) as raised:
        gradient_penalty(critic("relu", "none"), x, 1.0)
    assert str(raised.value).startswith(message)
