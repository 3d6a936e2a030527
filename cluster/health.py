"""What becomes of workers, asked from a process beside the driver.

Ray delivers the calls of one process to an actor in their order, each when what it was given is
there. So a driver could not ask a worker that waits for another one: its question would stand
behind the work that waits, and both would look frozen. Imports nothing heavy: it is run where a
fault is being looked into.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

PING = 5.0
"""Seconds within which a worker that is not frozen says what it is at."""


@dataclass(frozen=True)
class Answer:
    """What a worker is at, or what it died of; neither where it says nothing."""

    phase: str = ""
    died: str = ""


def ask(actors: Sequence[Any]) -> list[Answer]:
    """What each actor answers. Raises RayError where nobody can be found to ask."""
    remote = ray.remote(num_cpus=0, max_retries=0)(_ask)
    return ray.get(remote.remote(list(actors)), timeout=4 * PING)


def _ask(actors: Sequence[Any]) -> list[Answer]:
    asked = [actor.phase.remote() for actor in actors]
    ray.wait(asked, num_returns=len(asked), timeout=PING)
    return [_answer(reference) for reference in asked]


def _answer(reference: Any) -> Answer:
    try:
        return Answer(phase=ray.get(reference, timeout=0))
    except GetTimeoutError:
        return Answer()
    except RayActorError as error:
        return Answer(died=cause(str(error)))


def raised_by(error: RayTaskError) -> str:
    """The worker whose work raised an error: Ray writes its name, as `repr` has it, in the text."""
    found = re.search(r"pid=(\d+), ip=([^,]+),.*?repr=(.+?)\)", str(error))
    return f"{found[3]} (pid {found[1]} on {found[2]})" if found else "a worker"


def cause(said: str) -> str:
    """What Ray knows of a death, in a clause: of signals it learns nothing, only that a connection
    broke off."""
    said = " ".join(said.split())
    where = re.search(r"pid: (\d+) .*?ip: (\S+)", said)
    why = re.search(r"(?:exit detail: |dead because )(?!its worker)(.+?)(?:\. |\.?$)", said)
    known = why[1] if why and "End of file" not in said else "killed, or crashed without a word"
    return f"{known}; pid {where[1]} on {where[2]}" if where else known
