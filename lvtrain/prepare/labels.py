"""What labels may be: none empty, all known, and no more than there can be of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from lvtrain.errors import UserError, cut, nearest, some_of
from lvtrain.text.sources import Chunk

MOST_LABELS: Final = 10_000


def check_labels(chunk: Chunk, labels: Sequence[str], known: Sequence[str] | None = None) -> None:
    """Raise UserError for a label of a chunk that is empty or unknown."""
    found = set(labels)
    if "" in found:
        where = chunk.place_of_label(labels.index(""))
        raise UserError(f"{where}: no label, expected one for every sentence")
    unknown = found.difference(known) if known is not None else set()
    if unknown:
        first = min(unknown)
        raise UserError(
            f"{chunk.place_of_label(labels.index(first))}: label '{cut(first)}' is not in the "
            f"training data: {some_of(known or ())}" + nearest(first, known or ())
        )


def check_number(where: str, labels: set[str]) -> None:
    """Raise UserError for so many labels that they must be something else."""
    if len(labels) > MOST_LABELS:
        raise UserError(
            f"{where}: expected at most {MOST_LABELS:,} different labels, "
            f"found more, such as '{cut(max(labels))}'"
        )
