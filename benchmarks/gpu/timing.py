"""Medians of GPU time: CUDA events around CUDA graphs, contestants in turn.

A contestant is a step for each set of inputs. Its graph holds all its steps one after the other, so
that a replay rotates the sets and its launch weighs little; the time given is of one step. What
cannot be captured, or is wanted as the host launches it, is timed around its eager calls.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Row

Step = Callable[[], tuple[Tensor, ...]]
"""Does the work once; gives the results that contestants should agree on."""

EAGER = ", eager"
"""Ends the name of a contestant that is timed as the host launches it."""

MOST_REPEATS, FEWEST_REPEATS = 100, 3


class Missing(Exception):
    """A contestant that this machine does not have."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Contestants over the same inputs, and the least that the work takes.

    ``flops`` are of the matrix rate ``rate``, ``moved`` are bytes: the floor is the longer of the
    two at the ceilings measured in the run.
    """

    op: str
    sizes: dict[str, int | str]
    contestants: dict[str, Callable[[], list[Step]]]
    """By name, what makes its steps; the kernel is called "kernel"."""
    flops: float = 0.0
    moved: float = 0.0
    rate: str = "bf16"
    graphs: bool = True
    memory: bool = False
    """Whether to measure the most memory a step takes besides its inputs."""

    def floor_ms(self, ceilings: dict[str, float]) -> float | None:
        if self.rate not in ceilings or "copy" not in ceilings:
            return None
        return 1e3 * max(self.flops / ceilings[self.rate], self.moved / ceilings["copy"])


@dataclass
class _Runner:
    """A contestant made ready: ``launch`` asks for ``steps`` steps."""

    name: str
    launch: Callable[[], object]
    steps: list[Step]
    timed: str
    not_captured: str = ""
    repeats: int = FEWEST_REPEATS
    milliseconds: list[float] = field(default_factory=list)


def measure(contest: Contest, bench: Bench) -> Iterator[Row]:
    """Time every contestant; one that is missing or fails gives a row with a note instead."""
    runners, notes = [], {}
    for name, make in contest.contestants.items():
        try:
            runners.append(_ready(name, make(), contest, bench))
        except Missing as missing:
            notes[name] = str(missing)
        except Exception as error:  # whatever it is, the others are still to be measured
            notes[name] = one_line(error)
    _time(runners, bench)
    medians = {r.name: statistics.median(r.milliseconds) for r in runners}
    results = {r.name: None if bench.over() else r.steps[0]() for r in runners}
    floor = contest.floor_ms(bench.ceilings)
    for runner in runners:
        low, median, high = _quartiles(runner.milliseconds)
        row = _start(contest, runner.name)
        row |= {"ms": _short(median), "low": _short(low), "high": _short(high)}
        row |= {"timed": runner.timed, "repeats": runner.repeats}
        if runner.not_captured:
            row["not_captured"] = runner.not_captured
        if floor is not None:
            row |= {"floor_ms": _short(floor), "of_floor": round(floor / median, 4)}
        ours = "kernel" + EAGER if runner.name.endswith(EAGER) else "kernel"
        if ours in medians and runner.name != ours:
            row["kernel_speedup"] = round(median / medians[ours], 3)
            row |= _difference(results[ours], results[runner.name])
        if contest.memory and bench.device == "cuda":
            row |= _memory(runner.steps[0])
        yield row
    for name, note in notes.items():
        yield _start(contest, name) | {"note": note}


def one_line(error: BaseException) -> str:
    """What went wrong, in a line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:200]}"


def _start(contest: Contest, name: str) -> Row:
    return {"op": contest.op, **contest.sizes, "contestant": name}


def _ready(name: str, steps: list[Step], contest: Contest, bench: Bench) -> _Runner:
    def eager() -> None:
        for step in steps:
            step()

    if bench.device != "cuda":
        eager()
        return _Runner(name, eager, steps, "host clock")
    # Compiling, autotuning and the libraries' first calls are done before anything is captured.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        eager()
        eager()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    if contest.graphs and not name.endswith(EAGER):
        stream = torch.cuda.current_stream()
        try:
            return _Runner(name, captured(eager).replay, steps, "graph")
        except Exception as error:
            torch.cuda.set_stream(stream)  # a capture that fails leaves its own behind
            torch.cuda.synchronize()
            return _Runner(name, eager, steps, "events", one_line(error))
    return _Runner(name, eager, steps, "events")


def captured(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """The CUDA graph of ``work``, which has been done before."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


def _time(runners: list[_Runner], bench: Bench) -> None:
    if bench.device != "cuda":
        for runner in runners:
            start = time.perf_counter()
            runner.launch()
            runner.milliseconds.append(1e3 * (time.perf_counter() - start) / len(runner.steps))
            runner.repeats = 1
        return
    for runner in runners:
        runner.launch()
        once = _events([runner])[0]
        fitting = int(1e3 * bench.seconds / max(once, 1e-3))
        runner.repeats = max(FEWEST_REPEATS, min(MOST_REPEATS, fitting))
    for lap in range(max((r.repeats for r in runners), default=0)):
        taking_part = [r for r in runners if lap < r.repeats]
        for runner, spent in zip(taking_part, _events(taking_part), strict=True):
            runner.milliseconds.append(spent / len(runner.steps))


def _events(runners: list[_Runner]) -> list[float]:
    """Milliseconds of one launch of each, taken in turn.

    Each comes after a write that clears the cache, during which the host gets ahead.
    """
    pairs = []
    scratch = _scratch()
    for runner in runners:
        scratch.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        runner.launch()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in pairs]


@cache
def _scratch() -> Tensor:
    return torch.empty(512 * 2**20, dtype=torch.uint8, device="cuda")


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def _short(value: float) -> float:
    """Four digits that count."""
    return float(f"{value:.4g}")


def relative_error(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖ in at least float32."""
    wide = torch.promote_types(expected.dtype, torch.float32)
    found, expected = found.detach().to(wide), expected.detach().to(wide)
    scale = torch.linalg.vector_norm(expected).clamp_min(1e-30)
    return float(torch.linalg.vector_norm(found - expected) / scale)


def _difference(ours: Any, theirs: Any) -> Row:
    """The largest relative difference of what both give, so that the same is compared."""
    if not ours or not theirs:
        return {}
    pairs = zip(ours, theirs, strict=True)
    return {"difference": float(f"{max(relative_error(a, b) for a, b in pairs):.2g}")}


def _memory(step: Step) -> Row:
    """The most memory in use during a step beyond what was before, and what its results keep."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = step()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    kept = sum(t.numel() * t.element_size() for t in results)
    return {"peak_mb": round(peak / 1e6, 1), "results_mb": round(kept / 1e6, 1)}
