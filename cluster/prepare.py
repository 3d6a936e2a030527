"""`lvtrain prepare --ray`: the stages of `prepare` by Ray Data on all nodes of a cluster.

A stage is a dataset of its tasks, a row each, mapped by the stage's function. A task is one part of
the corpus, a few dozen megabytes; it reads its files, and leaves its result in the folder of the
work beside the store, which must be on storage that every node has. What comes back is a row of
figures: nothing of the corpus passes through the driver or the object store, a task that is lost
with its node is done again, and the store is bit for bit that of one machine.
"""

from __future__ import annotations

import logging
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import ray.data

from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.connect import connected
from lvtrain.errors import Passing
from lvtrain.prepare.workers import Advance

Task = TypeVar("Task")

ATTEMPTS: Final = 4
"""Workers that a task may be lost with before that is said."""


class RayData:
    """Carries tasks out on all nodes of the cluster that this process is a driver of."""

    def run(
        self, function: Callable[[Task, Advance], None], tasks: Sequence[Task], advance: Advance
    ) -> None:
        if not tasks:
            return
        _quiet()
        attempts = ray.remote(num_cpus=0)(_Attempts).remote()
        rows = [{"number": i, "task": pickle.dumps(task)} for i, task in enumerate(tasks)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            partial(_carry_out, function, attempts), num_cpus=1
        )
        for row in dataset.iter_rows():
            if row["failed"]:
                raise pickle.loads(row["failed"])
            advance(row["read"], row["words"])


@contextmanager
def ray_data(address: str) -> Iterator[RayData]:
    """Be a driver of the cluster at an address: auto, local or HOST:PORT."""
    with connected(ClusterConfig(address=address), "--ray"):
        yield RayData()


class _Attempts:
    """Counts how often each task was begun: Ray Data does one that is lost again without end, also
    where it is lost because it needs more memory than there is."""

    def __init__(self) -> None:
        self._begun = Counter[int]()

    def begin(self, task: int) -> int:
        self._begun[task] += 1
        return self._begun[task]


def _carry_out(
    function: Callable[[Any, Advance], None], attempts: Any, row: dict[str, Any]
) -> dict[str, Any]:
    """Carry a task out; gives the bytes and words done, and what was raised: Ray Data would raise
    an error of its own in its place."""
    done = [0, 0]

    def advance(read: int, words: int) -> None:
        done[0] += read
        done[1] += words

    failed = b""
    try:
        if ray.get(attempts.begin.remote(row["number"])) > ATTEMPTS:
            raise Passing(f"a task of `prepare` lost {ATTEMPTS} workers (out of memory?)")
        function(pickle.loads(row["task"]), advance)
    except Exception as error:
        failed = pickle.dumps(error)
    return {"read": done[0], "words": done[1], "failed": failed}


def _quiet() -> None:
    """Have Ray Data say nothing of itself: `prepare` shows the progress."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
