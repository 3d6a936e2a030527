"""Freed memory is kept for the next step."""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3) in glibc.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Have the C library reuse freed blocks instead of handing them back to the system.

    A training step on a CPU allocates and frees the same hundred megabytes over and over. By
    default, blocks of some size come from the system anew each time, and the first touch of every
    page faults: a sixth of an ARAE step. The price is that the process stays as large as it once
    was. Gives whether it could be done: only glibc has the setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
