"""Files that stand beside others line by line: their labels, or their parallel side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from lvtrain.errors import UserError
from lvtrain.text.columns import Block


class Side:
    """Sentences of other files, read in step with the main ones: as many, one for each."""

    def __init__(self, kind: str, names: tuple[str, str], blocks: Iterable[Block]) -> None:
        self._kind = kind
        self._names = names
        self._rows = (row for block in blocks for row in block.columns[0])
        self._taken = 0

    def take(self, count: int, main: Iterator[Block]) -> list[str]:
        """Return the next lines; if they run out, count what `main` has left and raise."""
        lines = list(islice(self._rows, count))
        if len(lines) < count:
            left = sum(len(block.columns[0]) for block in main)
            raise self._unequal(self._taken + count + left, self._taken + len(lines))
        self._taken += count
        return lines

    def finish(self) -> None:
        """Raise if there are lines left."""
        left = sum(1 for _ in self._rows)
        if left:
            raise self._unequal(self._taken, self._taken + left)

    def _unequal(self, main: int, side: int) -> UserError:
        ended = self._names[0] if main < side else self._names[1]
        return UserError(
            f"{self._kind} files of unequal length: {self._names[0]} has {main:,} lines, "
            f"{self._names[1]} has {side:,} ({ended} ended first)"
        )
