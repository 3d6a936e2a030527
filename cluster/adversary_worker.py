"""Workers of the adversary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lvtrain.cluster.exchange import Packed
from lvtrain.cluster.worker import Figures, Worker, figures
from lvtrain.randomness import Key
from lvtrain.training.game import AdversaryPlayer, Metrics

Round = tuple[int, int | None, Key]
"""An update of the critic: on which parcel of those handed over, which batch of it, its key."""


class AdversaryWorker(Worker):
    """A worker of the adversary: it criticises proposals, answers them, and generates."""

    player: AdversaryPlayer

    def criticise(self, rounds: Sequence[Round], *pieces: Packed) -> Figures:
        """One update after the other; gives the figures of the last."""
        with self._doing("criticise", rounds[0][2]):
            parcels = 1 + max(parcel for parcel, _, _ in rounds)
            size = len(pieces) // parcels
            got = [self._got(pieces[i * size : (i + 1) * size]) for i in range(parcels)]
            metrics: Metrics = {}
            for parcel, place, key in rounds:
                metrics = self.player.criticise(shown(got[parcel], place), self._of_rank(key))
            return figures(metrics)

    def answer(self, place: int | None, *proposal: Packed) -> Any:
        with self._doing(self._phase.split(",")[0] + ", answer"):
            return self._handed(self.player.answer(shown(self._got(proposal), place)))

    def generate(self, rows: int, key: Key) -> Figures:
        with self._doing("generate", key):
            return figures(self.player.generate(rows // self.seat.world, self._of_rank(key)))


def shown(got: dict[str, Tensor], place: int | None) -> dict[str, Tensor]:
    """A proposal or, where `place` says which, one of those that were shown together."""
    if place is None:
        return got
    prefix = f"{place}:"
    return {n.removeprefix(prefix): t for n, t in got.items() if n.startswith(prefix)}
