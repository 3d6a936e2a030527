"""Rows on their way between two groups of different sizes, worker to worker.

Row g of a batch is with rank g mod N of the one group and with rank g mod M of the other. So rank r
sends rank m those of its rows r, r + N, r + 2N, … that are m mod M, and each rank puts the rows it
gets from all senders into their order again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

Packed = dict[str, np.ndarray]
"""Tensors as a process hands them over: as arrays, which Ray maps into the reader's memory."""

# NumPy has no bfloat16: its bits travel as whole numbers, under a name that says so.
_BFLOAT16 = "bfloat16:"


def meets(rank: int, world: int, other: int, others: int) -> bool:
    """Whether a rank of one group has rows of a rank of the other: g ≡ rank (mod world) and
    g ≡ other (mod others) has solutions."""
    return (rank - other) % int(np.gcd(world, others)) == 0


def rows_for(rows: int, rank: int, world: int, other: int, others: int) -> Tensor:
    """Which of the `rows` rows of `rank` are also those of `other`, by their place."""
    mine = torch.arange(rows) * world + rank
    return torch.nonzero(mine % others == other).squeeze(1)


def met_by(rank: int, world: int, others: int) -> list[int]:
    """The ranks of the other group that a rank has rows of."""
    return [other for other in range(others) if meets(rank, world, other, others)]


def split(
    tensors: Mapping[str, Tensor], rank: int, world: int, others: int
) -> list[dict[str, Tensor]]:
    """What each rank of the other group gets; for ranks that it does not meet there is no piece."""
    rows = len(next(iter(tensors.values())))
    pieces = []
    for other in met_by(rank, world, others):
        chosen = rows_for(rows, rank, world, other, others)
        pieces.append({name: tensor[chosen.to(tensor.device)] for name, tensor in tensors.items()})
    return pieces


def merge(
    pieces: Sequence[Mapping[str, Tensor]], rank: int, world: int, senders: int
) -> dict[str, Tensor]:
    """Put the pieces from the ranks of the other group that `rank` meets, in the order of those
    ranks, together to the rows of `rank`."""
    met = met_by(rank, world, senders)
    if len(met) == 1:
        return dict(pieces[0])
    rows = sum(len(next(iter(piece.values()))) for piece in pieces)
    merged = {}
    for name, first in pieces[0].items():
        merged[name] = first.new_empty(rows, *first.shape[1:])
        for sender, piece in zip(met, pieces, strict=True):
            chosen = rows_for(rows, rank, world, sender, senders)
            merged[name][chosen.to(first.device)] = piece[name]
    return merged


def pack(tensors: Mapping[str, Tensor]) -> Packed:
    """Tensors as arrays in the host's memory."""
    packed = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dtype == torch.bfloat16:
            name, tensor = _BFLOAT16 + name, tensor.view(torch.int16)
        packed[name] = tensor.numpy()
    return packed


def unpack(packed: Packed, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """The tensors of what `pack` made, with memory of their own."""
    tensors = {}
    for name, array in packed.items():
        # Copied into torch's own memory: a product rounds otherwise where its factors lie askew.
        tensor = torch.tensor(array)
        if name.startswith(_BFLOAT16):
            name, tensor = name.removeprefix(_BFLOAT16), tensor.view(torch.bfloat16)
        tensors[name] = tensor.to(device)
    return tensors
