"""What a run on a cluster needs and exchanges, reckoned before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import ray
import torch
from torch import nn

from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.connect import connected
from lvtrain.cluster.controller import check
from lvtrain.cluster.game import game_shape
from lvtrain.cluster.group import seats, shortfall
from lvtrain.config import RunConfig
from lvtrain.generation.recorded import build
from lvtrain.systems import DecodingSystem
from lvtrain.training.game import Game

BYTES = 4
"""Of a number in single precision."""
SUM_BYTES = 8
"""Of a number in a sum of `GroupBatchNorm`."""


def plan(config: RunConfig, cluster: ClusterConfig) -> dict[str, Any]:
    """Resources needed and there, rows a worker, and bytes moved an iteration."""
    check(config, cluster)
    game = game_shape(config)
    wanted = seats(cluster, game.adversary is not None)
    needed = [cluster.needs(seat.role) for seat in wanted]
    with connected(cluster):
        there = ray.cluster_resources()
        nodes = len(ray.nodes())
    size = config.train.batch_size
    figures: dict[str, Any] = {
        "workers": cluster.workers,
        "rows_a_worker": size // cluster.workers,
    }
    if game.adversary is not None:
        figures |= {
            "adversaries": cluster.adversaries,
            "rows_an_adversary": size // cluster.adversaries,
        }
    if cluster.samplers:
        figures |= {"samplers": cluster.samplers, "rows_a_sampler": size // cluster.samplers}
    figures |= {
        "cpus_needed": sum(bundle["CPU"] for bundle in needed),
        "cpus_there": there.get("CPU", 0.0),
        "gpus_needed": sum(bundle.get("GPU", 0.0) for bundle in needed),
        "gpus_there": there.get("GPU", 0.0),
        "nodes": nodes,
        **traffic(config, cluster, game),
        "fits": not shortfall(needed, there),
    }
    return figures


@dataclass(frozen=True, kw_only=True)
class Messages:
    """What an iteration sends between workers, whatever their numbers.

    Sums are over the workers of one part: a gradient's under every stage of ZeRO, and those of
    batch normalisations, which are small but waited for.
    """

    code: int
    """Bytes of a row of codes, or of the answer to it; 0 of translations, whose lengths differ."""
    proposals: int
    """Batches of codes that the model hands over."""
    answers: int
    """Batches that the adversary hands back."""
    model: tuple[int, ...]
    """Bytes of each sum over the workers of the model."""
    critic: tuple[int, ...]
    """Of each sum over the adversary's workers that its answer waits for."""
    generator: tuple[int, ...]
    """Of each that comes after it."""


def messages(config: RunConfig, game: Game) -> Messages:
    """The messages of an iteration of `game`, which `config` describes."""
    with torch.device("meta"):
        system = build(config)
    sizes = {name: _bytes(part) for name, part in system.parts.items()}
    model = sum(sizes[name] for name in game.model.engines)
    if game.adversary is None:
        return Messages(code=0, proposals=0, answers=0, model=(model,), critic=(), generator=())
    code = 0
    if hasattr(system, "decoder"):
        code = cast(DecodingSystem, system).decoder.code * BYTES
    rounds, alternating = game.adversary.rounds, game.schedule == "alternating"
    critic = [sizes[name] for name in game.adversary.engines if name != "generator"]
    generator = system.parts.get("generator")
    normalised = _normalised(generator) if generator else []
    return Messages(
        code=code,
        proposals=rounds + 1 if alternating else 1 + game.fresh,
        answers=1,
        model=(model,) * (2 if alternating else 1),
        # Each round samples: the generator's normalisations take part, forward alone.
        critic=(*normalised, *critic) * rounds,
        generator=(*normalised, *normalised, *([sizes["generator"]] if generator else [])),
    )


def traffic(config: RunConfig, cluster: ClusterConfig, game: Game) -> dict[str, int]:
    """Bytes an iteration: codes and answers between the groups, all of them together, and what
    the sums over each group send from one of its workers."""
    sent = messages(config, game)
    codes = config.train.batch_size * sent.code
    adversary = sum((*sent.critic, *sent.generator))
    known = codes > 0 or game.adversary is None
    exchanged = {"bytes_exchanged": (sent.proposals + sent.answers) * codes} if known else {}
    return exchanged | {
        "bytes_reduced_a_worker": ring(cluster.workers, sum(sent.model)),
        "bytes_reduced_an_adversary": ring(cluster.adversaries, adversary),
    }


def ring(workers: int, size: int) -> int:
    """Bytes that each of `workers` sends to add up `size` bytes of each, 2 (n − 1)/n of them
    (Patarasu & Yuan 2009): an all-reduce, or ZeRO's reduce-scatter and the all-gather after it."""
    return 2 * (workers - 1) * size // workers


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) * BYTES


def _normalised(module: nn.Module) -> list[int]:
    """Bytes that each batch normalisation adds up: two sums of every feature, and the rows."""
    found = [part for part in module.modules() if isinstance(part, nn.BatchNorm1d)]
    return [(2 * part.num_features + 1) * SUM_BYTES for part in found]
