"""How an LSTM's sweep is cut into programs: tiles, warps, and whether W_hh stays on chip."""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# Left to others: a collective that shares the GPU must find room while a sweep holds its programs.
RESERVED_SMS = 4
# What the compiler takes of shared memory besides what `_shared` counts.
RESERVED_BYTES = 3 * 1024
_BH, _BB, _BK = (32, 16), (16, 32, 64), (16, 32, 64, 128, 256, 512)
# Most bytes of a tile of W_hh that is streamed: several are under way at a time.
_STREAMED = 16 * 1024
# Most bytes of an operand that are loaded ahead: they pass through a thread's registers.
_AHEAD = 64 * 1024

Direction = Literal["forward", "backward"]
"""Which product a sweep's steps are: [BB, H] × [H, 4·BH], or [BB, 4H] × [4H, BH]."""


class Chip(NamedTuple):
    """A GPU's multiprocessors and their shared memory in bytes.

    ``sms`` is 0 where no program can wait for another: in the interpreter, and on AMD's chips,
    whose dies share no cache.
    """

    sms: int
    shared: int


class Plan(NamedTuple):
    """A launch: ``rows`` of the batch at a time, in programs of BB rows and BH units."""

    resident: bool
    rows: int
    BB: int
    BH: int
    BK: int
    tiles: int
    group: int
    warps: int
    stages: int


def plan(direction: Direction, hidden: int, batch: int, dtype: torch.dtype, chip: Chip) -> Plan:
    """Choose the tiles of a sweep.

    Persistent wherever a program's slice of W_hh [4·BH, H] fits on chip, with the fewest rows to a
    program that let the whole batch run at once: a step lasts as long as one program's product and
    one barrier. Else step by step.
    """
    # Four bytes a number and a product 4H deep leave a thread too few registers for 32 units.
    widths = (16,) if direction == "backward" and dtype.itemsize == 4 else _BH
    for resident in (True, False):
        for BH in widths:
            for BB in _BB:
                found = _fit(direction, hidden, batch, dtype.itemsize, chip, resident, BB, BH)
                largest = _BB.index(BB) == len(_BB) - 1
                if found is not None and (found.rows >= batch or largest):
                    return found
    raise ValueError(f"w_hh: no tile of hidden size {hidden} fits {chip.shared} bytes on chip")


def _fit(
    direction: Direction,
    hidden: int,
    batch: int,
    size: int,
    chip: Chip,
    resident: bool,
    BB: int,
    BH: int,
) -> Plan | None:
    depth = hidden if direction == "forward" else 4 * hidden
    width = 4 * BH if direction == "forward" else BH
    # Resident tiles are unrolled, and the compiler's time grows with the square of their number.
    if resident:
        BK = next(k for k in _BK if depth <= 10 * k and k >= min(depth, 64))
    else:
        BK = next(
            k for k in reversed(_BK) if k == 16 or (k <= 64 and k * width * size <= _STREAMED)
        )
    tiles = -(-depth // BK)
    room = chip.shared - RESERVED_BYTES
    scratch = BB * 4 * BH * 4
    if not resident:
        return Plan(False, batch, BB, BH, BK, tiles, 1, warps=4, stages=3)
    spare = min(room - scratch - tiles * BK * width * size, _AHEAD)
    fitting = spare // (BB * BK * size)
    rows = (chip.sms - RESERVED_SMS) // -(-hidden // BH) * BB
    # In up to three rounds a step's loads stay ahead of its products; in more, streaming wins.
    if fitting < -(-tiles // 3) or rows <= 0:
        return None
    rounds = -(-tiles // fitting)
    return Plan(True, min(rows, batch), BB, BH, BK, tiles, -(-tiles // rounds), warps=8, stages=1)


@cache
def chip(device: torch.device) -> Chip:
    """The chip of a device."""
    if device.type == "cpu" or torch.version.hip:
        return Chip(sms=0, shared=64 * 1024)
    properties = torch.cuda.get_device_properties(device)
    shared = getattr(properties, "shared_memory_per_block_optin", 96 * 1024)
    return Chip(sms=properties.multi_processor_count, shared=shared)


def chip_of(tensor: Tensor) -> Chip:
    """The chip that a tensor lies on."""
    return chip(tensor.device)
