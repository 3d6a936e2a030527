"""What a run on a cluster needs and exchanges, reckoned before it starts."""

from __future__ import annotations

from typing import Any

import ray
import torch

from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.connect import connected
from lvtrain.cluster.controller import check
from lvtrain.cluster.game import game_shape
from lvtrain.cluster.group import bundles, shortfall
from lvtrain.config import RunConfig
from lvtrain.model import build
from lvtrain.training.game import Game

BYTES = 4
"""Of a number in single precision."""


def plan(config: RunConfig, cluster: ClusterConfig) -> dict[str, Any]:
    """Resources needed and there, rows a worker, and bytes moved an iteration."""
    check(config, cluster)
    game = game_shape(config)
    needed = bundles(cluster, game.adversary is not None)
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


def traffic(config: RunConfig, cluster: ClusterConfig, game: Game) -> dict[str, int]:
    """Bytes an iteration: codes and answers between the groups, all of them together, and what
    reducing gradients sends from each worker, 2 (n − 1)/n of its parameters (Patarasu & Yuan 2009).
    """
    with torch.device("meta"):
        system = build(config)
    parts = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in system.parts.items()
    }
    mine = game.model.engines
    model = sum(count for name, count in parts.items() if name in mine)
    adversary = sum(count for name, count in parts.items() if name not in mine)
    proposals = answers = updates = 0
    if game.adversary is not None:
        rounds = game.adversary.rounds
        proposals = 1 + game.fresh if game.schedule == "overlapped" else rounds + 1
        answers, updates = 1, 2 if game.schedule == "alternating" else 1
    codes = config.train.batch_size * system.decoder.code * BYTES
    return {
        "bytes_exchanged": (proposals + answers) * codes,
        "bytes_reduced_a_worker": _ring(cluster.workers, model) * max(1, updates),
        "bytes_reduced_an_adversary": _ring(cluster.adversaries, adversary),
    }


def _ring(workers: int, parameters: int) -> int:
    return 2 * (workers - 1) * parameters * BYTES // workers
