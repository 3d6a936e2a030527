"""What is counted of a split while its sentences are encoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lvtrain.data.info import SplitInfo, reasons
from lvtrain.data.shards import ShardInfo
from lvtrain.errors import UserError


@dataclass(kw_only=True)
class Tally:
    """Counts of one split."""

    words: int = 0
    tokens: int = 0
    unknown: int = 0
    target_tokens: int = 0
    target_unknown: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    lengths: Counter[int] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add the counts of another part."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    def info(self, shards: Sequence[ShardInfo]) -> SplitInfo:
        """Return the record of a split of these counts and shards."""
        return SplitInfo(
            sentences=self.lengths.total(),
            words=self.words,
            tokens=self.tokens,
            unknown=self.unknown,
            dropped={reason: number for reason, number in sorted(self.dropped.items()) if number},
            lengths=dict(sorted(self.lengths.items())),
            target_tokens=self.target_tokens,
            target_unknown=self.target_unknown,
            shards=tuple(shards),
        )

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Tally:
        """Read what JSON made of the `vars` of one."""
        lengths = Counter({int(length): rows for length, rows in record["lengths"].items()})
        return cls(**{**record, "dropped": Counter(record["dropped"]), "lengths": lengths})


def check_splits(
    tallies: dict[str, Tally],
    names: Mapping[str, str],
    max_words: int,
    there: Collection[str] = (),
) -> None:
    """Raise UserError for a split without a sentence; `names` has those of its files.

    A split that is `there` already may get none.
    """
    held_out = tallies.get("valid")
    if held_out and not held_out.lengths and "valid" not in names and "valid" not in there:
        # All that the hash chose was dropped.
        tallies["train"].dropped += tallies.pop("valid").dropped
    for name, tally in tallies.items():
        if not tally.lengths and name not in there:
            said = reasons(tally.dropped, max_words)
            raise UserError(f"{names[name]}: no sentences in the {name} split: dropped {said}")
