from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from lvtrain.kernels import dispatch, reference
from lvtrain.kernels.cross_entropy import linear_cross_entropy

kernels = pytest.importorskip("lvtrain.kernels.cross_entropy_triton")
rows = pytest.importorskip("lvtrain.kernels.cross_entropy_rows_triton")

WAYS = ["by rows, one chunk", "by rows, chunks", "by words"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # there in the interpreter
PRECISION = {torch.float32: 1e-5, torch.float16: 1e-2}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Each way over the logits, with tiles, chunks and blocks that leave a remainder."""
    take(request.param, monkeypatch)
    return request.param


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BLOCK", 64)
    if way == "by rows, chunks":  # 16 rows of 150 words and their padding
        monkeypatch.setattr(kernels, "CHUNK_BYTES", 16 * 192 * 4)
        monkeypatch.setattr(kernels, "LEAST_ROWS", 1)
    elif way == "by words":
        monkeypatch.setattr(kernels, "CHUNK_BYTES", 1)
        monkeypatch.setattr(kernels, "MOST_ROWS", 8)


@pytest.fixture(autouse=True)
def interpreter():
    with dispatch.forced("triton"):
        yield


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator).to(DEVICE, dtype).requires_grad_()


def targets(count: int, vocabulary: int) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(vocabulary, (count,), generator=generator).to(DEVICE)


def compare(x, weight, target, bias=None, cotangent=None, **options) -> None:
    """Hold loss and gradients to the definition in float64, by their largest element."""
    inputs = [t for t in (x, weight, bias) if t is not None and t.requires_grad]
    loss = linear_cross_entropy(x, weight, target, bias, **options)
    assert loss.dtype == x.dtype
    if cotangent is None:
        cotangent = torch.ones_like(loss) * 0.75
    found = (loss, *torch.autograd.grad(loss, inputs, cotangent))

    double = [None if t is None else t.detach().double() for t in (x, weight, bias)]
    for t, given in zip(double, (x, weight, bias), strict=True):
        if t is not None:
            t.requires_grad_(given.requires_grad)
    loss = reference.linear_cross_entropy(double[0], double[1], target, double[2], **options)
    leaves = [t for t in double if t is not None and t.requires_grad]
    expected = (loss, *torch.autograd.grad(loss, leaves, cotangent.double()))
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= PRECISION[x.dtype] * b.abs().max() + 1e-12


@pytest.mark.parametrize(
    ("reduction", "smoothing", "biased", "dtype"),
    [
        ("mean", 0.0, False, torch.float32),
        ("mean", 0.1, True, torch.float16),
        ("sum", 1.0, True, torch.float32),
        ("none", 0.0, True, torch.float16),
        ("none", 0.1, False, torch.float32),
    ],
)
def test_agrees_with_the_definition(way, reduction, smoothing, biased, dtype):
    x, weight, target = draw(18, 5, dtype=dtype), draw(150, 5, dtype=dtype), targets(18, 150)
    target[[0, 3, 17]] = -7
    bias = draw(150, dtype=dtype) if biased else None
    options = {"ignore_index": -7, "label_smoothing": smoothing, "reduction": reduction}
    compare(x, weight, target, bias, **options)


@pytest.mark.parametrize(
    ("count", "hidden", "vocabulary"), [(1, 1, 1), (1, 3, 17), (2, 1, 64), (9, 4, 65)]
)
def test_any_shape(way, count, hidden, vocabulary):
    x, weight = draw(count, hidden), draw(vocabulary, hidden)
    compare(x, weight, targets(count, vocabulary), draw(vocabulary))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_any_strides(way, reduction):
    x, weight, bias = draw(5, 9).T, draw(300, 5)[::2], draw(1).expand(150)
    target = targets(18, 150)[::2]
    cotangent = torch.ones((), device=DEVICE).expand(9) if reduction == "none" else None
    compare(x, weight, target, bias, cotangent, reduction=reduction)
    cotangent = torch.arange(18.0, device=DEVICE)[::2] if reduction == "none" else None
    compare(x, weight, target, bias, cotangent, reduction=reduction)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_huge_logits_stay_numbers(way, smoothing):
    x, weight = draw(3, 2), draw(150, 2)
    with torch.no_grad():
        x[:] = torch.tensor([[1e4, 0.0], [-1e4, 1.0], [1.0, 1e4]])
        weight[:3] = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
        weight.mul_(8).round_().div_(8).clamp_(-1, 1)  # in single the logits are then exact
    compare(x, weight, torch.tensor([0, 0, 1], device=DEVICE), label_smoothing=smoothing)


def test_an_impossible_word_has_no_gradient(way):
    x, weight, bias = draw(2, 3), draw(150, 3), torch.zeros(150, device=DEVICE)
    bias[[7, 90]] = -torch.inf
    compare(x, weight, torch.tensor([4, 149], device=DEVICE), bias)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_targets_ignored_give_no_gradient(way, reduction):
    x, weight, bias = draw(3, 2), draw(150, 2), draw(150)
    loss = linear_cross_entropy(
        x, weight, torch.full((3,), -100, device=DEVICE), bias, reduction=reduction
    )
    gradients = torch.autograd.grad(loss.sum(), [x, weight, bias])
    assert loss.isnan() if reduction == "mean" else not loss.any()
    assert all(not g.any() for g in gradients)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_rows_give_no_gradient(way, reduction):
    x, weight, target = draw(0, 2), draw(150, 2), targets(0, 150)
    loss = linear_cross_entropy(x, weight, target, reduction=reduction)
    dx, dw = torch.autograd.grad(loss.sum(), [x, weight])
    assert dx.shape == x.shape and not dw.any()


@pytest.mark.parametrize("wrong", [-1, 150, 2**40])
def test_a_target_out_of_range_makes_its_row_not_a_number(way, wrong):
    x, weight = draw(4, 3), draw(150, 3)
    target = torch.tensor([3, wrong, 149, -100], device=DEVICE)
    losses = kernels.linear_cross_entropy(x, weight, target, None, 0.0, -100, "none")
    (dx,) = torch.autograd.grad(losses.sum(), x)
    assert losses.isnan().tolist() == [False, True, False, False]
    assert dx.isnan().any(dim=1).tolist() == [False, True, False, False]
    mean = kernels.linear_cross_entropy(x, weight, target, None, 0.0, -100, "mean")
    (dx,) = torch.autograd.grad(mean, x)
    assert mean.isnan() and dx.isnan().any(dim=1).tolist() == [False, True, False, False]


def test_a_target_out_of_range_on_a_cpu_is_refused():
    with pytest.raises(ValueError, match=r"^target: expected 0\.\.4 or ignore_index -100, found 5"):
        linear_cross_entropy(torch.ones(1, 3), torch.ones(5, 3), torch.tensor([5]))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_only_the_gradients_asked_for_are_given(way, reduction):
    x, weight, bias, target = draw(6, 3), draw(20, 3), draw(20), targets(6, 20)
    for asked in itertools.product([False, True], repeat=3):
        if any(asked):
            some = [t if a else t.detach() for t, a in zip((x, weight, bias), asked, strict=True)]
            compare(some[0], some[1], target, some[2], reduction=reduction)


def test_without_a_graph_the_loss_is_the_same(way):
    x, weight, target = draw(5, 3), draw(150, 3), targets(5, 150)
    loss = linear_cross_entropy(x, weight, target)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(x, weight, target), loss)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_backward_gives_the_same_scaled(way, reduction):
    x, weight, target = draw(6, 3), draw(20, 3), targets(6, 20)
    loss = linear_cross_entropy(x, weight, target, reduction=reduction).sum()
    loss.backward(retain_graph=True)
    once = weight.grad.clone()
    weight.grad.mul_(0)  # what was given is the caller's own
    twice = torch.autograd.grad(2 * loss, [weight])
    assert torch.equal(2 * once, twice[0])


def test_float16_gradients_do_not_underflow_under_a_loss_scale(way):
    # dx is the gradient of word 0's logit, e^(0.5 − 16): three times the least number of float16.
    x = torch.full((1, 1), 0.5, dtype=torch.float16, device=DEVICE, requires_grad=True)
    weight, bias = x.new_zeros(150, 1), x.new_zeros(150)
    weight[0], bias[1] = 1, 16
    target = torch.ones(1, dtype=torch.int64, device=DEVICE)
    loss = linear_cross_entropy(x, weight, target, bias)
    (dx,) = torch.autograd.grad(loss * 2**12, x)
    assert dx.item() == pytest.approx(2**12 * math.exp(0.5 - 16), rel=1e-2)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_second_derivative_is_refused(reduction):
    x, weight = draw(3, 2), draw(4, 2)
    loss = linear_cross_entropy(x, weight, targets(3, 4), reduction=reduction).sum()
    with pytest.raises(RuntimeError, match="linear_cross_entropy can be differentiated once"):
        torch.autograd.grad(loss, x, create_graph=True)


def test_autocast_computes_in_half_and_gives_single():
    x, weight, bias, target = draw(6, 3), draw(20, 3), draw(20), targets(6, 20)
    with torch.autocast(DEVICE, torch.float16):
        loss = linear_cross_entropy(x, weight, target, bias)
        found = (loss, *torch.autograd.grad(loss, [x, weight, bias]))
    halves = [t.detach().half().float().requires_grad_() for t in (x, weight, bias)]
    loss = reference.linear_cross_entropy(halves[0], halves[1], target, halves[2])
    expected = (loss, *torch.autograd.grad(loss, halves))
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_the_operators_are_registered_in_full():
    check, ops = torch.library.opcheck, torch.ops.lvtrain
    x, weight, target = draw(3, 3), draw(17, 3), targets(3, 17)
    bias, some, all_ = draw(17), [True, True, False], [True, True, True]
    check(ops.cross_entropy_by_rows, (x, weight, target, bias, 0.1, -100, True, all_))
    check(ops.cross_entropy_losses, (x, weight, target, None, 0.1, -100, some))
    x, weight = x.detach(), weight.detach()
    losses, state = ops.cross_entropy_losses(x, weight, target, None, 0.1, -100, some)
    check(
        ops.cross_entropy_gradients,
        (losses, x, weight, target, None, state, 0.1, -100, some),
    )
    check(ops.cross_entropy_scale, (losses[0], [x, weight]))


@pytest.mark.parametrize(
    ("way", "reduction"), [("by rows, one chunk", "mean"), ("by words", "none")]
)
def test_it_compiles_without_a_break(way, reduction, monkeypatch):
    take(way, monkeypatch)
    x, weight, bias, target = draw(9, 3), draw(150, 3), draw(150), targets(9, 150)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        loss = kernels.linear_cross_entropy(x * 2, weight, target, bias, 0.1, -100, reduction)
        return loss.sum()

    counted = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(run, backend=counted, fullgraph=True)
    expected = torch.autograd.grad(run(x, weight, bias), [x, weight, bias])
    found = torch.autograd.grad(compiled(x, weight, bias), [x, weight, bias])
    assert counted.frame_count == 1
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("element_size", [2, 4])
@pytest.mark.parametrize("vocabulary", [1, 17, 11_004, 30_000, 128_256, 800_000])
@pytest.mark.parametrize("count", [1, 960, 7_680, 1_000_000])
def test_tiles_of_logits_fit_the_room(count, vocabulary, element_size):
    height, width = kernels.plan(count, vocabulary, element_size)
    stride = (width + 63) // 64 * 64
    assert 1 <= height <= count and 1 <= width <= vocabulary
    assert (height - 15) * stride * element_size <= kernels.CHUNK_BYTES
    if width < vocabulary:
        assert width % 64 == 0 and height == min(count, kernels.MOST_ROWS)


def full_size(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    x, weight = draw(7680, 512, dtype=dtype), draw(30_000, 512, dtype=dtype)
    with torch.no_grad():
        weight *= 0.05
    return x, weight, targets(7680, 30_000)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("words", [False, True], ids=["by-rows", "by-words"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_at_full_size_it_waits_for_nothing_and_is_captured(dtype, words, monkeypatch):
    if words:
        monkeypatch.setattr(kernels, "LEAST_ROWS", 10**9)
    x, weight, target = full_size(dtype)
    target[::7] = -100

    def step() -> tuple[Tensor, ...]:
        loss = linear_cross_entropy(x, weight, target, label_smoothing=0.1)
        return (loss, *torch.autograd.grad(loss, [x, weight]))

    double = [t.detach().double().requires_grad_() for t in (x, weight)]
    loss = reference.linear_cross_entropy(*double, target, label_smoothing=0.1)
    expected = (loss, *torch.autograd.grad(loss, double))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        graph = torch.cuda.CUDAGraph()
        eager = step()
        with torch.cuda.graph(graph):
            captured = step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph.replay()
    for found in (eager, captured):
        for a, b in zip(found, expected, strict=True):
            error = (a.double() - b).abs().max() / b.abs().max()
            assert error < (1e-4 if dtype == torch.float32 else 2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
def test_at_full_size_it_takes_little_memory():
    x, weight, target = full_size(torch.bfloat16)
    peaks = []
    for f in (reference.linear_cross_entropy, linear_cross_entropy):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        torch.autograd.grad(f(x, weight, target), [x, weight])
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] <= 0.15 * peaks[0]
