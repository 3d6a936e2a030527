"""Everything random in a training step is a pure function of (seed, step, tag).

Nothing holds generator state between steps, so a step can be replayed anywhere and a checkpoint
needs no random state. Draws that belong to the rows of a batch are made for the *global* batch and
then sliced by rank: a batch split over any number of workers sees the same noise, row by row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lvtrain.kernels import noise


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
    tape: Tape | None = field(default=None, compare=False, repr=False)
    """Where the work of this key takes its numbers from, if it is to be played at other steps."""

    def fold(self, *tags: str | int) -> Key:
        """The key for one use (or for one repetition of it) within this key's step."""
        return replace(self, path=(*self.path, *tags))

    def part(self, part: int, parts: int) -> Key:
        """The key for rows `part`, `part + parts`, … of this rank's: what is drawn for them is what
        this key would draw."""
        return replace(self, rank=self.rank + part * self.world, world=self.world * parts)

    def value(self) -> int:
        """63 bits, equal on all ranks, that identify (seed, step, path)."""
        name = repr((self.seed, self.step, self.path)).encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") >> 1

    def number(self, name: str, at: Callable[[int], float]) -> float | Tensor:
        """A number that follows from the step alone, such as a learning rate: `at(step)`."""
        return at(self.step) if self.tape is None else self.tape.number(self.fold(name), at)

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh torch generator at the start of this key's stream, equal on all ranks; not for a
        tape, which could not set it to another step."""
        if self.tape is not None:
            raise NotPlayable("a torch generator cannot be set by the device")
        return torch.Generator(device).manual_seed(self.value())

    def seed_tensor(self, device: torch.device | str = "cpu") -> Tensor:
        """The seed in a tensor, equal on all ranks, for kernels that draw their own noise."""
        if self.tape is not None:
            return self.tape.seed(self)
        # Filled on the device: a copy of one number would have the host wait for it.
        return torch.full((), self.value(), device=device)

    def normal(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal draws for this rank's rows."""
        return noise.normal(self.seed_tensor(device), *shape, rank=self.rank, world=self.world)

    def uniform(self, *shape: int, device: torch.device | str = "cpu") -> Tensor:
        """Draws from U[0, 1) for this rank's rows."""
        return noise.uniform(self.seed_tensor(device), *shape, rank=self.rank, world=self.world)


class NotPlayable(Exception):
    """The work of a step holds something that another step could not set."""


class Tape:
    """The seeds and numbers of one step in tensors, which `turn` sets to another step's.

    Work that was recorded with a key of the tape, as a CUDA graph say, then does that step.
    """

    def __init__(self, device: torch.device | str, step: int) -> None:
        self.device, self.step = torch.device(device), step
        self._seeds: dict[Key, Tensor] = {}
        self._numbers: dict[Key, tuple[Tensor, Callable[[int], float]]] = {}

    def seed(self, key: Key) -> Tensor:
        """The tensor that holds the seed of `key`."""
        key = replace(key, step=0)
        if key not in self._seeds:
            value = replace(key, step=self.step, tape=None).value()
            self._seeds[key] = torch.full((), value, device=self.device)
        return self._seeds[key]

    def number(self, key: Key, at: Callable[[int], float]) -> Tensor:
        """The tensor that holds `at(step)`, the number called `key`."""
        key = replace(key, step=0)
        if key not in self._numbers:
            value = torch.full((), at(self.step), dtype=torch.float32, device=self.device)
            self._numbers[key] = value, at
        return self._numbers[key][0]

    def turn(self, step: int) -> None:
        """Set every seed and number to those of `step`: a copy to the device and a kernel each."""
        self.step = step
        seeds = [replace(key, step=step, tape=None).value() for key in self._seeds]
        numbers = [at(step) for _, at in self._numbers.values()]
        self._fill(list(self._seeds.values()), torch.tensor(seeds, dtype=torch.int64))
        self._fill([tensor for tensor, _ in self._numbers.values()], torch.tensor(numbers))

    def _fill(self, tensors: list[Tensor], values: Tensor) -> None:
        if tensors:
            values = values.pin_memory() if self.device.type == "cuda" else values
            torch._foreach_copy_(tensors, list(values.to(self.device, non_blocking=True).unbind()))
