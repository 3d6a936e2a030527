"""The Ray cluster that a run is placed on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from lvtrain.cluster.config import ClusterConfig


@contextmanager
def connected(cluster: ClusterConfig) -> Iterator[None]:
    """Be a driver of the Ray cluster that is asked for, or of one that is started for the time.

    A process that is one already stays one.
    """
    if ray.is_initialized():
        yield
        return
    address = cluster.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "local")
    own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    ray.init(address=address, log_to_driver=False, configure_logging=False, **own)
    try:
        yield
    finally:
        ray.shutdown()
