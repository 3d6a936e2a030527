"""The sweep is its definition, output and every gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lvtrain.kernels import reference
from lvtrain.kernels.attention_lstm import attention_lstm

BATCH, TIME, PLACES, WIDTH, HEADS, HIDDEN = 4, 5, 3, 6, 7, 2
LENGTHS = {
    "all": None,
    "full": [5, 5, 5, 5],
    "descending": [5, 4, 2, 1],
    "unsorted": [1, 5, 3, 5],
    "shorter-than-T": [2, 4, 4, 1],
}


def arguments(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    gates = 4 * HIDDEN
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()
    return [
        draw(BATCH, TIME, gates), draw(BATCH, PLACES, WIDTH), draw(BATCH, PLACES, HEADS), mask,
        draw(HEADS, HIDDEN), draw(HEADS), draw(gates, WIDTH), draw(gates, HIDDEN),
        draw(BATCH, HIDDEN), draw(BATCH, HIDDEN),
    ]  # fmt: skip


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_agrees_with_the_definition(lengths: list[int] | None) -> None:
    given = arguments()
    counts = None if lengths is None else torch.tensor(lengths)
    ours = attention_lstm(*given, counts)  # type: ignore[arg-type]
    theirs = reference.attention_lstm(*given, counts)  # type: ignore[arg-type]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    inputs = [tensor for tensor in given if tensor.requires_grad]
    for chosen in ((0, 1), (0,), (1,)):
        cotangents = [torch.randn_like(theirs[k]) for k in chosen]
        found, expected = (
            torch.autograd.grad([of[k] for k in chosen], inputs, cotangents, retain_graph=True)
            for of in (ours, theirs)
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_without_a_gradient_it_is_the_same() -> None:
    given = arguments()
    with torch.no_grad():
        free = attention_lstm(*given)  # type: ignore[arg-type]
    for a, b in zip(free, attention_lstm(*given), strict=True):  # type: ignore[arg-type]
        assert torch.equal(a, b)


def test_wrong_shapes_and_lengths_are_named() -> None:
    given = arguments()
    with pytest.raises(ValueError, match="w_context: expected shape"):
        attention_lstm(*given[:6], given[6].t(), *given[7:])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"lengths: expected 4 in 1\.\.5"):
        attention_lstm(*given, torch.tensor([0, 1, 1, 1]))  # type: ignore[arg-type]


def test_differentiated_under_autocast_the_gradients_are_the_same() -> None:
    given = [t.float() if t.is_floating_point() else t for t in arguments()]
    wanted = [t for t in given if t.requires_grad]
    h, context, _, _ = attention_lstm(*given)  # type: ignore[arg-type]
    value = h.square().sum() + context.square().sum()
    expected = torch.autograd.grad(value, wanted, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(value, wanted)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)
