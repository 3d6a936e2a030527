"""What a run would need and exchange is what its tensors come to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.game import game_shape
from lvtrain.cluster.plan import messages, ring, traffic
from lvtrain.config import RunConfig
from lvtrain.experiment import configure
from lvtrain.generation.recorded import build
from lvtrain.presets import preset


def configured(store: Path, system: str = "arae", **changes: Any) -> RunConfig:
    model, train = preset(system, "tiny")
    return configure(system, replace(model, **changes), train, store, "tiny")


def test_the_messages_of_an_iteration_are_its_codes_and_its_gradients(store: Path) -> None:
    config = configured(store)
    sent = messages(config, game_shape(config))
    system = build(config)
    sizes = {
        name: 4 * sum(parameter.numel() for parameter in part.parameters())
        for name, part in system.parts.items()
    }
    assert sent.code == 4 * config.model.autoencoder.code_size
    assert (sent.proposals, sent.answers) == (2, 1)
    assert sent.model == (sizes["model"],)
    # The critic is updated in every round, on samples of a generator with two normalisations.
    normalisations = 8 * (2 * 256 + 1)
    assert sent.critic == (normalisations, normalisations, sizes["critic"]) * 5
    assert sent.generator == (normalisations,) * 4 + (sizes["generator"],)


def test_an_alternating_iteration_updates_the_model_twice(store: Path) -> None:
    config = configured(store, schedule="alternating")
    sent = messages(config, game_shape(config))
    assert (sent.proposals, sent.answers, len(sent.model)) == (6, 1, 2)


def test_a_system_of_one_player_exchanges_nothing(store: Path) -> None:
    config = configured(store, "vae")
    figures = traffic(config, ClusterConfig(workers=2), game_shape(config))
    assert figures["bytes_exchanged"] == figures["bytes_reduced_an_adversary"] == 0
    assert figures["bytes_reduced_a_worker"] > 0


@pytest.mark.parametrize(("workers", "sent"), [(1, 0), (2, 120), (4, 180)])
def test_a_sum_over_a_ring_sends_twice_all_but_a_share(workers: int, sent: int) -> None:
    assert ring(workers, 120) == sent


def test_the_bytes_of_a_run_follow_its_batch_and_its_workers(store: Path) -> None:
    config = configured(store)
    game = game_shape(config)
    one = traffic(config, ClusterConfig(), game)
    more = traffic(config, ClusterConfig(workers=2, adversaries=2), game)
    code = config.model.autoencoder.code_size
    assert one["bytes_exchanged"] == 3 * 64 * code * 4 == more["bytes_exchanged"]
    assert one["bytes_reduced_a_worker"] == one["bytes_reduced_an_adversary"] == 0
    sent = messages(config, game)
    assert more["bytes_reduced_a_worker"] == sum(sent.model)
    assert more["bytes_reduced_an_adversary"] == sum((*sent.critic, *sent.generator))
