"""Updates from parts of a batch, one after the other: a batch in the memory of one part.

Part a of A holds rows a, a + A, … of the batch. It is to the others what a rank is to the ranks
beside it: what is drawn for a row, and what a row weighs, are the same, so the mean of the parts'
gradients is the gradient of the batch, up to the order of sums.

An adversary answers a whole batch. Its proposal is computed twice for that: once to be seen, and
once more, part by part, to be learnt from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lvtrain.data.batches import Batch
from lvtrain.randomness import Key
from lvtrain.training.game import Game, Metrics, ModelPlayer, Tensors


def accumulating(game: Game, parts: int) -> Game:
    """The game with a model that learns from each batch in `parts` parts."""
    if parts == 1:
        return game
    for engine in game.model.engines.values():
        engine.accumulate(parts)
    return replace(game, model=InParts(game.model, parts, seen=game.adversary is not None))


class InParts:
    """A model player that takes each batch in parts."""

    def __init__(self, player: ModelPlayer, parts: int, *, seen: bool) -> None:
        self.player, self.parts, self.seen = player, parts, seen
        self.engines = player.engines

    def propose(self, batch: Batch, key: Key) -> Tensors:
        self._decoding = False
        self._parts = [
            (batch.part(part, self.parts), key.part(part, self.parts)) for part in range(self.parts)
        ]
        if not self.seen:
            return {}
        with torch.no_grad():
            proposed = [self.player.propose(part, own) for part, own in self._parts]
        return {
            name: torch.stack([tensors[name] for tensors in proposed], dim=1).flatten(0, 1)
            for name in proposed[0]
        }

    def show(self, batches: Sequence[Batch], key: Key) -> list[Tensors]:
        return self.player.show(batches, key)

    def decode(self) -> None:
        """Left to `learn`: what a part decoded would lie in memory until the answer is there."""
        self._decoding = True

    def learn(self, answer: Tensors | None) -> Metrics:
        figures: list[Metrics] = []
        for number, (part, key) in enumerate(self._parts):
            self.player.propose(part, key)
            if self._decoding:
                self.player.decode()
            own = answer and {name: rows[number :: self.parts] for name, rows in answer.items()}
            figures.append(self.player.learn(own))
        means = {n: sum(part[n] for part in figures) / self.parts for n in figures[0]}
        # What the last part alone has is of the whole: it updates.
        return {**figures[-1], **means}
