"""Where the players of a run are placed, and how long their work may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lvtrain.config import Count, Natural, NotNegative, Positive

Role = Literal["model", "adversary", "sampler"]
Transport = Literal["store", "nixl"]


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """How many workers play each part, what each is given, and what is done when one fails.

    None of it changes what is learnt: a run goes on with other workers than it was begun with.
    """

    workers: Count = 1
    """Workers of the model: encoder and decoder. They share each batch."""
    adversaries: Count = 1
    """Workers of the adversary: critic and generator. A system without one has none."""
    samplers: Natural = 0
    """Workers that sample translations and roll them out, for a model that learns from rewards: as
    many for each of its own workers, which do without while they learn. With none they sample
    themselves."""
    zero: Literal[0, 1, 2] = 0
    """ZeRO stage: 1 shards the optimisers' state over a group's workers, 2 the gradients too."""
    cpus: Positive = 1.0
    """CPUs of each worker of the model; a whole number of threads, at least one."""
    adversary_cpus: Positive = 1.0
    """CPUs of each worker of the adversary."""
    sampler_cpus: Positive = 1.0
    """CPUs of each sampler."""
    gpus: NotNegative = 0.0
    """GPUs of each worker of the model; workers may share one by fractions."""
    adversary_gpus: NotNegative = 0.0
    """GPUs of each worker of the adversary."""
    sampler_gpus: NotNegative = 0.0
    """GPUs of each sampler."""
    transport: Transport = "store"
    """How codes and answers go from worker to worker: through the object stores of their nodes, or
    straight from memory to memory, a GPU's too, by NIXL (pip install nixl)."""
    spread: bool = False
    """Put workers on different nodes where there are several, instead of close together."""
    address: str = "auto"
    """The Ray cluster: auto is the one this process runs in, or else one started here for the run;
    local is always one of its own."""
    timeout: Positive = 300.0
    """Seconds that an iteration, a commit or a validation may take before the worker that holds it
    up is looked for and the game is started anew."""
    placement_timeout: Positive = 20.0
    """Seconds to wait for resources that others hold."""
    checkpoints: str = ""
    """Where checkpoints are kept if the nodes share no file system: the URI of a folder that all of
    them reach, such as s3://bucket/run, of any file system of pyarrow or fsspec. The run folder
    gets the newest, and the best, when the run ends."""
    failures: Natural = 3
    """Restarts without a new checkpoint between them before the run is given up."""

    def needs(self, role: Role) -> dict[str, float]:
        """What a worker is given, as Ray counts it."""
        cpus, gpus = {
            "model": (self.cpus, self.gpus),
            "adversary": (self.adversary_cpus, self.adversary_gpus),
            "sampler": (self.sampler_cpus, self.sampler_gpus),
        }[role]
        return {"CPU": cpus} | ({"GPU": gpus} if gpus else {})

    def threads(self, role: Role) -> int:
        """Threads of a worker."""
        return max(1, int(self.needs(role)["CPU"]))


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A worker's place: its part, its rank among those with the same part, and their numbers."""

    role: Role
    rank: int
    world: int
    others: int
    """Workers of the other part that it exchanges rows with."""

    def __str__(self) -> str:
        return f"{self.role} rank {self.rank} of {self.world}"
