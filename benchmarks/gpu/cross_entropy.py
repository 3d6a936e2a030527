"""Linear layer and cross-entropy over a vocabulary against what else there is, in time and memory.

Liger Kernel (Hsu et al. 2024) and Apple's cut-cross-entropy (Wijmans et al. 2025) take part where
they are installed, and PyTorch's own chunked loss where it has one (2.13 on).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.bench import DTYPES, Bench, Row, input_sets, precision
from benchmarks.gpu.timing import Contest, Missing, Step, measure
from lvtrain.kernels import reference
from lvtrain.kernels.cross_entropy import linear_cross_entropy
from lvtrain.kernels.dispatch import forced

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of x [N, H], weight [V, H] and target [N]."""


def eager(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return reference.linear_cross_entropy(x, weight, target)


def in_single(x: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """As under autocast: the product in half, its softmax in single."""
    return F.cross_entropy(F.linear(x, weight).float(), target)


def _installed(package: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Missing(f"{package} is not installed ({error})") from error


def liger() -> Loss:
    package = _installed("liger-kernel", "liger_kernel.transformers")
    loss = package.LigerFusedLinearCrossEntropyLoss()
    return lambda x, weight, target: loss(weight, x, target)


def cut_cross_entropy() -> Loss:
    package = _installed("cut-cross-entropy", "cut_cross_entropy")
    return lambda x, weight, target: package.linear_cross_entropy(x, weight, target)


def chunked() -> Loss:
    options = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if options is None:
        raise Missing(f"torch {torch.__version__} has no chunked linear_cross_entropy")
    return lambda x, weight, target: F.linear_cross_entropy(x, weight, target, options=options())


def gradients(loss: Loss, x: Tensor, weight: Tensor, target: Tensor) -> Step:
    def step() -> tuple[Tensor, ...]:
        value = loss(x, weight, target)
        return (value, *torch.autograd.grad(value, [x, weight]))

    return step


@dataclass(frozen=True)
class Vocabulary:
    """Loss and both gradients at one size."""

    count: int
    hidden: int
    vocabulary: int
    dtype: str

    @property
    def label(self) -> str:
        return f"linear_cross_entropy N{self.count} V{self.vocabulary} {self.dtype}"

    def kernels(self) -> object:
        return self

    def _draw(self, bench: Bench, seed: int) -> list[Tensor]:
        generator = torch.Generator(bench.device).manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            drawn = torch.randn(shape, generator=generator, device=bench.device)
            return drawn.to(DTYPES[self.dtype])

        x, weight = normal(self.count, self.hidden), normal(self.vocabulary, self.hidden)
        weight /= self.hidden**0.5
        target = torch.randint(
            self.vocabulary, (self.count,), generator=generator, device=bench.device
        )
        return [x.requires_grad_(), weight.requires_grad_(), target]

    def _contest(self, sets: list[list[Tensor]], bench: Bench) -> Contest:
        def steps(make: Callable[[], Loss]) -> Callable[[], list[Step]]:
            def made() -> list[Step]:
                loss = make()
                return [gradients(loss, *s) for s in sets]

            return made

        contestants = {
            "kernel": steps(lambda: linear_cross_entropy),
            "eager": steps(lambda: eager),
            "torch.compile": steps(
                lambda: torch.compile(eager, dynamic=False, backend=bench.backend)
            ),
            "torch chunked": steps(chunked),
            "Liger Kernel": steps(liger),
            "cut-cross-entropy": steps(cut_cross_entropy),
        }
        if self.dtype == "bf16":
            contestants["eager, softmax in single"] = steps(lambda: in_single)
        if bench.size == "toy":  # they have no interpreter
            del contestants["Liger Kernel"], contestants["cut-cross-entropy"]
        numbers = self.hidden * (self.count + self.vocabulary)
        return Contest(
            op="linear_cross_entropy",
            sizes={
                "N": self.count, "H": self.hidden, "V": self.vocabulary, "dtype": self.dtype
            },
            contestants=contestants,
            flops=6.0 * self.count * self.hidden * self.vocabulary,
            moved=2.0 * DTYPES[self.dtype].itemsize * numbers,
            rate=self.dtype,
            graphs=False,  # some ask the device for a value; at these sizes launches weigh nothing
            memory=True,
        )  # fmt: skip

    def warm(self, bench: Bench) -> None:
        contest = self._contest([self._draw(bench, 0)], bench)
        with precision(self.dtype), forced("triton"):
            for name, make in contest.contestants.items():
                if not name.startswith("eager"):
                    with suppress(Missing):
                        make()[0]()

    def rows(self, bench: Bench) -> Iterator[Row]:
        size = DTYPES[self.dtype].itemsize * self.hidden * (self.count + self.vocabulary)
        sets = [self._draw(bench, seed) for seed in range(input_sets(bench, size))]
        with precision(self.dtype), forced("triton"):
            yield from measure(self._contest(sets, bench), bench)


def cases(bench: Bench) -> list[Vocabulary]:
    if bench.size == "toy":
        return [Vocabulary(5, 4, 33, "fp32")]
    if bench.size == "quick":
        return [Vocabulary(7680, 512, 30_000, "bf16")]
    return [
        Vocabulary(7680, 512, 30_000, "bf16"),
        Vocabulary(7680, 512, 30_000, "tf32"),
        Vocabulary(7680, 512, 800_000, "bf16"),
    ]
