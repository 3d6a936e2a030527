"""`lvtrain prepare --ray`: the stages of `prepare` as tasks of a Ray cluster.

A task is one part of the corpus, a few dozen megabytes; it reads its files, and leaves its result
in the folder of the work beside the store, which must be on storage that every node has. So nothing
of the corpus passes through the driver or the object store, a task that is lost with its node is
done again, and the store is bit for bit that of one machine.

Ray Data reads whole tables into the object store to pass them from operator to operator, and wants
pandas; parts that are files already need neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.connect import connected
from lvtrain.data.workers import Advance
from lvtrain.errors import Passing, UserError

Task = TypeVar("Task")

AHEAD: Final = 2
"""Tasks a core that are handed over at a time."""


class RayTasks:
    """Carries tasks out on all nodes of the cluster that this process is a driver of."""

    def run(
        self, function: Callable[[Task, Advance], None], tasks: Sequence[Task], advance: Advance
    ) -> None:
        carry_out = ray.remote(num_cpus=1, max_retries=3)(_carry_out)
        most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        left = list(tasks)[::-1]
        running: list[Any] = []
        try:
            while left or running:
                while left and len(running) < most:
                    running.append(carry_out.remote(function, left.pop()))
                done, running = ray.wait(running)
                for result in ray.get(done):
                    advance(*result)
        except RayTaskError as error:
            if isinstance(error.cause, UserError | OSError):
                raise error.cause from None
            raise
        except RayError as error:
            raise Passing(f"a task of `prepare` was lost: {str(error).splitlines()[0]}") from None
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


@contextmanager
def ray_tasks(address: str) -> Iterator[RayTasks]:
    """Be a driver of the cluster at an address: auto, local or HOST:PORT."""
    with connected(ClusterConfig(address=address)):
        yield RayTasks()


def _carry_out(function: Callable[[Any, Advance], None], task: Any) -> tuple[int, int]:
    """Carry a task out; gives the bytes and words done."""
    done = [0, 0]

    def advance(read: int, words: int) -> None:
        done[0] += read
        done[1] += words

    function(task, advance)
    return done[0], done[1]
