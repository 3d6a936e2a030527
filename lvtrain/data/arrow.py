"""Arrow's arrays out of numbers and texts, and their numbers as numpy's, without a copy.

Arrow's own conversions import pandas wherever it is installed: half a second and 60 MB of every
process that reads or prepares a store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def to_numpy(array: pa.Array) -> np.ndarray:
    """Return the numbers of an array that has no nulls; they cannot be written to."""
    dtype = np.dtype(str(array.type))
    data = array.buffers()[1]
    if data is None:
        return np.empty(0, dtype=dtype)
    return np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)


def from_numpy(numbers: np.ndarray) -> pa.Array:
    """Return numbers as an array that keeps them alive."""
    data = pa.py_buffer(np.ascontiguousarray(numbers))
    return pa.Array.from_buffers(pa.from_numpy_dtype(numbers.dtype), len(numbers), [None, data])


def from_texts(texts: Sequence[str]) -> pa.Array:
    """Return texts as an array of `large_string`."""
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.large_string(), len(encoded), buffers)
