"""Bounds on the numbers that a user may give, whether by flag or by keyword."""

from __future__ import annotations

import math

from lvtrain.errors import UserError


def check_number(name: str, value: float, least: float, most: float = math.inf) -> None:
    """Raise UserError, naming the flag of `name`, unless least ≤ value ≤ most and it is finite."""
    # Compared rather than asked: isfinite overflows at the largest integers, and nan is no bound's.
    if least <= value <= most and abs(value) < math.inf:
        return
    if least == -math.inf:
        expected = "a finite number"
    elif most == math.inf:
        expected = f"{least:,} or more" + ("" if isinstance(value, int) else ", and finite")
    else:
        expected = f"{least:,} to {most:,}"
    raise UserError(f"--{name.replace('_', '-')}: expected {expected}, found {value}")
