"""The workers of a game on a Ray cluster: resources, processes, what becomes of them.

Nothing is restarted one by one: a worker that died took its engine and its place in the group with
it. So actors are made with no restarts and no retries, and a fault ends the whole game (`hired` is
a context); `controller.py` begins it anew from the last checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch.distributed import DistError

from lvtrain.cluster.adversary_worker import AdversaryWorker
from lvtrain.cluster.config import ClusterConfig, Role, Seat
from lvtrain.cluster.health import PING, ask, raised_by
from lvtrain.cluster.model_worker import AutoencoderWorker
from lvtrain.cluster.sampler_worker import SamplerWorker
from lvtrain.config import RunConfig
from lvtrain.errors import NonFiniteLoss, UserError

START = 120.0
"""Seconds that a start may take where `--timeout` is less: it imports for seconds on a busy node,
and for a process that dies before it has reported to Ray, Ray waits a minute."""
# How often, and each how many seconds, the driver's node is looked for after a fault that nobody
# explains.
_LOOKS, _LOOK = 10, 0.5


class WorkerFault(Exception):
    """A worker died, froze or failed: what is to be said of it, in a line."""


class Unexplained(WorkerFault):
    """Work failed, and no worker is to blame that could be asked."""


class NodeGone(WorkerFault):
    """The node of this process is one of the cluster no longer: Ray's agent on it died."""


@dataclass(frozen=True)
class Member:
    """A worker and its place."""

    seat: Seat
    actor: Any


def seats(cluster: ClusterConfig, adversary: bool) -> list[Seat]:
    """Every worker of a game: of the model, of the adversary if there is one, samplers."""
    workers, adversaries = cluster.workers, cluster.adversaries if adversary else 0
    roles: list[tuple[Role, int, int]] = [
        ("model", workers, adversaries),
        ("adversary", adversaries, workers),
        ("sampler", cluster.samplers, 0),
    ]
    return [
        Seat(role=role, rank=rank, world=world, others=others)
        for role, world, others in roles
        for rank in range(world)
    ]


def shortfall(needed: Sequence[Mapping[str, float]], there: Mapping[str, float]) -> list[str]:
    """What a cluster has too little of, in words: nothing where all workers fit."""
    said = []
    for resource in ("CPU", "GPU"):
        total = sum(bundle.get(resource, 0.0) for bundle in needed)
        if total > there.get(resource, 0.0):
            said.append(f"{total:g} {resource}s needed, {there.get(resource, 0.0):g} there")
    return said


def check_room(
    cluster: ClusterConfig, needed: Sequence[Mapping[str, float]], there: Mapping[str, float]
) -> None:
    """Raise UserError for workers that do not all fit into what is there."""
    if lacking := shortfall(needed, there):
        raise UserError(
            f"--workers {cluster.workers}, --adversaries {cluster.adversaries}, --samplers "
            f"{cluster.samplers}: {'; '.join(lacking)}: give each less with --cpus, --gpus, "
            "--adversary-cpus, --sampler-cpus and so on, fractions among them"
        )


@contextmanager
def hired(config: RunConfig, cluster: ClusterConfig, adversary: bool) -> Iterator[Groups]:
    """All workers of a game, from their placement to their end."""
    # Of what a lost worker leaves undone, one line is said here; Ray would say some of each.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    wanted = seats(cluster, adversary)
    placed = _place(cluster, [cluster.needs(seat.role) for seat in wanted])
    members, gone = [], False
    roles = Counter(seat.role for seat in wanted)
    counts = ", ".join(f"{role} {count}" for role, count in roles.items())
    print(f"starting {len(wanted)} workers: {counts}", file=sys.stderr, flush=True)
    try:
        for index, seat in enumerate(wanted):
            members.append(_hire(config, cluster, seat, placed, index))
        yield Groups(cluster, members)
    except WorkerFault as fault:
        if gone := _node_gone(fault):
            raise NodeGone(str(fault)) from fault
        raise
    finally:
        # Without an agent these may wait for ever, and have nothing left to do.
        for member in members if not gone else ():
            with contextlib.suppress(RayError):
                ray.kill(member.actor)
        if not gone:
            remove_placement_group(placed)


class Groups:
    """The workers of a game, and what becomes of what they are asked."""

    def __init__(self, cluster: ClusterConfig, members: Sequence[Member]) -> None:
        self.cluster, self.members = cluster, members
        self._first = {member.seat: member.actor.phase.remote() for member in members}
        """What each worker answers first: that it is there."""

    def of(self, role: Role) -> list[Member]:
        """The workers of one part, by rank."""
        return [member for member in self.members if member.seat.role == role]

    def start(self, found: str, step: int) -> None:
        """Have both groups meet and take their places in the game at `step`."""
        self.get(self._first.values(), START)
        samplers, models = [member.actor for member in self.of("sampler")], self.of("model")
        asked = [sampler.start.remote() for sampler in samplers]
        for member in models if samplers else ():
            asked.append(member.actor.employ.remote(samplers[member.seat.rank :: len(models)]))
        for role in ("model", "adversary"):
            members = self.of(role)
            if members:
                address, port = self.get([members[0].actor.address.remote()])[0]
                asked += [m.actor.start.remote(address, port, found, step) for m in members]
        self.get(asked, START)

    def get(self, references: Iterable[Any], limit: float = 0.0) -> list[Any]:
        """What comes of work, within the timeout or a greater `limit`. Raises WorkerFault where
        none will, and what a worker raised where it was the training's fault or the user's."""
        wanted, timeout = list(references), self.cluster.timeout
        limit = max(limit, timeout)
        deadline = time.monotonic() + limit
        while True:
            try:
                return ray.get(wanted, timeout=min(timeout, max(0, deadline - time.monotonic())))
            except RayTaskError as error:
                if isinstance(error.cause, NonFiniteLoss | UserError | OSError):
                    raise error.cause from None
                if said := self._gone():
                    raise WorkerFault(said) from error
                if isinstance(error.cause, DistError | RayError):
                    raise WorkerFault(f"{raised_by(error)}: {_first_line(error.cause)}") from error
                raise error.cause from None  # nobody died of it and nobody is stuck: it is a bug
            except RayError as error:
                late, over = time.monotonic() >= deadline, not isinstance(error, GetTimeoutError)
                said = self._gone(late or over)
                if said:
                    raise WorkerFault(said) from error
                if over:
                    raise Unexplained(_first_line(error).rstrip(".")) from error
                if late:
                    nothing = f"nothing came within {limit:g} s, and every worker answers"
                    raise WorkerFault(nothing) from error

    def _gone(self, late: bool = False) -> str:
        """Who is to blame. A worker that died makes those fail that wait for it, so the dead are
        looked for first, then the frozen and, where it is `late`, those that never came up; nothing
        where there are none."""
        try:
            answers = ask([member.actor for member in self.members])
        except RayError:
            return ""  # who would have asked is lost as well
        dead: list[str] = []
        frozen: list[str] = []
        absent: list[str] = []
        for member, answer in zip(self.members, answers, strict=True):
            if answer.died:
                dead.append(f"{member.seat}: the process died ({answer.died})")
            elif not answer.phase:
                there = ray.wait([self._first[member.seat]], timeout=0)[0]
                (frozen if there else absent).append(str(member.seat))
        phases = [answer.phase for answer in answers if answer.phase]
        others = f"; the others were at {phases[0]}" if phases else ""
        if dead:
            return "; ".join(dead) + others
        if frozen:
            return f"{', '.join(frozen)}: frozen, no answer for {PING:g} s{others}"
        return f"{', '.join(absent)}: did not come up{others}" if absent and late else ""


def _node_gone(fault: WorkerFault) -> bool:
    """Whether a fault is that Ray's agent on the node of this process died."""
    own = ray.get_runtime_context().get_node_id()
    # The cluster may know of it a little later than who asked for work there.
    for look in range(_LOOKS if isinstance(fault, Unexplained) else 1):
        time.sleep(_LOOK if look else 0)
        if any(node["NodeID"] == own and not node["Alive"] for node in ray.nodes()):
            return True
    return False


def _place(cluster: ClusterConfig, needed: Sequence[dict[str, float]]) -> PlacementGroup:
    """Reserve what every worker needs; raises UserError where that is not there or not free."""
    check_room(cluster, needed, ray.cluster_resources())
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
    config: RunConfig, cluster: ClusterConfig, seat: Seat, placed: PlacementGroup, index: int
) -> Member:
    """Start a worker in its bundle."""
    kinds = {"model": AutoencoderWorker, "adversary": AdversaryWorker, "sampler": SamplerWorker}
    needed = cluster.needs(seat.role)
    # `phase` is answered beside the work, by workers that are not frozen.
    remote = cast(Any, ray.remote)(
        concurrency_groups={"health": 1}, enable_tensor_transport=cluster.transport != "store"
    )
    actor = remote(kinds[seat.role]).options(
        num_cpus=needed["CPU"],
        num_gpus=needed.get("GPU", 0),
        max_restarts=0,
        max_task_retries=0,
        scheduling_strategy=PlacementGroupSchedulingStrategy(
            placement_group=placed, placement_group_bundle_index=index
        ),
        runtime_env={
            "env_vars": {
                "OMP_NUM_THREADS": str(cluster.threads(seat.role)),
                # As for `lvtrain train`: threads that wait must not spin beside busy ones.
                "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
            }
        },
    )
    return Member(seat, actor.remote(config, cluster, seat))


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _counted(needed: Sequence[Mapping[str, float]]) -> str:
    kinds: dict[str, int] = {}
    for bundle in needed:
        said = " and ".join(f"{amount:g} {resource}" for resource, amount in bundle.items())
        kinds[said] = kinds.get(said, 0) + 1
    return ", ".join(f"{count} × {said}" for said, count in kinds.items())
