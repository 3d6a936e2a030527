"""Trainings that a benchmark needs, which take longer than anybody waits for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lvtrain
from lvtrain.training.log import read_metrics


def trained(system: str, store: Path, run: Path, **how: Any) -> float:
    """Train `run`, or go on with it, to its end; gives the seconds that took in all.

    Asked to stop, by Ctrl-C or SIGTERM, the benchmark ends with it: half a training has no figures.
    """
    if lvtrain.train(system, store, run, resume="auto", **how).stopped:
        raise SystemExit(130)
    return float(read_metrics(run)[-1]["seconds"])
