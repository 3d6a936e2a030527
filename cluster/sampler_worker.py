"""Workers that sample translations and roll them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from lvtrain.cluster.exchange import Packed, pack, unpack
from lvtrain.cluster.worker import Worker
from lvtrain.systems.seq2seq_gan import Seq2SeqGAN
from lvtrain.systems.seq2seq_sampling import SamplingTask, sampled
from lvtrain.training.parts import FileRecord


class SamplerWorker(Worker):
    """A worker that samples; it belongs to no group, and holds nothing that a checkpoint has."""

    def start(self) -> None:  # type: ignore[override]
        self._settle()
        self._build()

    def sample(self, weights: Packed, task: SamplingTask) -> Packed:
        with self._doing("sample", task.key):
            translator = cast(Seq2SeqGAN, self.system).translator
            translator.load_state_dict(unpack(weights, self.device))
            found = sampled(translator, task.to(self.device))
            return pack({"tokens": found.tokens, "completions": found.completions})

    def save(self, folder: str) -> Mapping[str, FileRecord]:
        return {}

    def check_state(self) -> None:
        """Nothing that is kept is here."""
