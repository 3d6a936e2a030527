"""The gradient penalty in closed form against autograd's double backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.gpu.bench import DTYPES, Bench, Row, input_sets, precision
from benchmarks.gpu.timing import EAGER, Contest, Step, measure
from lvtrain.kernels import reference
from lvtrain.kernels.dispatch import forced
from lvtrain.kernels.gradient_penalty import gradient_penalty


def penalised(f: Callable[..., Tensor], critic: nn.Module, points: Tensor) -> Step:
    parameters = list(critic.parameters())

    def step() -> tuple[Tensor, ...]:
        penalty = f(critic, points, 10.0)
        # The last bias has no part in it; its gradient is zero.
        grads = torch.autograd.grad(penalty, parameters, materialize_grads=True)
        return (penalty, *grads[:-1])

    return step


@dataclass(frozen=True)
class Penalised:
    """A critic with two hidden layers, LeakyReLU or LayerNorm and tanh."""

    batch: int
    code: int
    width: int
    dtype: str
    normed: bool = False

    @property
    def label(self) -> str:
        return f"gradient_penalty B{self.batch} {self.code}-{self.width} {self.dtype}"

    def kernels(self) -> object:
        return self

    def _draw(self, bench: Bench, seed: int) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(seed)
        middle = [nn.LayerNorm(self.width), nn.Tanh()] if self.normed else [nn.LeakyReLU(0.2)]
        layers = [
            nn.Linear(self.code, self.width), *middle,
            nn.Linear(self.width, self.width), *middle,
            nn.Linear(self.width, 1),
        ]  # fmt: skip
        kind = DTYPES[self.dtype]
        critic = nn.Sequential(*layers).to(bench.device, kind)
        return critic, torch.randn(self.batch, self.code).to(bench.device, kind)

    def warm(self, bench: Bench) -> None:
        with precision(self.dtype), forced("triton"):
            penalised(gradient_penalty, *self._draw(bench, 0))()

    def rows(self, bench: Bench) -> Iterator[Row]:
        sizes = [self.code, self.width, self.width, 1]
        weights = sum(n * m for n, m in pairwise(sizes))
        size = DTYPES[self.dtype].itemsize * (weights + self.batch * self.code)
        sets = [self._draw(bench, seed) for seed in range(input_sets(bench, size))]
        ways: dict[str, Callable[..., Tensor]] = {
            "kernel": gradient_penalty,
            "double backward": reference.gradient_penalty,
        }

        def made(f: Callable[..., Tensor]) -> Callable[[], list[Step]]:
            return lambda: [penalised(f, *s) for s in sets]

        contest = Contest(
            op="gradient_penalty",
            sizes={
                "B": self.batch, "critic": f"{self.code}-{self.width}-{self.width}-1",
                "layers": "LayerNorm, tanh" if self.normed else "LeakyReLU", "dtype": self.dtype,
            },
            contestants={
                name + how: made(f) for how in ("", EAGER) for name, f in ways.items()
            },
            # Scores, their gradient, its tangent, and the weights' gradients.
            flops=4 * 2.0 * self.batch * weights,
            moved=2.0 * size,
            rate=self.dtype,
        )  # fmt: skip
        with precision(self.dtype), forced("triton"):
            yield from measure(contest, bench)


def cases(bench: Bench) -> list[Penalised]:
    if bench.size == "toy":
        return [Penalised(3, 4, 5, "fp32"), Penalised(3, 4, 5, "fp32", normed=True)]
    if bench.size == "quick":
        return [Penalised(64, 300, 300, "tf32"), Penalised(256, 512, 1024, "tf32")]
    widths = [(300, 300), (512, 1024), (1024, 1024)]
    found = [Penalised(b, *w, "tf32") for b in (64, 256, 1024) for w in widths]
    found += [Penalised(b, 512, 1024, "bf16") for b in (64, 1024)]
    return [*found, Penalised(64, 300, 300, "tf32", normed=True)]
