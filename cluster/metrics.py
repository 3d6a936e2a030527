"""A run's figures among Ray's own metrics, for Prometheus and Ray's dashboard.

The driver publishes each figure of its iterations as the gauge `ray_lvtrain_<figure>`, such as
`ray_lvtrain_reconstruction` and `ray_lvtrain_adversary_idle`, with `ray_lvtrain_words_per_second`,
and counts the games that ended by the loss of a worker as `ray_lvtrain_faults_total`. Ray adds
labels for the node and the driver, and each node exports its own (`ray start
--metrics-export-port`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import cache
from typing import SupportsFloat

from ray.util.metrics import Counter, Gauge

EVERY = 1.0
"""Seconds at least between two publications: Ray itself reports every few seconds."""


class Published:
    """The figures of a game as Ray's metrics."""

    def __init__(self) -> None:
        self._figures: dict[str, SupportsFloat] = {}
        self._words, self._since = 0, time.perf_counter()

    def step(self, words: int, figures: Mapping[str, SupportsFloat]) -> None:
        """Take in an iteration: of each figure the last is published, of the words the rate."""
        self._figures |= figures
        self._words += words
        passed = time.perf_counter() - self._since
        if passed < EVERY:
            return
        for name, figure in {**self._figures, "words_per_second": self._words / passed}.items():
            _gauge(name).set(float(figure))
        self._words, self._since = 0, time.perf_counter()


def count_fault() -> None:
    """Count a game that ends by the loss of a worker."""
    _counter("faults").inc()


@cache
def _gauge(figure: str) -> Gauge:
    return Gauge(_name(figure), f"{figure} of the last iteration")


@cache
def _counter(figure: str) -> Counter:
    return Counter(_name(figure), f"{figure} since the run was started")


def _name(figure: str) -> str:
    return "lvtrain_" + re.sub(r"\W", "_", figure, flags=re.ASCII)
