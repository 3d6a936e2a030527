"""How an LSTM's sweep is cut into programs: tiles, warps, and whether W_hh stays on chip."""

from __future__ import annotations

from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# Left to others: a collective that shares the GPU must find room while a sweep holds its programs.
RESERVED_SMS = 4
# What the compiler takes of shared memory besides what `_persistent` counts.
RESERVED_BYTES = 3 * 1024
# Rows and units of a program, by bytes a number, best first. More of either leave a thread too few
# registers (`compiled.json`); a larger batch takes more launches.
_TILES = {2: ((16, 32), (16, 16)), 4: ((16, 16),)}
_BK = (16, 32, 64, 128, 256, 512)
# Most bytes of a tile of W_hh that is streamed: several are under way at a time.
_STREAMED = 16 * 1024
# Most bytes of an operand that are loaded ahead: they pass through a thread's registers.
_AHEAD = 64 * 1024
_MOST_AHEAD = 8  # tiles

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


@cache
def plan(direction: Direction, hidden: int, batch: int, dtype: torch.dtype, chip: Chip) -> Plan:
    """Choose the tiles of a sweep.

    Persistent wherever a program's slice of W_hh [4·BH, H] fits on chip: a step lasts as long as
    one program's product and one barrier. Else step by step.
    """
    tiles = _TILES[dtype.itemsize]
    fits = [_persistent(direction, hidden, batch, dtype.itemsize, chip, *tile) for tile in tiles]
    resident = [found for found in fits if found is not None]
    if not resident:
        return _step(direction, hidden, batch, dtype.itemsize, *tiles[0])
    return next((p for p in resident if p.rows >= batch), max(resident, key=lambda p: p.rows))


def _step(direction: Direction, hidden: int, batch: int, size: int, BB: int, BH: int) -> Plan:
    """A launch a step, the slice of W_hh streamed."""
    depth, width = (hidden, 4 * BH) if direction == "forward" else (4 * hidden, BH)
    BK = next(k for k in reversed(_BK) if k == 16 or (k <= 64 and k * width * size <= _STREAMED))
    return Plan(False, batch, BB, BH, BK, -(-depth // BK), 1, warps=4, stages=3)


def _persistent(
    direction: Direction, hidden: int, batch: int, size: int, chip: Chip, BB: int, BH: int
) -> Plan | None:
    """One launch for all steps, if the slice of W_hh and what a step reads fit on chip."""
    depth, width = (hidden, 4 * BH) if direction == "forward" else (4 * hidden, BH)
    # Tiles are unrolled, and the compiler's time grows with the square of their number.
    BK = next(k for k in _BK if depth <= 10 * k and k >= min(depth, 64))
    tiles = -(-depth // BK)
    scratch = BB * 4 * BH * 4
    spare = chip.shared - RESERVED_BYTES - scratch - tiles * BK * width * size
    fitting = min(min(spare, _AHEAD) // (BB * BK * size), _MOST_AHEAD)
    rows = (chip.sms - RESERVED_SMS) // -(-hidden // BH) * BB
    # In up to three rounds a step's loads stay ahead of its products; in more, streaming wins.
    if fitting < -(-tiles // 3) or rows <= 0:
        return None
    rounds = -(-tiles // fitting)
    group = -(-tiles // rounds)
    return Plan(True, min(rows, batch), BB, BH, BK, tiles, group, warps=8, stages=1)


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
