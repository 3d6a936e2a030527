"""What only a GPU shows of every operation: CUDA graphs, no waiting, streams, TorchInductor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from lvtrain.kernels import reference
from lvtrain.kernels.cross_entropy import linear_cross_entropy
from lvtrain.kernels.gradient_penalty import gradient_penalty
from lvtrain.kernels.lstm import embedding_lstm, lstm
from lvtrain.kernels.reparameterize import reparameterize, reparameterize_mixture

pytest.importorskip("triton")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings(
        "ignore:.*TF32", "ignore:TensorFloat32", "ignore:Synchronization debug mode"
    ),
]
DEVICE = "cuda"

Tensors = list[Tensor]
Work = tuple[Callable[..., tuple[Tensor, ...]], Tensors]
"""What gives outputs of tensors, and those; all that is drawn depends on the seed alone."""


def draw(seed: int, device: str) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        return drawn.to(device).requires_grad_()

    return normal


def of_lstm(seed: int, device: str) -> Work:
    normal = draw(seed, device)
    lengths = torch.tensor([5, 1, 3, 2, 5, 4], device=device)
    shapes = [(6, 5, 20), (132, 20), (132, 33), (132,), (6, 33), (6, 33)]
    return lambda *tensors: lstm(*tensors, lengths), [normal(*shape) for shape in shapes]


def of_embedding_lstm(seed: int, device: str) -> Work:
    normal = draw(seed, device)
    words = torch.tensor([[1, 2, 3, 1], [4, 1, 99, -1], [0, 2, 2, 5]], device=device)
    lengths = torch.tensor([4, 2, 3], device=device)

    def run(table: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return embedding_lstm(words, table, w_ih, w_hh, bias, lengths=lengths)

    return run, [normal(9, 12), normal(64, 12), normal(64, 16), normal(3, 64)]


def of_double_backward(seed: int, device: str) -> Work:
    layer, tensors = of_lstm(seed, device)

    def run(*given: Tensor) -> tuple[Tensor, ...]:
        outputs = layer(*given)
        score = sum(out.square().sum() for out in outputs)
        return torch.autograd.grad(score, given, create_graph=True)

    return run, tensors


def of_reparameterize(seed: int, device: str) -> Work:
    normal, noise = draw(seed, device), torch.tensor(3, device=device)
    run = lambda mu, logvar: reparameterize(mu, logvar, noise)  # noqa: E731
    return run, [normal(37, 33), normal(37, 33)]


def of_mixture(seed: int, device: str) -> Work:
    normal, noise = draw(seed, device), torch.tensor(3, device=device)

    def run(mu: Tensor, logvar: Tensor, *prior: Tensor) -> tuple[Tensor, ...]:
        return reparameterize_mixture(mu, logvar, noise, *prior)

    return run, [normal(37, 20), normal(37, 20), normal(3, 20), normal(3, 20), normal(3)]


def of_penalty(seed: int, device: str, norm: Callable[[int], nn.Module], act: nn.Module) -> Work:
    normal = draw(seed, device)
    layers = [nn.Linear(12, 40), norm(40), act, nn.Linear(40, 33), norm(33), act, nn.Linear(33, 1)]
    critic = nn.Sequential(*layers).to(device)
    weights = list(critic.parameters())
    with torch.no_grad():
        for weight in weights:
            weight.copy_(normal(*weight.shape))

    def run(points: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        return (gradient_penalty(critic, points, 3.0, 0.8),)

    return run, [normal(21, 12), *weights]


def of_cross_entropy(seed: int, device: str, reduction: str) -> Work:
    normal = draw(seed, device)
    target = torch.arange(17, device=device)
    target[[0, 5]] = -100

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return (linear_cross_entropy(x, weight, target, bias, 0.1, reduction=reduction),)

    return run, [normal(17, 12), normal(150, 12), normal(150)]


WORKS: dict[str, Callable[[int, str], Work]] = {
    "lstm": of_lstm,
    "embedding_lstm": of_embedding_lstm,
    "double backward": of_double_backward,
    "reparameterize": of_reparameterize,
    "mixture": of_mixture,
    "penalty, layer": lambda seed, device: of_penalty(seed, device, nn.LayerNorm, nn.Tanh()),
    "penalty, batch": lambda seed, device: of_penalty(seed, device, nn.BatchNorm1d, nn.ReLU()),
    "cross-entropy": lambda seed, device: of_cross_entropy(seed, device, "mean"),
    "cross-entropies": lambda seed, device: of_cross_entropy(seed, device, "none"),
}


def results(run: Callable[..., tuple[Tensor, ...]], tensors: Tensors) -> tuple[Tensor, ...]:
    """Outputs, and the gradients of the sum of their squares."""
    outputs = run(*tensors)
    total = torch.stack([out.square().sum() for out in outputs]).sum()
    grads = torch.autograd.grad(total, tensors, materialize_grads=True)
    return (*(out.detach() for out in outputs), *grads)


def agree(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@contextmanager
def waiting_forbidden() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", WORKS)
def test_the_host_waits_for_nothing(name):
    run, tensors = WORKS[name](0, DEVICE)
    results(run, tensors)
    with waiting_forbidden():
        results(run, tensors)


@pytest.mark.parametrize("name", WORKS)
def test_a_cuda_graph_gives_what_eager_does_for_other_values(name):
    run, tensors = WORKS[name](0, DEVICE)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            results(run, tensors)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = results(run, tensors)
    with torch.no_grad():
        for tensor, other in zip(tensors, WORKS[name](1, DEVICE)[1], strict=True):
            tensor.copy_(other)
    for _ in range(2):
        graph.replay()
        agree(captured, results(run, tensors))


@pytest.mark.parametrize("name", WORKS)
def test_a_stream_of_the_callers_is_kept_to(name):
    run, tensors = WORKS[name](0, DEVICE)
    expected = results(run, tensors)
    others = [t.detach().clone().requires_grad_() for t in tensors]
    late = [torch.zeros_like(t) for t in tensors]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side), torch.no_grad():
        # Work that another stream would not wait for: its values come late.
        room = torch.empty(2**28, dtype=torch.uint8, device=DEVICE)
        for _ in range(20):
            room.zero_()
        for tensor, value, other in zip(tensors, late, others, strict=True):
            value.copy_(other)
            tensor.zero_()
            tensor.copy_(value)
    with torch.cuda.stream(side):
        found = results(run, tensors)
    side.synchronize()
    agree(found, expected)


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("name", [name for name in WORKS if name != "double backward"])
def test_inductor_compiles_it_into_one_graph(name):
    run, tensors = WORKS[name](0, DEVICE)

    def loss(*given: Tensor) -> Tensor:
        return torch.stack([out.square().sum() for out in run(*(2 * t for t in given))]).sum()

    if name.startswith("penalty"):  # its weights are the critic's own

        def loss(*given: Tensor) -> Tensor:
            return run(2 * given[0], *given[1:])[0].square()

    expected = torch.autograd.grad(loss(*tensors), tensors, materialize_grads=True)
    compiled = torch.compile(loss, fullgraph=True)
    found = torch.autograd.grad(compiled(*tensors), tensors, materialize_grads=True)
    agree(found, expected)


def test_a_mixture_in_bfloat16_is_near_the_definition(monkeypatch):
    run, tensors = of_mixture(0, DEVICE)
    halves = [t.detach().bfloat16().requires_grad_() for t in tensors]
    zero = torch.zeros(37, 20, device=DEVICE)
    eps = reparameterize(zero, zero, torch.tensor(3, device=DEVICE))[0]
    monkeypatch.setattr(reference, "noise", lambda seed, shape, dtype, device, *_: eps.to(dtype))
    doubles = [t.detach().double().requires_grad_() for t in halves]
    found = results(run, halves)
    mu, logvar, *prior = doubles
    seed = torch.tensor(3, device=DEVICE)
    expected = results(
        lambda *_: reference.reparameterize_mixture(mu, logvar, seed, *prior), doubles
    )
    for a, b in zip(found, expected, strict=True):
        assert (a.double() - b).abs().max() < 3e-2 * b.abs().max()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", WORKS)
def test_tensors_of_another_gpu_are_computed_there(name):
    expected = results(*WORKS[name](0, "cuda:0"))
    found = results(*WORKS[name](0, "cuda:1"))
    assert all(t.device.index == 1 for t in found)
    agree(tuple(t.to("cuda:0") for t in found), expected)
