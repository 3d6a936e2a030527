"""The players of a game whose work is done by workers elsewhere.

They follow the contract of `lvtrain.training.game`, so the very schedules that drive a game in one
process drive it here. A call hands the work to every worker of a group and returns at once with
references to what will come of it; the driver holds no tensor, and the order in which a schedule
asks is the order in which each worker works. So an overlapped iteration overlaps: the adversary
starts when the codes are there, while the model's workers go on to decode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lvtrain.cluster.config import Transport
from lvtrain.cluster.exchange import meets, met_by
from lvtrain.randomness import Key


@dataclass(frozen=True)
class Place:
    """A batch by its number: workers read their rows of it themselves."""

    index: int
    rows: np.ndarray
    words: int


@dataclass(frozen=True)
class Parcel:
    """What one group handed over: for each of its workers, a reference to each piece."""

    pieces: Sequence[Sequence[Any]]
    place: int | None = None
    """Which of the batches that were shown together, where that is what it is."""

    def for_rank(self, rank: int, world: int) -> list[Any]:
        """The pieces for a worker of the other group."""
        senders = len(self.pieces)
        found = []
        for sender, pieces in enumerate(self.pieces):
            if meets(sender, senders, rank, world):
                found.append(pieces[met_by(sender, senders, world).index(rank)])
        return found


class RemotePlayer:
    """What both players have in common: the workers, and what they were asked to do."""

    engines: Mapping[str, Any] = {}

    def __init__(self, workers: Sequence[Any], others: int, transport: Transport) -> None:
        self.workers, self.others, self.transport = workers, others, transport
        self._pending: list[Any] = []

    def emptied(self) -> list[Any]:
        """References to what comes of the work asked for since this was last asked."""
        pending, self._pending = self._pending, []
        return pending

    def _hand_over(self, method: str, *arguments: Any, to: Parcel | None = None) -> Parcel:
        """Have every worker do what gives pieces for the workers of the other group."""
        if not self.others:
            self._ask(method, *arguments)
            return Parcel([])
        # Not waited for by the driver, to which a piece would come for that: an error in one is met
        # by those it was for, and by all that its worker does after it.
        parcels = []
        for rank, worker in enumerate(self.workers):
            count = len(met_by(rank, len(self.workers), self.others))
            given = to.for_rank(rank, len(self.workers)) if to else ()
            call = getattr(worker, method)
            if self.transport == "store":
                pieces = call.options(num_returns=count).remote(*arguments, *given)
                parcels.append(pieces if count > 1 else [pieces])
            else:
                # One object for all, of which each takes its piece: Ray allows no more.
                direct = call.options(tensor_transport=self.transport)
                parcels.append([direct.remote(*arguments, *given)] * count)
        return Parcel(parcels)

    def _ask(self, method: str, *arguments: Any, given: Parcel | None = None) -> list[Any]:
        """Have every worker do something; gives a reference to each one's result."""
        references = []
        for rank, worker in enumerate(self.workers):
            pieces = given.for_rank(rank, len(self.workers)) if given else ()
            references.append(getattr(worker, method).remote(*arguments, *pieces))
        self._pending += references
        return references


class RemoteModel(RemotePlayer):
    """The model player, by the workers of its group."""

    def propose(self, batch: Place, key: Key) -> Parcel:
        self._key = key
        return self._hand_over("propose", batch.index, key)

    def show(self, batches: Sequence[Place], key: Key) -> list[Parcel]:
        if not batches:
            return []
        shown = self._hand_over("show", [batch.index for batch in batches], key)
        return [Parcel(shown.pieces, place) for place in range(len(batches))]

    def decode(self) -> None:
        self._ask("decode")

    def learn(self, answer: Parcel | None) -> dict[str, Any]:
        references = self._ask("learn", self._key, given=answer)
        return {f"learn of {len(self._pending)}": references}


class RemoteAdversary(RemotePlayer):
    """The adversary player, by the workers of its group."""

    def __init__(
        self, workers: Sequence[Any], others: int, transport: Transport, rounds: int
    ) -> None:
        super().__init__(workers, others, transport)
        self.rounds = rounds
        self._asked: list[tuple[Parcel, Key]] = []
        self._figures: list[Any] = []

    def criticise(self, proposal: Parcel, key: Key) -> dict[str, Any]:
        """Asked of the workers when something else is: rounds that follow one another are one
        call, which hands over once what they share. The figures are in the list from then on."""
        self._asked.append((proposal, key))
        return {"criticise": self._figures}

    def answer(self, proposal: Parcel) -> Parcel:
        self._criticise()
        return self._hand_over("answer", proposal.place, to=proposal)

    def generate(self, rows: int, key: Key) -> dict[str, Any]:
        self._criticise()
        return {"generate": self._ask("generate", rows, key)}

    def _criticise(self) -> None:
        asked, self._asked = self._asked, []
        if not asked:
            return
        parcels: list[Parcel] = []
        rounds = []
        for parcel, key in asked:
            at = next((i for i, p in enumerate(parcels) if p.pieces is parcel.pieces), None)
            if at is None:
                at = len(parcels)
                parcels.append(parcel)
            rounds.append((at, parcel.place, key))
        figures = []
        for rank, worker in enumerate(self.workers):
            given = [parcel.for_rank(rank, len(self.workers)) for parcel in parcels]
            pieces = [piece for parts in given for piece in parts]
            figures.append(worker.criticise.remote(rounds, *pieces))
        self._pending += figures
        self._figures.extend(figures)
        self._figures = []
