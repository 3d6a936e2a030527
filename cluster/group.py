"""The workers of a game on a Ray cluster: resources, processes, what becomes of them.

Nothing is restarted one by one: a worker that died took its engine and its place in the group with
it. So actors are made with no restarts and no retries, and a fault ends the whole game (`hired` is
a context); `controller.py` begins it anew from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ray
from ray.exceptions import (
    GetTimeoutError,
    RayActorError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lvtrain.cluster.config import ClusterConfig, Role, Seat
from lvtrain.cluster.worker import AdversaryWorker, AutoencoderWorker
from lvtrain.config import RunConfig
from lvtrain.errors import NonFiniteLoss, UserError

PING = 5.0
"""Seconds within which a worker that is not frozen says what it is at."""


class WorkerFault(Exception):
    """A worker died, froze or failed: what is to be said of it, in a line."""


@dataclass(frozen=True)
class Member:
    """A worker and its place."""

    seat: Seat
    actor: Any


def bundles(cluster: ClusterConfig, adversary: bool) -> list[dict[str, float]]:
    """What each worker needs, those of the model first."""
    roles: list[tuple[Role, int]] = [("model", cluster.workers)]
    if adversary:
        roles.append(("adversary", cluster.adversaries))
    return [
        {"CPU": cluster.cpus_of(role)}
        | ({"GPU": cluster.gpus_of(role)} if cluster.gpus_of(role) else {})
        for role, count in roles
        for _ in range(count)
    ]


def shortfall(needed: Sequence[Mapping[str, float]], there: Mapping[str, float]) -> list[str]:
    """What a cluster has too little of, in words: nothing where all workers fit."""
    said = []
    for resource in ("CPU", "GPU"):
        total = sum(bundle.get(resource, 0.0) for bundle in needed)
        if total > there.get(resource, 0.0):
            said.append(f"{total:g} {resource}s needed, {there.get(resource, 0.0):g} there")
    return said


@contextmanager
def hired(config: RunConfig, cluster: ClusterConfig, adversary: bool) -> Iterator[Groups]:
    """All workers of a game, from their placement to their end."""
    needed = bundles(cluster, adversary)
    placed = _place(cluster, needed)
    members = []
    try:
        for index in range(len(needed)):
            members.append(_hire(config, cluster, needed, placed, index))
        yield Groups(cluster, members)
    finally:
        for member in members:
            with contextlib.suppress(RayError):
                ray.kill(member.actor)
        remove_placement_group(placed)


class Groups:
    """The workers of a game, and what becomes of what they are asked."""

    def __init__(self, cluster: ClusterConfig, members: Sequence[Member]) -> None:
        self.cluster, self.members = cluster, members

    def of(self, role: Role) -> list[Member]:
        """The workers of one part, by rank."""
        return [member for member in self.members if member.seat.role == role]

    def start(self, found: Path | None, step: int) -> None:
        """Have both groups meet and take their places in the game at `step`."""
        asked = []
        for role in ("model", "adversary"):
            members = self.of(role)
            if members:
                address, port = self.get([members[0].actor.address.remote()])[0]
                asked += [m.actor.start.remote(address, port, found, step) for m in members]
        self.get(asked)

    def get(self, references: Iterable[Any]) -> list[Any]:
        """What comes of work. Raises WorkerFault where none will, and what a worker raised where it
        was the training's fault or the user's."""
        wanted = list(references)
        try:
            return ray.get(wanted, timeout=self.cluster.timeout)
        except RayTaskError as error:
            if isinstance(error.cause, NonFiniteLoss | UserError | OSError):
                raise error.cause from None
            if said := self._gone():
                raise WorkerFault(said) from error
            raise error.cause from None  # nobody died of it and nobody is stuck: it is a bug
        except (GetTimeoutError, RayActorError, TaskCancelledError) as error:
            said = self._gone()
            late = f"nothing came within {self.cluster.timeout:g} s, and every worker answers"
            raise WorkerFault(said or late) from error

    def _gone(self) -> str:
        """Who is to blame. A worker that died makes those fail that wait for it, so the dead are
        looked for first, then the frozen; nothing where there are neither."""
        asked = {member.seat: member.actor.phase.remote() for member in self.members}
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=PING)
        phases: dict[Seat, str] = {}
        dead, frozen = [], []
        for seat, reference in asked.items():
            try:
                phases[seat] = ray.get(reference, timeout=0)
            except RayActorError:
                dead.append(seat)
            except GetTimeoutError:
                frozen.append(seat)
        if dead:
            return f"{', '.join(map(str, dead))}: the process died" + _at(phases, dead)
        if frozen:
            return f"{', '.join(map(str, frozen))}: frozen, no answer for {PING:g} s" + _at(
                phases, frozen
            )
        return ""


def _place(cluster: ClusterConfig, needed: Sequence[dict[str, float]]) -> PlacementGroup:
    """Reserve what every worker needs; raises UserError where that is not there or not free."""
    if lacking := shortfall(needed, ray.cluster_resources()):
        raise UserError(
            f"--workers {cluster.workers}, --adversaries {cluster.adversaries}: "
            f"{'; '.join(lacking)}: give each less with --cpus, --adversary-cpus, --gpus and "
            "--adversary-gpus, fractions among them"
        )
    placed = placement_group(list(needed), strategy="SPREAD" if cluster.spread else "PACK")
    if placed.wait(cluster.placement_timeout):
        return placed
    remove_placement_group(placed)
    free = ray.available_resources()
    raise UserError(
        f"no room for the workers within {cluster.placement_timeout:g} s: needed are "
        f"{_counted(needed)}; free are {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs "
        f"over {len(ray.nodes())} nodes"
    )


def _hire(
    config: RunConfig,
    cluster: ClusterConfig,
    needed: Sequence[Mapping[str, float]],
    placed: PlacementGroup,
    index: int,
) -> Member:
    """Start the worker of one bundle; those of the model are the first."""
    workers, adversaries = cluster.workers, len(needed) - cluster.workers
    model = index < workers
    seat = Seat(
        role="model" if model else "adversary",
        rank=index if model else index - workers,
        world=workers if model else adversaries,
        others=adversaries if model else workers,
    )
    # `phase` is answered beside the work, by workers that are not frozen.
    remote = cast(Any, ray.remote)(concurrency_groups={"health": 1})
    actor = remote(AutoencoderWorker if model else AdversaryWorker).options(
        num_cpus=needed[index]["CPU"],
        num_gpus=needed[index].get("GPU", 0),
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            placement_group=placed, placement_group_bundle_index=index
        ),
        runtime_env={
            "env_vars": {
                "OMP_NUM_THREADS": str(max(1, int(needed[index]["CPU"]))),
                # As for `lvtrain train`: threads that wait must not spin beside busy ones.
                "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
            }
        },
    )
    return Member(seat, actor.remote(config, cluster, seat))


def _at(phases: Mapping[Seat, str], gone: Sequence[Seat]) -> str:
    """Where the others of a game were when a worker went."""
    others = [phase for seat, phase in phases.items() if seat not in gone]
    return f"; the others were at {others[0]}" if others else ""


def _counted(needed: Sequence[Mapping[str, float]]) -> str:
    kinds: dict[str, int] = {}
    for bundle in needed:
        said = " and ".join(f"{amount:g} {resource}" for resource, amount in bundle.items())
        kinds[said] = kinds.get(said, 0) + 1
    return ", ".join(f"{count} × {said}" for said, count in kinds.items())
