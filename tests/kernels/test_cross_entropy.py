from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lvtrain.kernels import cross_entropy_tiled, reference
from lvtrain.kernels.cross_entropy import linear_cross_entropy


def draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def targets(count: int, vocabulary: int) -> Tensor:
    return torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(count))


def compare(x, weight, target, bias=None, cotangent=None, **options) -> None:
    inputs = [t for t in (x, weight, bias) if t is not None and t.requires_grad]
    results = []
    for f in (linear_cross_entropy, reference.linear_cross_entropy):
        loss = f(x, weight, target, bias, **options)
        if cotangent is None:
            generator = torch.Generator().manual_seed(1)
            cotangent = torch.randn(loss.shape, generator=generator, dtype=loss.dtype)
        results.append((loss, *torch.autograd.grad(loss, inputs, cotangent)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.fixture(params=["whole", "tiled"])
def tiling(request, monkeypatch):
    """Both one chunk of one tile, and several of each with a remainder."""
    if request.param == "tiled":
        monkeypatch.setitem(cross_entropy_tiled.CHUNK_BYTES, "cpu", 3 * 50 * 8)
        monkeypatch.setattr(cross_entropy_tiled, "LEAST_ROWS", 1)
        monkeypatch.setitem(cross_entropy_tiled.TILE_BYTES, "cpu", 3 * 16 * 8)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("ignored", [False, True], ids=["all", "some-ignored"])
@pytest.mark.parametrize("biased", [False, True], ids=["no-bias", "bias"])
def test_agrees_with_the_definition(tiling, biased, ignored, smoothing, reduction):
    target = targets(11, 50)
    if ignored:
        target[[0, 3, 10]] = -7
    compare(
        draw(11, 5),
        draw(50, 5),
        target,
        draw(50) if biased else None,
        label_smoothing=smoothing,
        ignore_index=-7,
        reduction=reduction,
    )


@pytest.mark.parametrize(
    ("count", "hidden", "vocabulary"), [(1, 1, 1), (1, 3, 17), (7, 1, 2), (40, 4, 33)]
)
def test_any_shape(tiling, count, hidden, vocabulary):
    compare(
        draw(count, hidden), draw(vocabulary, hidden), targets(count, vocabulary), draw(vocabulary)
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_by_finite_differences(reduction):
    target = torch.tensor([3, -100, 0, 3])

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear_cross_entropy(x, weight, target, bias, 0.2, reduction=reduction)

    assert torch.autograd.gradcheck(run, (draw(4, 3), draw(5, 3), draw(5)))


def test_any_strides():
    x, weight, bias = draw(5, 9).T, draw(100, 5)[::2], draw(1).expand(50)
    target = targets(18, 50)[::2]
    compare(x, weight, target, bias, cotangent=torch.ones(()).double())
    ones = torch.ones((), dtype=torch.float64).expand(9)
    compare(x, weight, target, bias, cotangent=ones, reduction="none")


@pytest.mark.parametrize("biased", [False, True], ids=["no-bias", "bias"])
def test_a_hopeless_target_costs_precision_nothing(biased):
    x = torch.tensor([[400.0, 0.0], [1.0, 1.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]], requires_grad=True)
    bias = torch.tensor([0.0, 1.0, 0.0]) if biased else None
    target = torch.tensor([2, 1])
    found, expected = (
        torch.autograd.grad(f(x, weight, target, bias), [x, weight])
        for f in (linear_cross_entropy, reference.linear_cross_entropy)
    )
    torch.testing.assert_close(
        linear_cross_entropy(x, weight, target, bias),
        reference.linear_cross_entropy(x, weight, target, bias),
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_only_the_gradients_asked_for_are_given():
    x, weight, bias, target = draw(6, 3), draw(20, 3), draw(20), targets(6, 20)
    for k in range(3):
        some = [t if j == k else t.detach() for j, t in enumerate((x, weight, bias))]
        compare(some[0], some[1], target, some[2])


@pytest.mark.parametrize("count", [1, 6, 16, 17])
def test_without_a_graph_the_loss_is_the_same(tiling, count):
    x, weight, target = draw(count, 3), draw(50, 3), targets(count, 50)
    loss = linear_cross_entropy(x, weight, target)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(x, weight, target), loss)


def test_all_targets_ignored_sum_to_nothing():
    x, weight = draw(3, 2), draw(4, 2)
    target = torch.full((3,), -100)
    loss = linear_cross_entropy(x, weight, target, reduction="sum")
    gradients = torch.autograd.grad(loss, [x, weight])
    assert loss.item() == 0
    assert all(not g.any() for g in gradients)


def test_a_second_backward_gives_the_same_scaled():
    x, weight, target = draw(6, 3), draw(20, 3), targets(6, 20)
    loss = linear_cross_entropy(x, weight, target)
    once = torch.autograd.grad(loss, [x, weight], retain_graph=True)
    twice = torch.autograd.grad(2 * loss, [x, weight])
    for a, b in zip(once, twice, strict=True):
        assert torch.equal(2 * a, b)


def test_accumulated_gradients_are_the_callers_own():
    x, weight, target = draw(6, 3), draw(20, 3), targets(6, 20)
    loss = linear_cross_entropy(x, weight, target)
    loss.backward(retain_graph=True)
    first = weight.grad.clone()
    weight.grad.zero_()
    loss.backward()
    assert torch.equal(weight.grad, first)


def test_single_precision_stays_near_double_at_the_full_size():
    x, weight, target = draw(64, 300), draw(11004, 300), targets(64, 11004)
    results = []
    for f, dtype in (
        (linear_cross_entropy, torch.float32),
        (reference.linear_cross_entropy, torch.float64),
    ):
        inputs = [(t.detach() * 0.2).to(dtype).requires_grad_() for t in (x, weight)]
        loss = f(*inputs, target)
        results.append((loss, *torch.autograd.grad(loss, inputs)))
    for single, double in zip(*results, strict=True):
        assert (single - double).abs().max() < 1e-5 * double.abs().max()


def test_half_precision_accumulates_in_single():
    x, weight, target = draw(32, 16), draw(500, 16), targets(32, 500)
    halves = [t.detach().bfloat16().requires_grad_() for t in (x, weight)]
    singles = [t.detach().float().requires_grad_() for t in halves]
    results = []
    for inputs in (halves, singles):
        loss = linear_cross_entropy(*inputs, target)
        results.append((loss, *torch.autograd.grad(loss, inputs)))
    for half, single in zip(*results, strict=True):
        assert half.dtype == torch.bfloat16
        assert (half.float() - single).norm() < 1e-2 * single.norm()


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_autocast_multiplies_in_half_and_sums_in_single(reduction):
    x, weight, bias, target = draw(8, 5), draw(30, 5), draw(30), targets(8, 30)
    singles = [t.detach().float().requires_grad_() for t in (x, weight, bias)]
    rounded = [t.detach().bfloat16().float().requires_grad_() for t in (x, weight, bias)]
    with torch.autocast("cpu", torch.bfloat16):
        x, weight, bias = singles
        loss = linear_cross_entropy(x, weight, target, bias, reduction=reduction)
        assert loss.dtype == torch.float32
        found = torch.autograd.grad(loss.sum(), singles)
    x, weight, bias = rounded
    expected = linear_cross_entropy(x, weight, target, bias, reduction=reduction)
    torch.testing.assert_close(loss, expected, rtol=4e-3, atol=0)
    assert not torch.equal(loss, loss.bfloat16().float()), "the loss itself was rounded"
    for a, b in zip(found, torch.autograd.grad(expected.sum(), rounded), strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 1e-2 * b.norm()


def test_a_second_derivative_is_refused():
    x, weight = draw(3, 2), draw(4, 2)
    loss = linear_cross_entropy(x, weight, targets(3, 4))
    with pytest.raises(RuntimeError, match="linear_cross_entropy can be differentiated once"):
        torch.autograd.grad(loss, x, create_graph=True)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda t: t[0], "expected floats of shape [N, H]"),
        ("weight", lambda t: t[:, 1:], "expected shape [V, 3] with V ≥ 1, found [5, 2]"),
        ("weight", lambda t: t.float(), "expected torch.float64 on cpu like x"),
        ("bias", lambda t: t[1:], "expected shape [5], found [4]"),
        ("target", lambda t: t[1:], "expected int64 of shape [4]"),
        ("target", lambda t: t.int(), "expected int64 of shape [4]"),
        ("target", lambda t: t + 5, "expected 0..4 or ignore_index -100"),
        ("target", lambda t: t - 5, "expected 0..4 or ignore_index -100"),
        ("label_smoothing", lambda s: 1.5, "expected 0..1, found 1.5"),
        ("reduction", lambda r: "avg", "expected 'mean', 'sum' or 'none', found 'avg'"),
    ],
)
def test_a_wrong_argument_is_named(name, change, message):
    given = {
        "x": draw(4, 3),
        "weight": draw(5, 3),
        "target": targets(4, 5),
        "bias": draw(5),
        "label_smoothing": 0.0,
        "reduction": "mean",
    }
    given[name] = change(given[name])
    with pytest.raises(ValueError, match="^" + name) as raised:
        linear_cross_entropy(**given)
    assert message in str(raised.value)


def test_logits_beyond_what_rounding_can_tell_apart_never_give_less_than_nothing():
    torch.manual_seed(0)
    x, weight = 1e7 * torch.randn(8, 40), 1e7 * torch.randn(300, 40)
    target = (x @ weight.T).argmax(dim=1)
    assert linear_cross_entropy(x, weight, target, reduction="none").min() >= 0
