"""What decoders remember of a batch: tensors whose rows are sentences."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Tensors, or tuples of tensors, whose first dimension is the row of the batch."""

    def select(self, rows: Tensor) -> Self:
        """Chosen rows, in the order of their numbers [N]: some may be left out, some repeated."""
        chosen: dict[str, Any] = {
            field.name: _selected(getattr(self, field.name), rows) for field in fields(self)
        }
        return replace(self, **chosen)


def _selected(held: Any, rows: Tensor) -> Any:
    if isinstance(held, tuple):
        return tuple(_selected(item, rows) for item in held)
    return held.index_select(0, rows)
