"""What a store knows of itself: the record in `store.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from lvtrain.data.layout import Layout, smallest_dtype
from lvtrain.data.shards import ShardInfo
from lvtrain.errors import cut, some_of

VERSION: Final = 2
INDEX: Final = "store.json"
TOKENIZER: Final = "tokenizer.json"
TARGET_TOKENIZER: Final = "target_tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """What store.json records of one split."""

    sentences: int
    words: int
    """Words between whitespace, in the sentences kept."""
    tokens: int
    """Ids of the sentences kept, with the end of each."""
    unknown: int
    """Ids that stand for a word out of the vocabulary."""
    dropped: Mapping[str, int]
    """Sentences left out, by reason: `empty`, `too_long`, `duplicate`."""
    lengths: Mapping[int, int]
    """Sentences of each length, in tokens without the end."""
    target_tokens: int
    target_unknown: int
    shards: tuple[ShardInfo, ...]

    @property
    def oov_rate(self) -> float:
        """Share of the tokens, ends not counted, that are out of the vocabulary."""
        return self.unknown / max(1, self.tokens - self.sentences)

    @property
    def target_oov_rate(self) -> float:
        """The same of the parallel side."""
        return self.target_unknown / max(1, self.target_tokens - self.sentences)

    @property
    def mean_length(self) -> float:
        """Mean length in tokens, without the end."""
        return (self.tokens - self.sentences) / max(1, self.sentences)


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What store.json holds."""

    version: int
    vocab_size: int
    """Ids, the four specials included."""
    target_vocab_size: int | None
    labels: tuple[str, ...] | None
    """Names of the labels, in the order of their numbers."""
    splits: Mapping[str, SplitInfo]
    frequent: tuple[tuple[str, int], ...]
    """The most frequent words of the training split, with their counts; none once it has grown."""
    tokenizers: Mapping[str, str]
    """SHA-256 of each tokeniser file."""
    sources: tuple[Mapping[str, Any], ...]
    """The files that the sentences came from: split, file, bytes."""
    settings: Mapping[str, Any]
    """The configuration that the store was prepared with."""
    threshold: int | None = None
    """Sentences added for training with a hash below it are for validation; not known in version
    1. Those of a small corpus may have been parted by another, so that no split is empty."""

    @property
    def parallel(self) -> bool:
        """Whether sentences have a parallel side."""
        return self.target_vocab_size is not None

    @property
    def layout(self) -> Layout:
        """The columns of the shards."""
        return Layout(
            tokens=smallest_dtype(self.vocab_size),
            labels=self.labels is not None,
            targets=smallest_dtype(self.target_vocab_size) if self.target_vocab_size else None,
        )

    @property
    def digest(self) -> str:
        """SHA-256 that names the contents: of the tokenisers and of every shard."""
        lines = [f"{name} {sha}" for name, sha in sorted(self.tokenizers.items())]
        lines += [f"{s.file} {s.sha256}" for split in self.splits.values() for s in split.shards]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def to_json(self) -> str:
        """Return store.json."""
        record = asdict(self)
        for name, split in self.splits.items():
            record["splits"][name]["oov_rate"] = split.oov_rate
        record["digest"] = self.digest
        record["checksum"] = _checksum(json.loads(json.dumps(record)))
        return json.dumps(record, indent=1, ensure_ascii=False) + "\n"

    def figures(self) -> dict[str, Any]:
        """The figures that a user wants to see, as JSON can say them."""
        return {
            "vocab_size": self.vocab_size,
            "target_vocab_size": self.target_vocab_size,
            "labels": self.labels,
            "splits": {
                name: {
                    "sentences": split.sentences,
                    "words": split.words,
                    "tokens": split.tokens,
                    "mean_length": split.mean_length,
                    "longest": max(split.lengths, default=0),
                    "oov_rate": split.oov_rate,
                    **({"target_oov_rate": split.target_oov_rate} if self.parallel else {}),
                    "dropped": dict(split.dropped),
                    "lengths": dict(split.lengths),
                }
                for name, split in self.splits.items()
            },
            "frequent": self.frequent[:10],
        }

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read store.json. Raises KeyError, TypeError or ValueError for anything else."""
        record = json.loads(text)
        checksum = record.pop("checksum", None)  # none in stores of earlier versions
        if checksum is not None and (found := _checksum(record)) != checksum:
            raise ValueError(f"checksum {found[:16]}…, expected {str(checksum)[:16]}…")
        if record["version"] not in range(1, VERSION + 1):
            raise ValueError(f"version {record['version']}, expected {VERSION} or lower")
        digest = record.pop("digest")
        for split in record["splits"].values():
            del split["oov_rate"]
            split["lengths"] = {int(length): rows for length, rows in split["lengths"].items()}
            split["shards"] = tuple(ShardInfo(**shard) for shard in split["shards"])
        record["splits"] = {name: SplitInfo(**split) for name, split in record["splits"].items()}
        record["labels"] = tuple(record["labels"]) if record["labels"] is not None else None
        record["frequent"] = tuple((word, number) for word, number in record["frequent"])
        record["sources"] = tuple(record["sources"])
        info = cls(**record)
        if info.digest != digest:
            raise ValueError(f"digest {info.digest[:16]}…, expected {digest[:16]}…")
        return info

    def summary(self) -> str:
        """Return the figures that a user wants to see, as a table in plain text."""
        unknown = ("unknown", "parallel unknown")[: 1 + self.parallel]
        rows = [("split", "sentences", "words", "tokens", "mean", "longest", *unknown, "dropped")]
        for name, split in self.splits.items():
            dropped = ", ".join(
                f"{number:,} {reason.replace('_', ' ')}" for reason, number in split.dropped.items()
            )
            rates = (split.oov_rate, split.target_oov_rate)
            rows.append(
                (
                    name,
                    f"{split.sentences:,}",
                    f"{split.words:,}",
                    f"{split.tokens:,}",
                    f"{split.mean_length:.1f}",
                    f"{max(split.lengths, default=0)}",
                    *(f"{100 * rate:.2f} %" for rate in rates[: len(unknown)]),
                    dropped or "none",
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if 0 < i < len(row) - 1 else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        vocabulary = f"vocabulary  {self.vocab_size:,} ids, 4 of them special"
        if self.target_vocab_size:
            vocabulary += f"; parallel side {self.target_vocab_size:,}"
        lines += ["", vocabulary]
        if self.labels is not None:
            lines.append(f"labels      {some_of(self.labels)}")
        if self.frequent:
            words = ", ".join(f"{cut(word)} {number:,}" for word, number in self.frequent[:10])
            lines.append(f"frequent    {words}")
        return "\n".join(lines)


def _checksum(record: Any) -> str:
    """SHA-256 of all that store.json says: settings too decide what is added to a store."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def reasons(dropped: Mapping[str, int], max_words: int) -> str:
    """Say how many sentences were dropped and why."""
    limits = {"too_long": f" (over {max_words:,}, see --max-words)"}
    said = [
        f"{number:,} {reason.replace('_', ' ')}{limits.get(reason, '')}"
        for reason, number in sorted(dropped.items())
        if number
    ]
    return ", ".join(said) or "none"
