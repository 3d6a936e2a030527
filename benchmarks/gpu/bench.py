"""What every part of the GPU benchmark shares: its settings, its cases and their rows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch

Row = dict[str, Any]
"""A line of the results: operation, sizes, contestant, and what was measured."""

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "tf32": torch.float32,
    "fp32": torch.float32,
}
"""Names of precisions; tf32 is float32 whose products may be rounded to 10 bits, fp32 is exact."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Settings of a run; ``ceilings`` are the rates measured in it, in bytes or FLOPs a second."""

    device: Literal["cpu", "cuda"]
    size: Literal["full", "quick", "toy"] = "full"
    sweeps: int = 100_000
    """Persistent sweeps of the stress test, over all its cases."""
    seconds: float = 0.06
    """Time that the repeats of one contestant take."""
    deadline: float = float("inf")
    """When to stop, as ``time.time()`` counts."""
    ceilings: dict[str, float] = field(default_factory=dict)

    def over(self) -> bool:
        return time.time() > self.deadline

    @property
    def backend(self) -> str:
        """What ``torch.compile`` compiles with: at toy size only its tracing is tried."""
        return "aot_eager" if self.size == "toy" else "inductor"


class Case(Protocol):
    """One comparison at one size; small and picklable, its tensors are made when it runs."""

    @property
    def label(self) -> str: ...

    def kernels(self) -> object:
        """A key of what it compiles, None for nothing: cases of one key share their kernels."""

    def warm(self, bench: Bench) -> None:
        """Compile that, so that the cache on disk holds it."""

    def rows(self, bench: Bench) -> Iterator[Row]: ...


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Let products of float32 be rounded to tf32 inside, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def l2_bytes(device: str) -> int:
    """Size of the GPU's last-level cache."""
    if device != "cuda":
        return 1
    return int(getattr(torch.cuda.get_device_properties(), "L2_cache_size", 0)) or 64 * 2**20


def input_sets(bench: Bench, size: float) -> int:
    """How many sets of inputs of ``size`` bytes to rotate, so that the cache flatters nobody.

    As many as make twice the cache, but at most four: what is smaller still is bound by latency.
    """
    if bench.size == "toy":
        return 2
    return max(1, min(4, -(-2 * l2_bytes(bench.device) // max(1, int(size)))))
