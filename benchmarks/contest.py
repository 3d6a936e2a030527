"""Contestants timed in turn, each in a process of its own.

A process of its own leaves each contestant the memory allocator as its users have it, and keeps
the traces that the others leave in it out of the figures. Only one runs at a time.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

Step = Callable[[int], Any]
"""Does the work of one lap, given its number."""


@dataclass(frozen=True)
class Lap:
    """How long a lap took, and what came of it."""

    seconds: float
    result: Any


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Self:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)


class Apart:
    """A process that builds a step and does it when asked."""

    def __init__(self, make: Callable[[], Step]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make), daemon=True)
        self._process.start()
        theirs.close()

    def lap(self, number: int) -> Lap:
        self._connection.send(number)
        return self._connection.recv()

    def close(self) -> None:
        self._connection.close()
        self._process.join()


class Here:
    """The same in this process, where starting others would cost more than what is measured."""

    def __init__(self, make: Callable[[], Step]) -> None:
        self._step = make()

    def lap(self, number: int) -> Lap:
        return _timed(self._step, number)

    def close(self) -> None:
        pass


def race(
    makers: Mapping[str, Callable[[], Step]], repeats: int, warmup: int = 2, apart: bool = True
) -> dict[str, list[Lap]]:
    """Time every contestant `repeats` times, A B C A B C …, after `warmup` laps that do not count.

    `makers` build the steps. They are sent to the contestants' processes, so they must pickle,
    unless not `apart`: then all run in this process.
    """
    laps: dict[str, list[Lap]] = {name: [] for name in makers}
    with ExitStack() as stack:
        contestants = {}
        for name, make in makers.items():
            contestants[name] = Apart(make) if apart else Here(make)
            stack.callback(contestants[name].close)
        for number in range(warmup + repeats):
            for name, contestant in contestants.items():
                lap = contestant.lap(number)
                if number >= warmup:
                    laps[name].append(lap)
    return laps


def _serve(connection: Connection, make: Callable[[], Step]) -> None:
    step = make()
    while True:
        try:
            number = connection.recv()
        except EOFError:
            return
        connection.send(_timed(step, number))


def _timed(step: Step, number: int) -> Lap:
    start = time.perf_counter()
    result = step(number)
    return Lap(time.perf_counter() - start, result)
