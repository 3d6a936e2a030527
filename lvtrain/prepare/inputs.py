"""The sources that `prepare` is told to read, and what is recorded of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lvtrain.data.info import VERSION, StoreInfo
from lvtrain.data.location import Uri, absolute
from lvtrain.errors import UserError
from lvtrain.prepare.config import PrepareConfig
from lvtrain.prepare.passes import Readable
from lvtrain.prepare.sorter import HASH_RANGE, Sorter
from lvtrain.text.sources import PART_BYTES, Source


def sources_of(config: PrepareConfig) -> dict[str, Source]:
    """Return the source of each split that has files of its own. Raises UserError."""
    sources = {"train": _source(config, config.files, config.labels, config.target)}
    if config.valid:
        sources["valid"] = _source(config, config.valid, config.valid_labels, config.valid_target)
    if config.test:
        sources["test"] = _source(config, config.test, config.test_labels, config.test_target)
    return sources


def names_of(sources: Mapping[str, Source]) -> tuple[dict[str, Any], ...]:
    """Return what a store records of its files."""
    return tuple(
        {"split": split, "file": _name(one.path), "bytes": one.bytes}
        for split, source in sources.items()
        for one in source.inputs
    )


def key_of(config: PrepareConfig, sources: Mapping[str, Source], *others: str) -> str:
    """Name what the work depends on: the settings, and the files as they are."""
    files = [
        [_name(one.path), one.bytes, one.modified]
        for source in sources.values()
        for one in (*source.inputs, *source.label_inputs, *source.target_inputs)
    ]
    record = [VERSION, PART_BYTES, config.settings, files, others]
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _name(path: Path | Uri) -> str:
    """Return the name of a file that is the same whichever folder it is named from."""
    return str(absolute(path) if isinstance(path, Path) else path)


def _source(
    config: PrepareConfig, files: Sequence[str], labels: Sequence[str], target: Sequence[str]
) -> Source:
    return Source(
        files=files,
        column=config.column,
        label_column=config.label_column,
        labels=labels,
        label_by_file=config.label_by_file,
        target=target,
        target_column=config.target_column,
        line_limit=config.line_limit,
    )


def threshold_of(config: PrepareConfig) -> int:
    """Return the hash below which the share of sentences for validation lies."""
    return round(config.valid_fraction * HASH_RANGE)


def sorter_of(config: PrepareConfig, threshold: int) -> Sorter:
    """Return what decides the split of each sentence, training sentences with a hash below the
    threshold being for validation."""
    return Sorter(
        lowercase=config.lowercase,
        max_words=config.max_words,
        seed=config.seed % HASH_RANGE,
        threshold=threshold,
    )


def check_alike(sources: Mapping[str, Readable], store: StoreInfo | None = None) -> None:
    """Read the beginning of every split, so that what is wrong with its files as such, or that it
    has not what the training data have, or the store that they are added to, is told before the
    passes. Raises UserError."""
    first = {split: next(source.chunks(), None) for split, source in sources.items()}
    train = first["train"]
    if store is not None:
        where, labelled, parallel = "the store", store.labels is not None, store.parallel
    elif train is not None:
        where = "the training data"
        labelled, parallel = train.labels is not None, train.targets is not None
    else:
        return
    for split, chunk in first.items():
        if chunk is None:
            continue
        for what, own, expected in (
            ("labels", chunk.labels is not None, labelled),
            ("a parallel side", chunk.targets is not None, parallel),
        ):
            if own != expected:
                raise UserError(
                    f"{sources[split].name}: expected the same columns as in {where}, "
                    f"found {what if own else 'no ' + what.removeprefix('a ')}"
                )
