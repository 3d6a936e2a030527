"""Every system is a game of one or two players; what passes between them is data, never a graph.

The *model* holds the text side and proposes (codes, samples, …); the *adversary* updates itself on
what was proposed and answers with what the model should learn from it (a gradient, a reward). An
iteration under the two schedules:

overlapped     propose → (the adversary updates itself n times and answers) ‖ (the model decodes)
               → the model learns from its own loss and the answer in one backward. With a lag of
               1 the adversary answers before it updates itself, as it was after the iteration
               before: then only its answer is waited for, and the rest has a whole iteration.
alternating    the order of Zhao et al. 2018: the model learns from its own loss; the critic updates
               itself n times, each on a fresh proposal; the model learns from the answer to
               another; the generator updates itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from torch import Tensor

from lvtrain.data.batches import Batch
from lvtrain.randomness import Key
from lvtrain.training.engine import Engine, check_finite
from lvtrain.training.parts import FileRecord, parts

Tensors = Mapping[str, Tensor]
Metrics = dict[str, float | Tensor]
"""Figures of an iteration; a tensor of one number stays where it is until it is written down."""
Schedule = Literal["overlapped", "alternating"]
Lag = Literal[0, 1]


class Source(Protocol):
    """Where batches come from."""

    def at(self, index: int) -> Batch:
        """Batch `index`, counted from the start of training."""
        ...


class Playable(Protocol):
    """What can be trained: something that plays an iteration at a time."""

    @property
    def batches_per_iteration(self) -> int: ...

    def iterate(self, batches: Source, key: Key) -> tuple[Metrics, int]:
        """Play iteration `key.step`; gives its metrics and the words the model learnt from."""
        ...

    def check(self) -> None:
        """Raise NonFiniteLoss for a figure that was not finite since the last check."""
        ...

    def check_state(self) -> None:
        """Raise NonFiniteLoss, naming the tensor, where what a checkpoint would hold is not all
        finite."""
        ...

    def write(self, folder: Path) -> Mapping[str, FileRecord]:
        """Write every part of a checkpoint into a folder; gives the record of each file."""
        ...


class ModelPlayer(Protocol):
    """The text side of a game. `propose`, `decode` and `learn` are called in this order."""

    engines: Mapping[str, Engine]

    def propose(self, batch: Batch, key: Key) -> Tensors:
        """What the adversary is to see of `batch`, detached; the model keeps the graph of it for
        `learn`."""
        ...

    def show(self, batches: Sequence[Batch], key: Key) -> list[Tensors]:
        """What the adversary is to see of batches that the model does not learn from, with `key`
        folded by the place of each among them."""
        ...

    def decode(self) -> None:
        """Compute the model's own loss on the last proposal: the work that hides the adversary's
        time."""
        ...

    def learn(self, answer: Tensors | None) -> Metrics:
        """One update from the own loss, if decoded, and the adversary's answer, if there is one."""
        ...


class SoloPlayer:
    """The model player of a game of one: it proposes nothing and learns from its own loss."""

    def __init__(
        self, loss: Callable[[Batch, Key], tuple[Tensor, Metrics]], engine: Engine
    ) -> None:
        self._loss, self._engine = loss, engine
        self.engines: Mapping[str, Engine] = {"model": engine}

    def propose(self, batch: Batch, key: Key) -> Tensors:
        self._batch, self._key = batch, key
        return {}

    def show(self, batches: Sequence[Batch], key: Key) -> list[Tensors]:
        return [{} for _ in batches]

    def decode(self) -> None:
        self._cost, self._metrics = self._loss(self._batch, self._key)

    def learn(self, answer: Tensors | None) -> Metrics:
        self._engine.backward(self._cost, self._key)
        return {**self._metrics, **self._engine.step(self._key)}


class AdversaryPlayer(Protocol):
    """What plays against the model."""

    engines: Mapping[str, Engine]

    @property
    def rounds(self) -> int:
        """Updates of the critic an iteration."""
        ...

    def criticise(self, proposal: Tensors, key: Key) -> Metrics:
        """Update the critic once on a proposal."""
        ...

    def answer(self, proposal: Tensors) -> Tensors:
        """What the model should learn from the critic about each row of its proposal; the model
        takes the mean over its rows."""
        ...

    def generate(self, rows: int, key: Key) -> Metrics:
        """Update the generator once on `rows` samples, where the game has one."""
        ...


def respond(
    adversary: AdversaryPlayer, proposals: Sequence[Tensors], rows: int, key: Key, lag: Lag = 0
) -> tuple[Tensors, Metrics]:
    """The adversary's whole part of an overlapped iteration: `rounds` critic updates, taking the
    proposals in turn, the answer to the first of them (before those, with a lag), and the
    generator's update."""
    metrics: Metrics = {}
    early = adversary.answer(proposals[0]) if lag else None
    for i in range(adversary.rounds):
        metrics = adversary.criticise(proposals[i % len(proposals)], key.fold("critic", i))
    answer = adversary.answer(proposals[0]) if early is None else early
    return answer, metrics | adversary.generate(rows, key.fold("generator"))


@dataclass(frozen=True, kw_only=True)
class Game:
    """One process playing an iteration at a time."""

    model: ModelPlayer
    adversary: AdversaryPlayer | None = None
    schedule: Schedule = "overlapped"
    fresh: int = 0
    """Batches, besides the one learnt from, that an overlapped iteration encodes for the critic."""
    lag: Lag = 0
    """Iterations that the critic which answers in an overlapped one is behind it."""

    @property
    def engines(self) -> dict[str, Engine]:
        """Every engine of the game, by the name of its part of a checkpoint."""
        return {**self.model.engines, **(self.adversary.engines if self.adversary else {})}

    @property
    def batches_per_iteration(self) -> int:
        if self.adversary is None:
            return 1
        return 1 + self.fresh if self.schedule == "overlapped" else 2 + self.adversary.rounds

    def check(self) -> None:
        for engine in self.engines.values():
            engine.check()

    def check_state(self) -> None:
        for name, engine in self.engines.items():
            check_finite(name, engine.state())

    def write(self, folder: Path) -> Mapping[str, FileRecord]:
        return parts({name: engine.state() for name, engine in self.engines.items()})(folder)

    def iterate(self, batches: Source, key: Key) -> tuple[Metrics, int]:
        first = key.step * self.batches_per_iteration
        batch = batches.at(first)
        if self.adversary is None:
            self.model.propose(batch, key)
            self.model.decode()
            return self.model.learn(None), batch.words
        others = range(first + 1, first + self.batches_per_iteration)
        play = self._overlapped if self.schedule == "overlapped" else self._alternating
        return play(self.adversary, batch, batches, others, key), batch.words

    def _overlapped(
        self, adversary: AdversaryPlayer, batch: Batch, batches: Source, others: range, key: Key
    ) -> Metrics:
        proposals = [self.model.propose(batch, key)]
        proposals += self.model.show([batches.at(i) for i in others], key)
        answer, metrics = respond(adversary, proposals, len(batch.rows), key, self.lag)
        self.model.decode()
        return self.model.learn(answer) | metrics

    def _alternating(
        self, adversary: AdversaryPlayer, batch: Batch, batches: Source, others: range, key: Key
    ) -> Metrics:
        self.model.propose(batch, key)
        self.model.decode()
        metrics = self.model.learn(None)
        # The model rests while the critic learns: one look at all its batches gives the same codes.
        for n, seen in enumerate(self.model.show([batches.at(i) for i in others[:-1]], key)):
            metrics |= adversary.criticise(seen, key.fold("critic", n))
        proposal = self.model.propose(batches.at(others[-1]), key.fold(len(others)))
        metrics |= self.model.learn(adversary.answer(proposal))
        return metrics | adversary.generate(len(batch.rows), key.fold("generator"))
