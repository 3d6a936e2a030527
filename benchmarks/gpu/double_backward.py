"""The LSTM's double backward against a Python loop over cells that can be differentiated twice.

What is differentiated is the gradient penalty of a recurrent critic whose score is the sum of its
last state: (‖∂ score / ∂x_b‖ − 1)², towards W_ih, W_hh and b. cuDNN's LSTM cannot do that at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu.bench import DTYPES, Bench, Row, input_sets, precision
from benchmarks.gpu.timing import EAGER, Contest, Step, measure
from lvtrain.kernels import reference
from lvtrain.kernels.dispatch import forced
from lvtrain.kernels.lstm import lstm

Arguments = list[Tensor]


def swept(x: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor) -> Tensor:
    """The last state by the kernels."""
    return lstm(x, w_ih, w_hh, bias)[1]


def looped(x: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor) -> Tensor:
    """The last state by a cell of PyTorch's a step."""
    h = c = x.new_zeros(len(x), w_hh.shape[1])
    none = torch.zeros_like(bias)  # the fused cell takes two biases or none
    for step in x.unbind(1):
        h, c = torch.lstm_cell(step, (h, c), w_ih, w_hh, bias, none)
    return h


def written_out(x: Tensor, w_ih: Tensor, w_hh: Tensor, bias: Tensor) -> Tensor:
    """The last state by the definition."""
    return reference.lstm(x, w_ih, w_hh, bias)[1]


def penalty_gradients(layer: Callable[..., Tensor], given: Arguments) -> Step:
    def step() -> tuple[Tensor, ...]:
        score = layer(*given).sum()
        (slope,) = torch.autograd.grad(score, given[0], create_graph=True)
        penalty = (reference.row_norm(slope.flatten(1).float()) - 1).square().mean()
        return torch.autograd.grad(penalty, given[1:])

    return step


@dataclass(frozen=True)
class DoubleBackward:
    """Both at one size."""

    hidden: int
    batch: int
    time: int
    dtype: str

    @property
    def label(self) -> str:
        return f"lstm double backward H{self.hidden} B{self.batch} T{self.time} {self.dtype}"

    def kernels(self) -> object:
        return self

    def warm(self, bench: Bench) -> None:
        with precision(self.dtype), forced("triton"):
            penalty_gradients(swept, self._draw(bench, 0))()

    def rows(self, bench: Bench) -> Iterator[Row]:
        tokens, square = self.batch * self.time, 4 * self.hidden * self.hidden
        size = DTYPES[self.dtype].itemsize * (tokens * self.hidden + 2 * square)
        sets = [self._draw(bench, seed) for seed in range(input_sets(bench, size))]
        ways = {"kernel": swept, "loop over cells": looped, "definition": written_out}

        def made(layer: Callable[..., Tensor]) -> Callable[[], list[Step]]:
            return lambda: [penalty_gradients(layer, s) for s in sets]

        contest = Contest(
            op="lstm double backward",
            sizes={"H": self.hidden, "B": self.batch, "T": self.time, "dtype": self.dtype},
            contestants={
                name + how: made(layer) for how in ("", EAGER) for name, layer in ways.items()
            },
            # Products [N, H] × [H, 4H]: forward 2; gradient towards x 2; tangent 2; second-order
            # sweep 1; dW_ih and dW_hh, each of two terms, 4.
            flops=11 * 2.0 * tokens * square,
            moved=3.0 * size,
            rate=self.dtype,
        )
        with precision(self.dtype), forced("triton"):
            yield from measure(contest, bench)

    def _draw(self, bench: Bench, seed: int) -> Arguments:
        generator = torch.Generator(bench.device).manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            drawn = torch.randn(shape, generator=generator, device=bench.device)
            return (drawn / shape[-1] ** 0.5).to(DTYPES[self.dtype]).requires_grad_()

        h = self.hidden
        bias = normal(1, 4 * h).detach().flatten().requires_grad_()
        return [normal(self.batch, self.time, h), normal(4 * h, h), normal(4 * h, h), bias]


def cases(bench: Bench) -> list[DoubleBackward]:
    if bench.size == "toy":
        return [DoubleBackward(5, 3, 2, "fp32")]
    if bench.size == "quick":
        return [DoubleBackward(300, 64, 15, "tf32")]
    sizes = [(300, 64, 15), (512, 64, 30), (512, 128, 50)]
    return [DoubleBackward(*size, dtype) for size in sizes for dtype in ("tf32", "bf16")]
