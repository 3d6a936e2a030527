"""Runs a function in a process for each rank of a group."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing as mp

Work = Callable[..., Any]


def _run(rank: int, world: int, port: int, results: Any, work: Work, given: Any) -> None:
    from lvtrain.cluster.engine import join

    torch.set_num_threads(1)
    try:
        join(rank, world, "127.0.0.1", port, 60.0)
        found = work(rank, world, *given)
        results.put((rank, True, found))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))


def on_ranks(world: int, work: Work, *given: Any) -> list[Any]:
    """What `work(rank, world, *given)` gives on each rank of a group of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=_run, args=(rank, world, port, results, work, given))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    try:
        found = sorted((results.get(timeout=120) for _ in processes), key=lambda item: item[0])
    finally:
        for process in processes:
            process.join(5)
            process.kill()
    for rank, good, value in found:
        assert good, f"rank {rank}: {value}"
    return [value for _, _, value in found]
