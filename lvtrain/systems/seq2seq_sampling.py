"""Samples of a translator, drawn by itself or by somebody else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64
from torch import Tensor

from lvtrain.objectives.rollouts import Sampled, sample
from lvtrain.randomness import Key
from lvtrain.systems.seq2seq import Seq2Seq


@dataclass(frozen=True, kw_only=True)
class SamplingTask:
    """What is to be sampled; each row draws the same whoever draws it."""

    sources: Int64[Tensor, "B T"]
    lengths: Int64[Tensor, " B"]
    width: int
    """Words of a translation at most, with the end."""
    prefixes: range
    """Numbers of words of the prefixes that are completed."""
    rollouts: int
    """Completions of each."""
    temperature: float
    """Of the policy that is sampled from."""
    key: Key

    def part(self, index: int, count: int) -> SamplingTask:
        """Rows `index`, `index` + `count`, …: one of `count` parts."""
        own = slice(index, None, count)
        return replace(
            self,
            sources=self.sources[own],
            lengths=self.lengths[own],
            key=self.key.part(index, count),
        )

    def to(self, device: torch.device | str) -> SamplingTask:
        """With its sentences there."""
        return replace(self, sources=self.sources.to(device), lengths=self.lengths.to(device))


Sampling = Callable[[SamplingTask], Callable[[], Sampled]]
"""Somebody who begins with a task; what is given back waits for the samples."""


@torch.no_grad()
def sampled(translator: Seq2Seq, task: SamplingTask) -> Sampled:
    """The samples of a task, and the roll-outs of their prefixes."""
    memory, device = translator.encode(task.sources, task.lengths), task.sources.device
    return sample(
        translator,
        memory,
        len(task.sources),
        task.width,
        task.prefixes,
        task.rollouts,
        task.key,
        device,
        task.temperature,
    )
