"""What the GPU does at best: copy bandwidth and the rate of a large matrix product."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from benchmarks.gpu.bench import DTYPES, Bench, Row, precision
from benchmarks.gpu.timing import Contest, measure

WARM = 0.3
"""Seconds of each, long enough for the clocks to rise."""


@dataclass(frozen=True)
class Copy:
    """A copy of so many bytes: each is read and written."""

    size: int

    @property
    def label(self) -> str:
        return "copy"

    def kernels(self) -> object:
        return None

    def warm(self, bench: Bench) -> None:
        pass

    def rows(self, bench: Bench) -> Iterator[Row]:
        a, b = (torch.ones(self.size // 4, device=bench.device) for _ in range(2))
        contest = Contest(
            op="copy",
            sizes={"MB": self.size // 10**6},
            contestants={"torch": lambda: [lambda: (b.copy_(a),)]},
        )
        for row in measure(contest, replace(bench, seconds=WARM)):
            yield _with_rate(row, 2 * self.size, "copy")


@dataclass(frozen=True)
class Product:
    """A product of two square matrices of random numbers."""

    size: int
    dtype: str

    @property
    def label(self) -> str:
        return f"matrix product {self.dtype}"

    def kernels(self) -> object:
        return None

    def warm(self, bench: Bench) -> None:
        pass

    def rows(self, bench: Bench) -> Iterator[Row]:
        shape, kind = (self.size, self.size), DTYPES[self.dtype]
        a, b = (torch.randn(shape, device=bench.device).to(kind) for _ in range(2))
        out = torch.empty_like(a)
        contest = Contest(
            op="matrix product",
            sizes={"n": self.size, "dtype": self.dtype},
            contestants={"torch": lambda: [lambda: (torch.mm(a, b, out=out),)]},
        )
        with precision(self.dtype):
            for row in measure(contest, replace(bench, seconds=WARM)):
                yield _with_rate(row, 2 * self.size**3, self.dtype)


def _with_rate(row: Row, amount: float, of: str) -> Row:
    """The row and the rate it stands for, in bytes or FLOPs a second."""
    return row | {"rate": amount / row["ms"] * 1e3, "of": of} if "ms" in row else row


def cases(bench: Bench) -> list[Copy | Product]:
    size, n = (2**12, 16) if bench.size == "toy" else (2**30, 8192)
    return [Copy(size), *(Product(n, dtype) for dtype in ("bf16", "fp16", "tf32", "fp32"))]
