from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvtrain.kernels import reference
from lvtrain.kernels.lstm import embedding_lstm, lstm

RAGGED = {
    "B1-T1": [1],
    "B1-T6": [6],
    "B3-T1": [1, 1, 1],
    "full": [5, 5, 5],
    "descending": [7, 5, 5, 2, 1],
    "unsorted": [1, 6, 2, 6, 3],
    "shorter-than-T": [2, 4, 3],
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def arguments(batch: int, hidden: int, inputs: int, *, by_row: bool, states: bool) -> list:
    return [
        draw(4 * hidden, inputs),
        draw(4 * hidden, hidden),
        draw(batch, 4 * hidden) if by_row else draw(4 * hidden),
        draw(batch, hidden, seed=1) if states else None,
        draw(batch, hidden, seed=2) if states else None,
    ]


def compare(ours, theirs, inputs, cotangents, chosen=(0, 1, 2)) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    found, expected = (
        torch.autograd.grad(
            [outputs[k] for k in chosen],
            inputs,
            [cotangents[k] for k in chosen],
            retain_graph=True,
            materialize_grads=True,
        )
        for outputs in (ours, theirs)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("hidden", [1, 5, 33])
@pytest.mark.parametrize("states", [False, True], ids=["zero-state", "state"])
@pytest.mark.parametrize("by_row", [False, True], ids=["bias", "bias-by-row"])
@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED.keys())
def test_agrees_with_the_definition(lengths, by_row, states, hidden):
    batch, time = len(lengths), max(lengths) + (lengths == [2, 4, 3])
    x = draw(batch, time, 3)
    others = arguments(batch, hidden, 3, by_row=by_row, states=states)
    counts = torch.tensor(lengths)
    ours = lstm(x, *others, counts)
    theirs = reference.lstm(x, *others, counts)
    inputs = [x, *(t for t in others if t is not None)]
    cotangents = [torch.randn_like(out) for out in theirs]
    for chosen in ((0, 1, 2), (0,), (1,), (2,)):
        compare(ours, theirs, inputs, cotangents, chosen)


def test_without_lengths_every_row_has_all_steps():
    x, others = draw(3, 4, 2), arguments(3, 5, 2, by_row=False, states=True)
    full = lstm(x, *others, torch.tensor([4, 4, 4]))
    for a, b in zip(lstm(x, *others), full, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("lengths", RAGGED.values(), ids=RAGGED.keys())
def test_words_agree_with_their_vectors(lengths):
    batch, time, words = len(lengths), max(lengths), 4
    table = draw(words, 3)
    tokens = torch.randint(words, (batch, time), generator=torch.Generator().manual_seed(3))
    others = arguments(batch, 5, 3, by_row=True, states=True)
    counts = torch.tensor(lengths)
    ours = embedding_lstm(tokens, table, *others, counts)
    theirs = reference.lstm(table[tokens], *others, counts)
    compare(ours, theirs, [table, *others], [torch.randn_like(out) for out in theirs])


def test_sparse_gradient_of_the_table_is_the_dense_one():
    table, others = draw(9, 3), arguments(2, 4, 3, by_row=False, states=False)
    tokens = torch.tensor([[1, 2, 2], [5, 1, 0]])
    gradients = []
    for sparse in (False, True):
        y, _, _ = embedding_lstm(tokens, table, *others, sparse=sparse)
        gradients += torch.autograd.grad(y.square().sum(), table)
    assert gradients[1].is_sparse
    torch.testing.assert_close(gradients[1].to_dense(), gradients[0])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_lengths_in_any_order(data):
    batch, time = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    lengths = data.draw(st.lists(st.integers(1, time), min_size=batch, max_size=batch))
    counts = torch.tensor(lengths)
    x, others = draw(batch, time, 2), arguments(batch, 3, 2, by_row=True, states=True)
    theirs = reference.lstm(x, *others, counts)
    compare(
        lstm(x, *others, counts), theirs, [x, *others], [torch.randn_like(out) for out in theirs]
    )


def test_any_strides():
    batch, time, hidden, inputs = 3, 4, 5, 3
    others = [
        draw(inputs, 4 * hidden).T,
        draw(hidden, 8 * hidden).T[::2],
        draw(8 * hidden)[::2],
        draw(hidden, batch).T,
        draw(1, hidden).expand(batch, hidden),
    ]
    x = draw(inputs, time, batch).permute(2, 1, 0)
    counts = torch.tensor([4, 2, 1])
    theirs = reference.lstm(x, *others, counts)
    expanded = [torch.ones((), dtype=torch.float64).expand_as(out) for out in theirs]
    compare(lstm(x, *others, counts), theirs, [x, *others], expanded)


def test_only_the_gradients_asked_for_are_given():
    x, others = draw(2, 3, 2), arguments(2, 3, 2, by_row=False, states=True)
    counts = torch.tensor([3, 2])
    tensors = [x, *others]
    for k, wanted in enumerate(tensors):
        some = [t if j == k else t.detach() for j, t in enumerate(tensors)]
        outputs = [f(*some, counts) for f in (lstm, reference.lstm)]
        found, expected = (torch.autograd.grad(out[1].sum(), wanted)[0] for out in outputs)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("lengths", [None, [3, 1], [1, 3]], ids=["full", "sorted", "unsorted"])
def test_first_and_second_derivatives_by_finite_differences(lengths):
    counts = None if lengths is None else torch.tensor(lengths)
    tensors = [draw(2, 3, 2), *arguments(2, 2, 2, by_row=False, states=True)]

    def run(*args: Tensor) -> tuple[Tensor, ...]:
        return lstm(*args, counts)

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


def test_words_are_twice_differentiable():
    tokens, counts = torch.tensor([[0, 2], [2, 1]]), torch.tensor([1, 2])
    tensors = [draw(3, 2), *arguments(2, 2, 2, by_row=True, states=False)[:3]]

    def run(*args: Tensor) -> tuple[Tensor, ...]:
        return embedding_lstm(tokens, *args, lengths=counts)

    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


def test_a_second_backward_gives_the_same():
    x, others = draw(2, 3, 2), arguments(2, 3, 2, by_row=False, states=False)
    y, h, c = lstm(x, *others, torch.tensor([3, 2]))
    total = y.square().sum() + h.sum() + c.sum()
    first = torch.autograd.grad(total, [x, *others[:3]], retain_graph=True)
    second = torch.autograd.grad(total, [x, *others[:3]])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_a_graph_the_result_is_the_same():
    x, others = draw(3, 4, 2), arguments(3, 5, 2, by_row=True, states=True)
    counts = torch.tensor([4, 2, 1])
    with_graph = lstm(x, *others, counts)
    with torch.no_grad():
        without = lstm(x, *others, counts)
    for a, b in zip(with_graph, without, strict=True):
        assert a.requires_grad and not b.requires_grad
        assert torch.equal(a, b)


def test_single_precision_stays_near_the_definition_at_the_full_size():
    generator = torch.Generator().manual_seed(0)
    shapes = [(16, 12, 300), (1200, 300), (1200, 300), (1200,)]
    tensors = [
        torch.empty(s, dtype=torch.float64).uniform_(-0.1, 0.1, generator=generator) for s in shapes
    ]
    counts = torch.arange(12, 4, -1).repeat_interleave(2)
    gradients = []
    for f, dtype in ((lstm, torch.float32), (reference.lstm, torch.float64)):
        inputs = [t.to(dtype).requires_grad_() for t in tensors]
        y, h, c = f(*inputs, lengths=counts)
        found = torch.autograd.grad(y.sum() + h.square().sum() + c.sum(), inputs)
        gradients.append([y, h, c, *found])
    for single, double in zip(*gradients, strict=True):
        scale = double.abs().max()
        assert (single - double).abs().max() < 1e-5 * scale


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", lambda t: t[0], "x: expected shape [B, T, I]"),
        ("x", lambda t: t.long(), "x: expected a floating-point tensor"),
        ("w_ih", lambda t: t[1:], "w_ih: expected shape [12, 2], found [11, 2]"),
        ("w_hh", lambda t: t[1:], "w_hh: expected shape [4H, H], found [11, 3]"),
        ("w_hh", lambda t: t.float(), "w_hh: expected torch.float64"),
        ("bias", lambda t: t[1:], "bias: expected shape [12] or [2, 12], found [11]"),
        ("h0", lambda t: t[:1], "h0: expected shape [2, 3], found [1, 3]"),
        ("c0", lambda t: t.to("meta"), "c0: expected torch.float64 on cpu"),
        ("lengths", lambda t: t[:1], "lengths: expected shape [2], found [1]"),
        ("lengths", lambda t: t * 2, "lengths: expected each in 1..4, found 4..8"),
        ("lengths", lambda t: t - 2, "lengths: expected each in 1..4, found 0..2"),
        ("lengths", lambda t: t.double(), "lengths: expected whole numbers"),
    ],
)
def test_a_wrong_argument_is_named(name, change, message):
    given = dict(
        zip(
            ("w_ih", "w_hh", "bias", "h0", "c0"),
            arguments(2, 3, 2, by_row=False, states=True),
            strict=True,
        )
    )
    given |= {"x": draw(2, 4, 2), "lengths": torch.tensor([4, 2])}
    given[name] = change(given[name])
    with pytest.raises(ValueError, match="^" + name) as raised:
        lstm(**given)
    assert message in str(raised.value)


def test_a_word_outside_the_table_is_named():
    others = arguments(1, 3, 2, by_row=False, states=False)
    with pytest.raises(ValueError, match=r"tokens: expected each in 0\.\.4, found 1\.\.5"):
        embedding_lstm(torch.tensor([[1, 5]]), draw(5, 2), *others)
    embedding_lstm(torch.tensor([[1, 5]]), draw(5, 2), *others, lengths=torch.tensor([1]))


def test_autocast_leaves_it_in_single_on_a_cpu():
    """Its cell state would lose what it adds up; a layer before it may have given halves."""
    x, w_ih, w_hh, bias = (torch.randn(*n) for n in ((3, 4, 5), (24, 5), (24, 6), (24,)))
    expected = lstm(x.bfloat16().float(), w_ih, w_hh, bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = lstm(x.bfloat16(), w_ih, w_hh, bias)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


@pytest.mark.parametrize("ragged", [False, True])
def test_differentiated_under_autocast_the_gradients_are_the_same(ragged):
    """Whoever asks a critic for its slope within an iteration does so under autocast."""
    torch.manual_seed(0)
    given = [torch.randn(*n, requires_grad=True) for n in ((3, 4, 5), (24, 5), (24, 6), (24,))]
    y, h, c = lstm(*given, lengths=torch.tensor([4, 2, 3]) if ragged else None)
    value = y.square().sum() + h.sum() + c.sum()

    def differentiated() -> tuple[Tensor, ...]:
        first = torch.autograd.grad(value, given, retain_graph=True)
        return *first, *torch.autograd.grad(value, given, create_graph=True)

    expected = differentiated()
    with torch.autocast("cpu", torch.bfloat16):
        found = differentiated()
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)
