"""The Triton sweeps against the definition in float64: in the interpreter, or on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lvtrain.kernels import reference
from lvtrain.kernels.dispatch import forced
from lvtrain.kernels.gradient_penalty import gradient_penalty
from lvtrain.kernels.lstm import embedding_lstm, lstm

lstm_triton = pytest.importorskip("lvtrain.kernels.lstm_triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3}
# Batch, time, inputs, hidden; whether x lies time first, has lengths, a bias a row, states.
SHAPES = {
    "B1-T1": (1, 1, 3, 16, False, False, False, False),
    "one-step": (3, 1, 2, 5, False, True, True, True),
    "odd": (3, 4, 5, 7, False, True, False, True),
    "time-first": (5, 3, 8, 40, True, True, True, True),
    "H300": (2, 2, 8, 300, False, True, False, False),
    "two-tiles": (18, 2, 4, 33, True, False, True, False),
}

Arguments = list[Tensor | None]


def draw(*shape: int) -> Tensor:
    return 0.5 * torch.randn(shape, dtype=torch.float64)


def arguments(shape: tuple, dtype: torch.dtype) -> tuple[Arguments, Arguments, Tensor | None]:
    """The same arguments for the kernels, in ``dtype``, and for the definition, in float64."""
    batch, time, inputs, hidden, time_first, ragged, by_row, states = shape
    torch.manual_seed(0)
    drawn: Arguments = [
        draw(batch, time, inputs),
        draw(4 * hidden, inputs) / inputs**0.5,
        draw(4 * hidden, hidden) / hidden**0.5,
        draw(batch, 4 * hidden) if by_row else draw(4 * hidden),
        draw(batch, hidden) if states else None,
        draw(batch, hidden) if states else None,
    ]
    ours = [None if t is None else t.to(DEVICE, dtype) for t in drawn]
    if time_first:
        ours[0] = ours[0].transpose(0, 1).contiguous().transpose(0, 1)
    theirs = [None if t is None else t.double().cpu().requires_grad_() for t in ours]
    ours = [None if t is None else t.detach().requires_grad_() for t in ours]
    lengths = torch.randint(1, time + 1, (batch,)) if ragged else None
    return ours, theirs, lengths


def given(tensors: Arguments) -> list[Tensor]:
    return [t for t in tensors if t is not None]


def assert_near(ours: tuple, theirs: tuple, dtype: torch.dtype) -> None:
    for a, b in zip(ours, theirs, strict=True):
        error = (a.double().cpu() - b).norm() / b.norm().clamp_min(1e-9)
        assert a.shape == b.shape and error < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_outputs_and_every_gradient_are_the_definitions(shape, dtype):
    ours, theirs, lengths = arguments(shape, dtype)
    with forced("triton"):
        found = lstm(*ours, lengths)
    expected = reference.lstm(*theirs, lengths)
    assert_near(found, expected, dtype)
    along = [draw(*out.shape).to(dtype) for out in expected]
    found = torch.autograd.grad(found, given(ours), [u.to(DEVICE) for u in along])
    expected = torch.autograd.grad(expected, given(theirs), [u.double() for u in along])
    assert_near(found, expected, dtype)


@pytest.mark.parametrize("shape", list(SHAPES.values())[:4], ids=list(SHAPES)[:4])
def test_second_derivatives_are_the_definitions(shape):
    ours, theirs, lengths = arguments(shape, torch.float32)
    with forced("triton"):
        found = lstm(*ours, lengths)
    expected = reference.lstm(*theirs, lengths)
    along = [draw(*out.shape).float() for out in expected]
    first = [u.to(DEVICE).requires_grad_() for u in along]
    second = [u.double().requires_grad_() for u in along]
    found = torch.autograd.grad(found, given(ours), first, create_graph=True)
    expected = torch.autograd.grad(expected, given(theirs), second, create_graph=True)
    again = [draw(*g.shape).float() for g in expected]
    found = torch.autograd.grad(found, [*given(ours), *first], [v.to(DEVICE) for v in again])
    expected = torch.autograd.grad(expected, [*given(theirs), *second], [v.double() for v in again])
    assert_near(found, expected, torch.float32)


def test_the_gradient_penalty_goes_through_a_recurrent_critic():
    torch.manual_seed(0)

    class Critic(nn.Module):
        def __init__(self, layer) -> None:
            super().__init__()
            self.layer = layer
            self.w_ih, self.w_hh = nn.Parameter(draw(24, 3)), nn.Parameter(draw(24, 6))
            self.bias, self.score = nn.Parameter(draw(24)), nn.Linear(6, 1, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            x = x.unflatten(1, (4, 3))
            return self.score(self.layer(x, self.w_ih, self.w_hh, self.bias)[1])

    definition = Critic(reference.lstm)
    critic = Critic(lstm)
    critic.load_state_dict(definition.state_dict())
    critic.float().to(DEVICE)
    points = draw(5, 12)
    with forced("triton"):
        cost = gradient_penalty(critic, points.float().to(DEVICE), 10.0)
        found = torch.autograd.grad(cost, [critic.w_ih, critic.w_hh, critic.bias])
    cost = reference.gradient_penalty(definition, points, 10.0)
    expected = torch.autograd.grad(cost, [definition.w_ih, definition.w_hh, definition.bias])
    assert_near(found, expected, torch.float32)


@pytest.mark.parametrize("reduce", [Tensor.sum, lambda y: y[:, ::2, 1:].sum()], ids=["sum", "part"])
def test_expanded_and_strided_gradients_are_read_as_they_are(reduce):
    ours, theirs, lengths = arguments(SHAPES["odd"], torch.float32)
    with forced("triton"):
        found = torch.autograd.grad(reduce(lstm(*ours, lengths)[0]), given(ours))
    expected = torch.autograd.grad(reduce(reference.lstm(*theirs, lengths)[0]), given(theirs))
    assert_near(found, expected, torch.float32)


def test_without_a_graph_the_outputs_are_the_same():
    ours, _, lengths = arguments(SHAPES["odd"], torch.float32)
    with forced("triton"):
        kept = lstm(*ours, lengths)
        with torch.no_grad():
            free = lstm(*ours, lengths)
    assert all(torch.equal(a, b) for a, b in zip(kept, free, strict=True))


def test_words_agree_with_their_vectors_and_padding_is_not_read():
    _, _, w_ih, w_hh = (t for t in (None, None, draw(20, 3), draw(20, 5)))
    table, bias = draw(9, 3), draw(20)
    tokens, lengths = torch.tensor([[1, 2, 8], [5, 99, -1]]), torch.tensor([3, 1])
    weights = [t.float().to(DEVICE).requires_grad_() for t in (table, w_ih, w_hh, bias)]
    doubles = [t.detach().double().cpu().requires_grad_() for t in weights]
    with forced("triton"):
        found = embedding_lstm(tokens.to(DEVICE), *weights, lengths=lengths)
    vectors = doubles[0][tokens.where(tokens < 9, 0)]
    expected = reference.lstm(vectors, *doubles[1:], lengths=lengths)
    assert_near(found, expected, torch.float32)
    found = torch.autograd.grad(found[0].square().sum(), weights)
    expected = torch.autograd.grad(expected[0].square().sum(), doubles)
    assert_near(found, expected, torch.float32)


def test_a_length_out_of_range_is_refused_where_the_host_can_see_it():
    ours, _, _ = arguments(SHAPES["odd"], torch.float32)
    with forced("triton"), pytest.raises(ValueError, match=r"lengths: expected each in 1\.\.4"):
        lstm(*ours, torch.tensor([1, 5, 2]))


def test_a_length_out_of_range_that_only_the_kernel_sees_gives_nan():
    ours, _, _ = arguments(SHAPES["odd"], torch.float32)
    y, h, _ = lstm_triton.lstm(*ours, torch.tensor([1, 9, 2], device=DEVICE))
    assert h[1].isnan().all() and y[1].isnan().all()
    assert not h[0].isnan().any() and not h[2].isnan().any()


def test_autocast_runs_in_its_dtype_and_gives_gradients_in_ours():
    ours, _, lengths = arguments(SHAPES["odd"], torch.float32)
    with forced("triton"), torch.autocast(DEVICE, torch.float16):
        y, _, _ = lstm(*ours, lengths)
    assert y.dtype == torch.float16
    assert torch.autograd.grad(y.float().sum(), ours[0])[0].dtype == torch.float32


def test_differentiated_under_autocast_the_gradients_are_the_same():
    ours, _, lengths = arguments(SHAPES["odd"], torch.float32)
    with forced("triton"):
        y, _, _ = lstm(*ours, lengths)
    wanted, value = given(ours), y.square().sum()

    def differentiated() -> tuple[Tensor, ...]:
        first = torch.autograd.grad(value, wanted, retain_graph=True)
        graph = torch.autograd.grad(value, wanted, create_graph=True)
        within = sum(g.square().sum() for g in graph)
        return *first, *torch.autograd.grad(within, wanted, retain_graph=True)

    expected = differentiated()
    with torch.autocast(DEVICE, torch.bfloat16):
        found = differentiated()
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


def test_the_operation_is_registered_as_pytorch_asks():
    ours, _, _ = arguments(SHAPES["time-first"], torch.float32)
    # What is kept of steps beyond a row's length is left as it was, so no row has any here.
    lengths = torch.tensor([3] * 5, device=DEVICE)
    torch.library.opcheck(torch.ops.lvtrain.lstm.default, (*ours, lengths, True))


def test_it_compiles_as_one_graph():
    ours, _, lengths = arguments(SHAPES["odd"], torch.float32)

    def run(*tensors: Tensor) -> Tensor:
        return lstm_triton.lstm(*tensors, lengths)[0].square().sum()

    plain = torch.autograd.grad(run(*ours), given(ours))
    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)
    assert_near(
        torch.autograd.grad(compiled(*ours), given(ours)),
        tuple(g.double().cpu() for g in plain),
        torch.float32,
    )
