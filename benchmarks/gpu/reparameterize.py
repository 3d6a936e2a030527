"""The reparameterised sample and its KL against the formula, compiled and eager.

The formula draws its noise by `torch.randn_like`, whose stream is another than the kernel's, so
only the KL is compared, and of a mixture, whose estimate depends on the noise, nothing. Both
outputs have gradients of their own, none of them expanded, so that every contestant moves the same
bytes: each read or written once at the measured copy bandwidth is the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import DTYPES, Bench, Row, input_sets
from benchmarks.gpu.timing import Contest, Step, measure
from lvtrain.kernels.dispatch import forced
from lvtrain.kernels.reparameterize import reparameterize, reparameterize_mixture

Pair = tuple[Tensor, Tensor]
Way = Callable[[Tensor], Callable[..., Pair]]
"""From the seed of the noise, what samples."""
Makers = Callable[[], list[Step]]


def formula(mu: Tensor, logvar: Tensor) -> Pair:
    """As one writes it; the KL in float32."""
    z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
    wide, log = mu.float(), logvar.float()
    return z, 0.5 * (wide.square() + torch.expm1(log) - log)


def mixture_formula(mu: Tensor, logvar: Tensor, mean: Tensor, log: Tensor, logit: Tensor) -> Pair:
    """log q(z|x) − log p(z) as one writes it, without the −Z/2 log 2π of both."""
    eps = torch.randn_like(mu)
    z = mu + torch.exp(0.5 * logvar) * eps
    away = z.unsqueeze(1) - mean
    each = logit.log_softmax(0) - 0.5 * (log + away.square() * torch.exp(-log)).sum(2)
    return z, -0.5 * (logvar + eps.square()).sum(1) - each.logsumexp(1)


def _comparable(kl: Tensor) -> tuple[Tensor, ...]:
    return (kl,) if kl.ndim == 2 else ()


def _forward(f: Callable[..., Pair], inputs: list[Tensor]) -> Step:
    def step() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return _comparable(f(*inputs)[1])

    return step


def _both(f: Callable[..., Pair], inputs: list[Tensor], along: list[Tensor]) -> Step:
    def step() -> tuple[Tensor, ...]:
        z, kl = f(*inputs)
        torch.autograd.grad([z, kl], inputs, along)
        return _comparable(kl)

    return step


@dataclass(frozen=True)
class Sampled:
    """Forward, and forward with backward, of B × Z elements; K components where there are some."""

    batch: int
    width: int
    dtype: str
    components: int = 0

    @property
    def label(self) -> str:
        return f"reparameterize {self.batch}×{self.width} {self.dtype} K{self.components}"

    def kernels(self) -> object:
        return self

    def _draw(self, bench: Bench, seed: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Inputs, the gradients of z and of the KL, and the seed of the noise."""
        generator = torch.Generator(bench.device).manual_seed(seed)

        def normal(*shape: int, dtype: torch.dtype = DTYPES[self.dtype]) -> Tensor:
            drawn = torch.randn(shape, generator=generator, device=bench.device)
            return drawn.to(dtype)

        b, z, k = self.batch, self.width, self.components
        inputs = [normal(b, z), normal(b, z)]
        if k:
            inputs += [normal(k, z), normal(k, z), normal(k)]
        kl = normal(b, dtype=torch.float32) if k else normal(b, z, dtype=torch.float32)
        along = [normal(b, z), kl]
        return [t.requires_grad_() for t in inputs], along, torch.tensor(seed, device=bench.device)

    def _contests(self, sets: list[Any], bench: Bench) -> Iterator[Contest]:
        def kernel(seed: Tensor) -> Callable[..., Pair]:
            if self.components:
                return lambda mu, logvar, *prior: reparameterize_mixture(mu, logvar, seed, *prior)
            return lambda mu, logvar: reparameterize(mu, logvar, seed)

        written = mixture_formula if self.components else formula
        compiled = torch.compile(written, dynamic=False, backend=bench.backend)
        ways: dict[str, Way] = {
            "kernel": kernel,
            "torch.compile": lambda seed: compiled,
            "eager": lambda seed: written,
        }
        op = "reparameterize_mixture" if self.components else "reparameterize"
        sizes: dict[str, int | str] = {"B": self.batch, "Z": self.width, "dtype": self.dtype}
        if self.components:
            sizes["K"] = self.components
        elements, size = self.batch * self.width, DTYPES[self.dtype].itemsize
        kl = 0 if self.components else 4

        def forward(way: Way) -> Makers:
            return lambda: [_forward(way(s), inputs) for inputs, _, s in sets]

        def both(way: Way) -> Makers:
            return lambda: [_both(way(s), inputs, along) for inputs, along, s in sets]

        for passes, make, moved in (
            ("forward", forward, 3.0 * size + kl),
            ("forward+backward", both, 8.0 * size + 2 * kl),
        ):
            yield Contest(
                op=f"{op} {passes}",
                sizes=sizes,
                contestants={name: make(way) for name, way in ways.items()},
                moved=elements * moved,
            )

    def warm(self, bench: Bench) -> None:
        with forced("triton"):
            for contest in self._contests([self._draw(bench, 0)], bench):
                for name in ("kernel", "torch.compile"):
                    contest.contestants[name]()[0]()

    def rows(self, bench: Bench) -> Iterator[Row]:
        size = DTYPES[self.dtype].itemsize * self.batch * self.width * 2.0
        sets = [self._draw(bench, seed) for seed in range(input_sets(bench, size))]
        with forced("triton"):
            for contest in self._contests(sets, bench):
                yield from measure(contest, bench)


def cases(bench: Bench) -> list[Sampled]:
    if bench.size == "toy":
        return [Sampled(5, 3, "fp32"), Sampled(3, 4, "fp32", components=2)]
    found = [Sampled(65536, 1024, dtype) for dtype in ("fp32", "bf16")]
    if bench.size == "full":
        found += [Sampled(262144, 300, "bf16"), Sampled(16384, 128, "fp32", components=16)]
    return found
