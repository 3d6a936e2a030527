"""Files that stand beside others line by line: their labels, or their parallel side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from lvtrain.errors import UserError
from lvtrain.text.columns import Block


class Run(NamedTuple):
    """Lines of one file that follow one another."""

    first: int
    """Place of the first among the lines taken."""
    file: str
    line: int
    """Number of the first in its file, from 1."""


class Side:
    """Sentences of other files, read in step with the main ones: as many, one for each."""

    def __init__(self, kind: str, names: tuple[str, str], blocks: Iterable[Block]) -> None:
        self._kind = kind
        self._names = names
        self._blocks = iter(blocks)
        self._block: Block | None = None
        self._used = 0
        """Lines of the block that were taken."""
        self._taken = 0

    def take(self, count: int, main: Iterator[Block]) -> tuple[list[str], list[Run]]:
        """Return the next lines and where they stand; if they run out, count what `main` has left
        and raise."""
        lines: list[str] = []
        runs: list[Run] = []
        while len(lines) < count:
            if self._block is None or self._used == len(self._block.columns[0]):
                self._block, self._used = next(self._blocks, None), 0
            if self._block is None:
                left = sum(len(block.columns[0]) for block in main)
                raise self._unequal(self._taken + count + left, self._taken + len(lines))
            path, line, (column, *_), _ = self._block
            runs.append(Run(len(lines), str(path), line + self._used))
            found = column[self._used : self._used + count - len(lines)]
            self._used += len(found)
            lines += found
        self._taken += count
        return lines, runs

    def finish(self) -> None:
        """Raise if there are lines left."""
        left = 0 if self._block is None else len(self._block.columns[0]) - self._used
        left += sum(len(block.columns[0]) for block in self._blocks)
        if left:
            raise self._unequal(self._taken, self._taken + left)

    def _unequal(self, main: int, side: int) -> UserError:
        ended = self._names[0] if main < side else self._names[1]
        return UserError(
            f"{self._kind} files of unequal length: {self._names[0]} has {main:,} lines, "
            f"{self._names[1]} has {side:,} ({ended} ended first)"
        )
