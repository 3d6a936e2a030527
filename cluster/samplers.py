"""Who samples translations and rolls them out for a worker of the model.

Roll-outs cost many times what a supervised step does, need no gradient and no optimiser, and are
each sentence's own: they can have as many processes, and machines, as there are. A worker of the
model sends each of its samplers the weights as they are, once a step, and some of its rows; while
they sample it takes the supervised loss. A sentence is drawn by the same random numbers wherever it
is drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch
from torch import nn

from lvtrain.cluster.exchange import pack, unpack
from lvtrain.objectives.rollouts import Sampled
from lvtrain.systems.seq2seq_sampling import SamplingTask


class Samplers:
    """The samplers of one worker of the model, as its player asks for samples."""

    def __init__(self, workers: Sequence[Any], translator: nn.Module) -> None:
        self._workers, self._translator = workers, translator
        self._sent: tuple[int, Any] | None = None
        self.waited = 0.0
        """Seconds spent waiting for them."""

    def __call__(self, task: SamplingTask) -> Callable[[], Sampled]:
        """Have each sampler begin with its rows; what is given back waits for them."""
        if self._sent is None or self._sent[0] != task.key.step:
            self._sent = task.key.step, ray.put(pack(self._translator.state_dict()))
        parts = len(self._workers)
        asked = [
            worker.sample.remote(self._sent[1], task.part(part, parts).to("cpu"))
            for part, worker in enumerate(self._workers)
        ]

        def found() -> Sampled:
            started = time.perf_counter()
            pieces = [unpack(piece, task.sources.device) for piece in ray.get(asked)]
            self.waited += time.perf_counter() - started
            tokens, completions = (
                torch.stack([piece[name] for piece in pieces], dim=1).flatten(0, 1)
                for name in ("tokens", "completions")
            )
            return Sampled(tokens, task.prefixes, completions)

        return found
