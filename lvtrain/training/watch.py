"""Notices figures that are not finite: at once where reading one costs nothing, or on the device.

A host that reads a loss from a GPU waits for all the work before it. So there the first figure that
is not finite is noted in a tensor, which also tells the optimisers to leave the parameters as they
are from that moment on; the host looks at it when it has a line to write or a checkpoint to commit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lvtrain.errors import NonFiniteLoss
from lvtrain.randomness import Key


class Watch:
    """What a run's engines share: whether a figure was not finite, and the first that was not.

    `deferred` keeps the figures on the device; else each is read when it is noted.
    """

    def __init__(self, device: torch.device | str = "cpu", deferred: bool | None = None) -> None:
        device = torch.device(device)
        self.deferred = device.type != "cpu" if deferred is None else deferred
        self.refused = torch.zeros((), device=device)
        """1 from the first such figure on: `found_inf` of torch's fused optimisers."""
        # Number of the figure, step, value.
        self._first = torch.zeros(3, dtype=torch.float64, device=device)
        self._figures: list[tuple[str, str]] = []

    def note(self, player: str, quantity: str, value: Tensor, key: Key) -> None:
        """Look at a figure; raises NonFiniteLoss at once unless `deferred`."""
        if not self.deferred:
            if not math.isfinite(found := value.item()):
                raise NonFiniteLoss(player, quantity, found)
            return
        if (player, quantity) not in self._figures:
            self._figures.append((player, quantity))
        place = self._figures.index((player, quantity))
        value = value.detach().to(self._first.dtype)
        new = ~value.isfinite() & (self.refused == 0)
        met = torch.stack([torch.full_like(value, place), torch.zeros_like(value), value])
        met[1] = key.number("step", float)
        # In place: work that was recorded goes on reading these tensors.
        self._first.copy_(torch.where(new, met, self._first))
        self.refused.copy_(torch.maximum(self.refused, new.to(self.refused.dtype)))

    def check(self) -> None:
        """Raise NonFiniteLoss for a figure noted before; waits for the device."""
        if self.deferred and self.refused.item():
            number, step, value = self._first.tolist()
            player, quantity = self._figures[int(number)]
            raise NonFiniteLoss(player, quantity, value, step=int(step))
