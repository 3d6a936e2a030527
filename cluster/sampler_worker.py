"""Workers that sample translations and roll them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from lvtrain.cluster.exchange import Packed, pack, unpack
from lvtrain.cluster.worker import Worker
from lvtrain.randomness import Key
from lvtrain.systems.seq2seq_gan import Seq2SeqGAN
from lvtrain.systems.seq2seq_policy import sampled
from lvtrain.training.parts import FileRecord


class SamplerWorker(Worker):
    """A worker that samples; it belongs to no group, and holds nothing that a checkpoint has."""

    def start(self) -> None:  # type: ignore[override]
        self._settle()
        self._build()

    def sample(
        self,
        weights: Packed,
        rows: Packed,
        width: int,
        prefixes: range,
        count: int,
        key: Key,
    ) -> Packed:
        with self._doing("sample", key):
            translator = cast(Seq2SeqGAN, self.system).translator
            translator.load_state_dict(unpack(weights, self.device))
            given = unpack(rows, self.device)
            found = sampled(
                translator, given["sources"], given["lengths"], width, prefixes, count, key
            )
            return pack({"tokens": found.tokens, "completions": found.completions})

    def save(self, folder: str) -> Mapping[str, FileRecord]:
        return {}

    def check_state(self) -> None:
        """Nothing that is kept is here."""
