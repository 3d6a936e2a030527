"""Race and stress test of the LSTM's barrier among programs: the first thing to run on a new GPU.

Every case goes through all four sweeps: outputs, gradients, and gradients of the gradients. These
are first held to the definition in float64. Then a CUDA graph repeats them over two sets of inputs
in turn, in the same memory, and every result must be the same bits as the first time: what one
program reads before another has written it belongs to the other set, or is the zero that the buffer
was filled with. Every other replay has a second stream fill the memory's queues meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import DTYPES, Bench, Row, precision
from benchmarks.gpu.timing import captured, relative_error
from lvtrain.kernels import reference
from lvtrain.kernels.dispatch import forced
from lvtrain.kernels.lstm import lstm
from lvtrain.kernels.lstm_plan import Direction, Plan, chip, plan

NAMES = [
    *("y", "h", "c"),
    *("dx", "dw_ih", "dw_hh", "dbias", "dh0", "dc0"),
    *(f"second {of}" for of in ("x", "w_ih", "w_hh", "bias", "h0", "c0", "dy", "dh", "dc")),
]
"""The results of ``derivatives``."""

TOLERANCES = {
    "bf16": (1.6e-2, 3.2e-2),
    "fp16": (2e-3, 4e-3),
    "tf32": (2e-3, 4e-3),
    "fp32": (1e-5, 2e-5),
}
"""Most relative error of the outputs and first derivatives, and of the second derivatives."""

HIDDEN = (32, 128, 300, 512, 640, 768, 1024)
BATCH = (16, 64, 128, 256, 512, 1024)
TIME = 12
ROUNDS = 10  # of both sets of inputs, in a replay

Layer = Callable[..., tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Inputs:
    """Arguments of the layer, their lengths, and along what its results are differentiated."""

    arguments: list[Tensor]
    lengths: Tensor
    first: list[Tensor]
    second: list[Tensor]

    def double(self) -> Inputs:
        def wide(tensors: list[Tensor]) -> list[Tensor]:
            return [t.detach().double().requires_grad_() for t in tensors]

        return Inputs(wide(self.arguments), self.lengths, wide(self.first), wide(self.second))


def draw(hidden: int, batch: int, time: int, dtype: torch.dtype, device: str, seed: int) -> Inputs:
    """Random inputs with lengths in 1..T, the first row's T."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int, scale: float = 0.5) -> Tensor:
        drawn = torch.randn(shape, generator=generator, device=device) * scale
        return drawn.to(dtype).requires_grad_()

    deep = 1 / hidden**0.5
    shapes = [(batch, time, hidden), (4 * hidden, hidden), (4 * hidden, hidden), (4 * hidden,)]
    states = [(batch, hidden), (batch, hidden)]
    lengths = torch.randint(1, time + 1, (batch,), generator=generator, device=device)
    lengths[0] = time
    scales = (0.5, deep, deep, 0.5, 0.5, 0.5)
    return Inputs(
        [normal(*s, scale=k) for s, k in zip((*shapes, *states), scales, strict=True)],
        lengths,
        [normal(batch, time, hidden), *(normal(*s) for s in states)],
        [normal(*s) for s in (*shapes, *states)],
    )


def derivatives(layer: Layer, inputs: Inputs) -> list[Tensor]:
    """Outputs, first derivatives along ``first``, and those results' derivatives along ``second``:
    all four sweeps."""
    outputs = layer(*inputs.arguments, inputs.lengths)
    grads = torch.autograd.grad(outputs, inputs.arguments, inputs.first, create_graph=True)
    wanted = [*inputs.arguments, *inputs.first]
    again = torch.autograd.grad(grads, wanted, inputs.second)
    return [t.detach() for t in (*outputs, *grads, *again)]


def largest_error(found: list[Tensor], exact: list[Tensor], dtype: str) -> tuple[float, str]:
    """The relative error that is largest against what is allowed, as a share of that, and where."""
    shares = []
    for name, a, b in zip(NAMES, found, exact, strict=True):
        allowed = TOLERANCES[dtype][name.startswith("second")]
        error = relative_error(a, b)
        shares.append((error / allowed if error == error else float("inf"), name))
    return max(shares)


def count_differing(
    inputs: list[Inputs], sweeps: int, sweeps_a_round: int, disturbed: bool = True
) -> tuple[dict[str, int], int]:
    """Repeat the kernels in a CUDA graph; count the rounds whose results have other bits.

    Returns those counts by result, where they are not 0, and the sweeps that were run.
    """
    found: list[list[Tensor]] = []

    def both() -> None:
        found[:] = [derivatives(lstm, one) for one in inputs]

    both()
    once = captured(both)
    once.replay()
    torch.cuda.synchronize()
    first = [[t.clone() for t in one] for one in found]
    differing = torch.zeros(len(NAMES), dtype=torch.int64, device=first[0][0].device)

    def rounds() -> None:
        for _ in range(ROUNDS):
            both()
            for one, expected in zip(found, first, strict=True):
                pairs = zip(one, expected, strict=True)
                # A NaN differs from itself, as it should.
                differing.add_(torch.stack([(a != b).any() for a, b in pairs]))
        found.clear()

    graph = captured(rounds)
    differing.zero_()
    noise, room = torch.cuda.Stream(), torch.empty(2, 2**26, device=differing.device)
    torch.cuda.synchronize()
    replays = max(1, ceil(sweeps / (ROUNDS * sweeps_a_round)))
    for number in range(replays):
        if disturbed and number % 2:
            with torch.cuda.stream(noise):
                for _ in range(4):
                    room[0].copy_(room[1])
        graph.replay()
    torch.cuda.synchronize()
    counts = {name: n for name, n in zip(NAMES, differing.tolist(), strict=True) if n}
    return counts, replays * ROUNDS * sweeps_a_round


def plans(hidden: int, batch: int, dtype: str, device: str) -> dict[Direction, Plan]:
    """How the sweeps of either direction are cut."""
    there = chip(torch.device(device))
    ways: tuple[Direction, ...] = ("forward", "backward")
    return {way: plan(way, hidden, batch, DTYPES[dtype], there) for way in ways}


def persistent_sweeps(hidden: int, batch: int, dtype: str, device: str) -> int:
    """Launches with a barrier in ``derivatives``: twice each way, for every part of the batch."""
    cuts = plans(hidden, batch, dtype, device).values()
    return sum(2 * ceil(batch / cut.rows) for cut in cuts if cut.resident)


@dataclass(frozen=True)
class Stress:
    """The sweeps of one shape, so many times."""

    hidden: int
    batch: int
    dtype: str
    sweeps: int
    time: int = TIME

    @property
    def label(self) -> str:
        return f"stress H{self.hidden} B{self.batch} {self.dtype}"

    def kernels(self) -> object:
        return self

    def _inputs(self, device: str, seed: int) -> Inputs:
        return draw(self.hidden, self.batch, self.time, DTYPES[self.dtype], device, seed)

    def warm(self, bench: Bench) -> None:
        with precision(self.dtype), forced("triton"):
            derivatives(lstm, self._inputs(bench.device, 0))

    def rows(self, bench: Bench) -> Iterator[Row]:
        inputs = [self._inputs(bench.device, seed) for seed in (0, 1)]
        exact = [derivatives(reference.lstm, one.double()) for one in inputs]
        with precision(self.dtype), forced("triton"):
            found = [derivatives(lstm, one) for one in inputs]
            pairs = zip(found, exact, strict=True)
            share, where = max(largest_error(a, b, self.dtype) for a, b in pairs)
            del found, exact
            differing, done = self._repeat(inputs, bench)
        yield {
            "op": "stress", "H": self.hidden, "B": self.batch, "T": self.time,
            "dtype": self.dtype, **_tiles(self.hidden, self.batch, self.dtype, bench.device),
            "sweeps": done, "error": float(f"{min(share, 1e9):.3g}"), "at": where,
            "differing": differing, "passed": share <= 1 and not differing,
        }  # fmt: skip

    def _repeat(self, inputs: list[Inputs], bench: Bench) -> tuple[dict[str, int], int]:
        a_set = persistent_sweeps(self.hidden, self.batch, self.dtype, bench.device)
        if bench.device == "cuda" and a_set:
            return count_differing(inputs, self.sweeps, len(inputs) * a_set)
        return {}, 0


def _tiles(hidden: int, batch: int, dtype: str, device: str) -> dict[str, str]:
    def shown(cut: Plan) -> str:
        return f"{cut.BB}×{cut.BH}×{cut.BK}" if cut.resident else "a step a launch"

    return {way: shown(cut) for way, cut in plans(hidden, batch, dtype, device).items()}


def covering(device: str) -> list[tuple[int, int, str]]:
    """Sizes that have every tile shape that a persistent sweep takes, in both precisions."""
    found, seen = [], set[Any]()
    for dtype in ("bf16", "tf32"):
        for hidden in HIDDEN:
            for batch in BATCH:
                cuts = plans(hidden, batch, dtype, device)
                shapes: set[Any] = {
                    (dtype, way, cut.BB, cut.BH, cut.BK, cut.group < cut.tiles)
                    for way, cut in cuts.items()
                    if cut.resident
                }
                # Batches that take more than one launch are a shape of their own.
                shapes |= {(dtype, way, "parts") for way, cut in cuts.items() if cut.rows < batch}
                if shapes - seen:
                    found.append((hidden, batch, dtype))
                seen |= shapes
    return found


def cases(bench: Bench) -> list[Stress]:
    if bench.size == "toy":
        return [Stress(5, 3, "fp16", 0, 3), Stress(16, 2, "fp32", 0, 2)]
    sizes = covering(bench.device)
    if bench.size == "quick":
        sizes = [(h, b, d) for h, b, d in sizes if h in (128, 300, 512) and b <= 256]
    return [Stress(*size, ceil(bench.sweeps / len(sizes))) for size in sizes]
