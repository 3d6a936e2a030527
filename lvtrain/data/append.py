"""Sentences added to a store that is there: `lvtrain prepare --append`.

New shards stand beside the old ones, which are neither read nor written again; then the index is
replaced. The vocabulary stays, words it has not are unknown; and so does the split of a sentence,
which follows from its hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from lvtrain.data.folder import RESULT, disk_space, work_folder, write_whole
from lvtrain.data.info import INDEX, SplitInfo, StoreInfo, reasons
from lvtrain.data.inputs import check_alike, key_of, names_of
from lvtrain.data.prepare_config import PrepareConfig
from lvtrain.data.sorter import HASH_RANGE, Sorter
from lvtrain.data.sources import Source
from lvtrain.data.stages import Progress, Work
from lvtrain.data.store import Store
from lvtrain.data.workers import Processes, Workers, cores
from lvtrain.errors import UserError

KEPT: Final = (
    "tokenizer", "vocab_size", "target_vocab_size", "shared_vocabulary", "min_count", "lowercase",
    "max_words", "valid_fraction", "seed",
)  # fmt: skip
"""Settings that a store has once and for all."""


def append(
    config: PrepareConfig,
    sources: Mapping[str, Source],
    out: Path,
    progress: Progress | None = None,
    workers: Workers | None = None,
) -> StoreInfo:
    """Add sources to the store at `out`. Raises UserError, and leaves it as it was, for anything
    wrong with them, or where what they have is not what it has."""
    out = out.resolve()
    store = Store.open(out, verify="size")
    info = store.info
    config = _kept(config, info, out)
    threshold = _check(info, sources, out)
    sorter = Sorter(
        lowercase=config.lowercase,
        max_words=config.max_words,
        seed=config.seed % HASH_RANGE,
        threshold=0 if "valid" in sources else threshold,
    )
    check_alike(sources)
    _check_columns(info, sources, out)
    with (
        work_folder(out, key_of(config, sources, info.digest)) as folder,
        Processes(config.processes or cores()) as processes,
    ):
        work = Work(workers or processes, folder / "parts", folder / RESULT, config, progress)
        tasks = work.tasks(sources, sorter)
        # At least two bytes a word, of which there is one in at most so many bytes of text.
        with disk_space(work.result, sum(source.bytes for source in sources.values()) // 8):
            tallies, slices = work.encode(tasks, sorter, info.labels, info.layout, out)
            if not slices:
                dropped = sum((tally.dropped for tally in tallies.values()), Counter[str]())
                raise UserError(
                    f"{sources['train'].name}: no sentences: dropped "
                    f"{reasons(dropped, config.max_words)}"
                )
            new = work.assemble(tallies, slices, info.layout, _next_numbers(info))
        grown = replace(
            info,
            splits=_ordered({**info.splits, **_together(info, new)}),
            sources=(*info.sources, *names_of(sources)),
        )
        for split in new.values():
            for shard in split.shards:
                made, place = work.result / shard.file, out / shard.file
                place.parent.mkdir(exist_ok=True)
                if made.exists():  # else a call that was killed had moved it
                    made.replace(place)
        write_whole(out / INDEX, grown.to_json().encode("utf-8", "backslashreplace"))
    return grown


def _kept(config: PrepareConfig, info: StoreInfo, out: Path) -> PrepareConfig:
    """Return the configuration with the store's settings. Raises UserError for other ones."""
    stored = {name: info.settings[name] for name in KEPT if name in info.settings}
    defaults = {field.name: field.default for field in fields(config)}
    for name, value in stored.items():
        if (given := getattr(config, name)) not in (value, defaults[name]):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {given}: expected {value}, as {out} was prepared with")
    return replace(config, **stored)


def _check(info: StoreInfo, sources: Mapping[str, Source], out: Path) -> int:
    """Return the threshold of hashes. Raises UserError for a store that cannot grow, and for files
    that it has already."""
    if info.threshold is None:
        raise UserError(f"{out}: prepared by an earlier version, expected a store prepared anew")
    there = {(one["file"], one["bytes"]) for one in info.sources}
    for one in names_of(sources):
        if (one["file"], one["bytes"]) in there:
            raise UserError(f"{one['file']}: in {out} already, expected files that are not")
    return info.threshold


def _check_columns(info: StoreInfo, sources: Mapping[str, Source], out: Path) -> None:
    """Raise UserError for sources without what the store has, or with what it has not."""
    chunk = next(sources["train"].chunks())
    for what, own, expected in (
        ("labels", chunk.labels is not None, info.labels is not None),
        ("a parallel side", chunk.targets is not None, info.target_vocab_size is not None),
    ):
        if own != expected:
            found = what if own else f"no {what.removeprefix('a ')}"
            raise UserError(
                f"{sources['train'].name}: expected the same columns as in {out}, found {found}"
            )


def _next_numbers(info: StoreInfo) -> dict[tuple[str, int], int]:
    numbers: Counter[tuple[str, int]] = Counter()
    for name, split in info.splits.items():
        numbers.update((name, shard.length) for shard in split.shards)
    return dict(numbers)


def _ordered(splits: Mapping[str, SplitInfo]) -> dict[str, SplitInfo]:
    return {name: splits[name] for name in ("train", "valid", "test") if name in splits}


def _together(info: StoreInfo, new: Mapping[str, SplitInfo]) -> dict[str, SplitInfo]:
    """Return the records of splits that have grown."""
    grown = {}
    for name, added in new.items():
        old = info.splits.get(name)
        if old is None:
            grown[name] = added
            continue
        shards = sorted((*old.shards, *added.shards), key=lambda s: (s.length, s.file))
        dropped = Counter(old.dropped) + Counter(added.dropped)
        lengths = Counter(old.lengths) + Counter(added.lengths)
        numbers = ("sentences", "words", "tokens", "unknown", "target_tokens", "target_unknown")
        grown[name] = replace(
            old,
            **{field: getattr(old, field) + getattr(added, field) for field in numbers},
            dropped=dict(sorted(dropped.items())),
            lengths=dict(sorted(lengths.items())),
            shards=tuple(shards),
        )
    return grown
