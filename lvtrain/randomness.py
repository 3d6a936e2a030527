"""Everything random in a training step is a pure function of (seed, step, tag).

Nothing holds generator state between steps, so a step can be replayed anywhere and a checkpoint
needs no random state. Draws that belong to the rows of a batch are made for the *global* batch and
then sliced by rank: a batch split over any number of workers sees the same noise, row by row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Key:
    """Names a place in the stream of randomness; `fold` gives a sub-key for each use.

    Draws whose first dimension is the batch are row-aligned: `world * rows` rows are drawn and this
    rank keeps rows `rank::world`, matching how a global batch is dealt to the ranks.
    """

    seed: int
    step: int
    rank: int = 0
    world: int = 1
    path: tuple[str | int, ...] = ()

    def fold(self, *tags: str | int) -> Key:
        """The key for one use (or for one repetition of it) within this key's step."""
        return replace(self, path=(*self.path, *tags))

    def value(self) -> int:
        """63 bits, equal on all ranks, that identify (seed, step, path)."""
        name = repr((self.seed, self.step, self.path)).encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh torch generator at the start of this key's stream."""
        return torch.Generator(device).manual_seed(self.value())

    def seed_tensor(self, device: torch.device | str = "cpu") -> Tensor:
        """The seed as an int64 tensor for kernels that draw their own noise; differs by rank."""
        # Filled on the device: a copy of one number would have the host wait for it.
        return torch.full((), self.fold("rank", self.rank).value(), device=device)

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal draws for this rank's rows."""
        return self._rows(torch.randn(self._global(shape), generator=self.generator(device),
                                      device=device))  # fmt: skip

    def uniform(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Draws from U[0, 1) for this rank's rows."""
        return self._rows(torch.rand(self._global(shape), generator=self.generator(device),
                                     device=device))  # fmt: skip

    def _global(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0] * self.world, *shape[1:])

    def _rows(self, drawn: Tensor) -> Tensor:
        return drawn[self.rank :: self.world]
