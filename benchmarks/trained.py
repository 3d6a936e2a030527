"""Trainings that a benchmark needs, which take longer than anybody waits for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lvtrain


def trained(system: str, store: Path, run: Path, **how: Any) -> None:
    """Train `run`, or go on with it, to its end.

    Asked to stop, by Ctrl-C or SIGTERM, the benchmark ends with it: half a training has no figures.
    """
    if lvtrain.train(system, store, run, resume="auto", **how).stopped:
        raise SystemExit(130)
