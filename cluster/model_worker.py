"""Workers of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import nn

from lvtrain.cluster.exchange import Packed, unpack
from lvtrain.cluster.samplers import Samplers
from lvtrain.cluster.worker import Figures, Worker, figures
from lvtrain.data.batches import Batches
from lvtrain.data.store import Store
from lvtrain.evaluation.validation import validation
from lvtrain.randomness import Key
from lvtrain.systems.seq2seq_gan import Seq2SeqGAN
from lvtrain.training.game import ModelPlayer


class AutoencoderWorker(Worker):
    """A worker of the model: it proposes codes, decodes, and learns."""

    player: ModelPlayer
    _employed: Sequence[Any] = ()
    _samplers: Samplers | None = None

    def employ(self, samplers: Sequence[Any]) -> None:
        """Have these workers sample for this one from its start on."""
        self._employed = samplers

    def _build(self) -> nn.Module:
        module = super()._build()
        if self._employed:
            system = cast(Seq2SeqGAN, self.system)
            system.sampling = self._samplers = Samplers(self._employed, system.translator)
        return module

    def busy(self) -> float:
        seconds = super().busy()
        if self._samplers is not None:
            seconds -= self._samplers.waited
            self._samplers.waited = 0.0
        return seconds

    def start(self, address: str, port: int, found: str, step: int) -> None:
        super().start(address, port, found, step)
        settings, seat = self.config.train, self.seat
        store = Store.open(self.config.store)
        self.batches = Batches(
            store.split("train"),
            batch_size=settings.batch_size,
            seed=settings.seed,
            rank=seat.rank,
            world=seat.world,
            by_length=settings.by_length,
            locality=settings.locality,
            device=self.device,
            prefetch=True,
        )
        self._validate = None
        if seat.rank == 0 and settings.validate_every and "valid" in store.splits:
            self._validate = validation(
                self.system, self.config, store.split("valid"), store.tokenizer,
                store.target_tokenizer,
            )  # fmt: skip

    def propose(self, index: int, key: Key) -> Any:
        with self._doing("propose", key):
            return self._handed(self.player.propose(self.batches.at(index), self._of_rank(key)))

    def show(self, indices: Sequence[int], key: Key) -> Any:
        """What the adversary is to see of batches that are not learnt from, all in one piece a
        worker: names are numbered by the place of the batch."""
        with self._doing("show", key):
            shown = self.player.show([self.batches.at(i) for i in indices], self._of_rank(key))
            numbered = [
                {f"{place}:{name}": tensor for name, tensor in tensors.items()}
                for place, tensors in enumerate(shown)
            ]
            return self._handed({name: t for tensors in numbered for name, t in tensors.items()})

    def decode(self) -> None:
        with self._doing(self._phase.split(",")[0] + ", decode"):
            self.player.decode()

    def learn(self, key: Key, *answer: Packed) -> Figures:
        with self._doing("learn", key):
            return figures(self.player.learn(self._got(answer) if answer else None))

    def validate(self, step: int, theirs: Mapping[str, Packed] | None) -> Figures:
        """The figures on the validation split, with the parts of the adversary as they are."""
        self._phase = f"step {step}, validating"
        for name, weights in (theirs or {}).items():
            self.system.parts[name].load_state_dict(unpack(weights, self.device))
        return dict(self._validate(step)) if self._validate else {}
