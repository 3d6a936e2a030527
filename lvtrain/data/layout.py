"""The columns that the shards of a store have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns that the shards of a store have."""

    tokens: np.dtype
    labels: bool = False
    targets: np.dtype | None = None

    def schema(self, length: int) -> pa.Schema:
        """Return the Arrow schema of a shard of rows of `length` tokens."""
        item = pa.field("item", pa.from_numpy_dtype(self.tokens), nullable=False)
        fields = [pa.field("tokens", pa.list_(item, length), nullable=False)]
        if self.labels:
            fields.append(pa.field("label", pa.int32(), nullable=False))
        if self.targets is not None:
            item = pa.field("item", pa.from_numpy_dtype(self.targets), nullable=False)
            fields.append(pa.field("target", pa.list_(item), nullable=False))
        return pa.schema(fields)


def smallest_dtype(vocab_size: int) -> np.dtype:
    """Return the smallest integer type of a shard that holds every id of a vocabulary."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)
