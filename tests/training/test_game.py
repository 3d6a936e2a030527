"""The order in which players are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from lvtrain.data.batches import Batch
from lvtrain.randomness import Key
from lvtrain.training.game import Game, Lag, Metrics, Schedule, Tensors


class Recorder:
    """Both players, each writing down what it is asked."""

    rounds = 2

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.engines: dict[str, Any] = {}

    def propose(self, batch: Batch, key: Key) -> Tensors:
        self.asked.append("propose")
        return {}

    def show(self, batches: Sequence[Batch], key: Key) -> list[Tensors]:
        return [{} for _ in batches]

    def decode(self) -> None:
        self.asked.append("decode")

    def learn(self, answer: Tensors | None) -> Metrics:
        self.asked.append("learn" if answer is None else "learn from the answer")
        return {}

    def criticise(self, proposal: Tensors, key: Key) -> Metrics:
        self.asked.append("criticise")
        return {}

    def answer(self, proposal: Tensors) -> Tensors:
        self.asked.append("answer")
        return {}

    def generate(self, rows: int, key: Key) -> Metrics:
        self.asked.append("generate")
        return {}


class Batches:
    def at(self, index: int) -> Batch:
        nothing = torch.zeros(2, 1, dtype=torch.long)
        return Batch(tokens=nothing, lengths=nothing[:, 0], rows=np.arange(2), index=index, words=2)


@pytest.mark.parametrize(
    ("schedule", "lag", "order"),
    [
        (
            "overlapped",
            0,
            ["propose", "criticise", "criticise", "answer", "generate", "decode",
             "learn from the answer"],
        ),
        (
            "overlapped",
            1,
            ["propose", "answer", "criticise", "criticise", "generate", "decode",
             "learn from the answer"],
        ),
        (
            "alternating",
            0,
            ["propose", "decode", "learn", "criticise", "criticise", "propose", "answer",
             "learn from the answer", "generate"],
        ),
    ],
)  # fmt: skip
def test_players_are_asked_in_the_order_of_the_schedule(
    schedule: Schedule, lag: Lag, order: list[str]
) -> None:
    both = Recorder()
    game = Game(model=both, adversary=both, schedule=schedule, lag=lag)
    game.iterate(Batches(), Key(seed=0, step=0))
    assert both.asked == order
