"""Sentences added to a store that is there: `lvtrain prepare --append`.

New shards stand beside the old ones, which are neither read nor written again; then the index is
replaced. The vocabulary stays, words it has not are unknown; and so does the split of a sentence,
which follows from its hash. Duplicates are looked for among what is added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from lvtrain.data.folder import work_folder, write_whole
from lvtrain.data.info import INDEX, TARGET_TOKENIZER, TOKENIZER, SplitInfo, StoreInfo, reasons
from lvtrain.data.location import Uri
from lvtrain.data.store import Store, read_index
from lvtrain.errors import UserError
from lvtrain.prepare.config import PrepareConfig
from lvtrain.prepare.inputs import check_alike, key_of, names_of, sorter_of, threshold_of
from lvtrain.prepare.sending import sent_folder
from lvtrain.prepare.stages import SPLITS, Progress, Work
from lvtrain.prepare.tally import check_splits
from lvtrain.prepare.workers import Processes, Workers, cores, enough_memory
from lvtrain.text.sources import Source

KEPT: Final = (
    "tokenizer", "vocab_size", "target_vocab_size", "shared_vocabulary", "min_count", "lowercase",
    "max_words", "valid_fraction", "seed",
)  # fmt: skip
"""Settings that a store has once and for all."""


def append(
    config: PrepareConfig,
    sources: Mapping[str, Source],
    out: Path | Uri,
    progress: Progress | None = None,
    workers: Workers | None = None,
    given: Collection[str] = (),
) -> StoreInfo:
    """Add sources to the store at `out`; settings that are `given`, or are not the default, must be
    the store's. Raises UserError, and leaves it as it was, for anything wrong with them, or where
    what they have is not what it has."""
    out = out.resolve() if isinstance(out, Path) else out
    store = Store.open(str(out), verify="size")
    info = store.info
    config = _kept(config, info, out, given)
    threshold = _check(info, sources, out)
    check_alike(sources, info)
    key = key_of(config, sources, info.digest)
    if isinstance(out, Path):
        making = work_folder(out, key)
    else:
        making = sent_folder(out, config.work, key, overwrite=False, before=info)
    count = config.processes or cores()
    with making as folder, enough_memory(), Processes(count) as processes:
        # The index was read before the lock was held, which another may have held until now.
        if read_index(out) != info:
            raise UserError(f"{out}: changed meanwhile by another process, expected it as it was")
        work = Work(workers or processes, folder, config, progress)
        # Files of the validation split make no difference to what else is in it.
        # A threshold moved for a sentence of a small corpus stands in older stores' indices.
        sorter = sorter_of(config, min(threshold, threshold_of(config)))
        tasks = work.tasks(sources, sorter)
        # At least two bytes a word, of which there is one in at most so many bytes of text.
        work.check_space(sum(source.bytes for source in sources.values()) // 8)
        tokenizers = out if isinstance(out, Path) else _fetched(store, work.result)
        tallies, slices = work.encode(tasks, sorter, info.labels, info.layout, tokenizers)
        if not slices:
            dropped = sum((tally.dropped for tally in tallies.values()), Counter[str]())
            raise UserError(
                f"{sources['train'].name}: no sentences: dropped "
                f"{reasons(dropped, config.max_words)}"
            )
        names = {split: source.name for split, source in sources.items()}
        check_splits(tallies, names, config.max_words, there=info.splits)
        new = work.assemble(tallies, slices, info.layout, _next_numbers(info))
        grown = replace(
            info,
            splits=_together(info.splits, new),
            sources=(*info.sources, *names_of(sources)),
            # Words out of the vocabulary are among them, and the index counts no others: of those
            # that are there now, which are the most frequent is not known.
            frequent=(),
        )
        index = grown.to_json().encode("utf-8", "backslashreplace")
        if isinstance(out, Path):
            for split in new.values():
                for shard in split.shards:
                    made, place = work.result / shard.file, out / shard.file
                    place.parent.mkdir(exist_ok=True)
                    if made.exists():  # else a call that was killed had moved it
                        made.replace(place)
            write_whole(out / INDEX, index)
        else:
            write_whole(work.result / INDEX, index)
            work.send(grown, out, info)
    return grown


def _fetched(store: Store, folder: Path) -> Path:
    """Save the vocabularies of a store that is elsewhere in a folder, and return it."""
    store.tokenizer.save(folder / TOKENIZER)
    if store.target_tokenizer is not None:
        store.target_tokenizer.save(folder / TARGET_TOKENIZER)
    return folder


def _kept(
    config: PrepareConfig, info: StoreInfo, out: Path | Uri, given: Collection[str]
) -> PrepareConfig:
    """Return the configuration with the store's settings. Raises UserError for other ones."""
    stored = {name: info.settings[name] for name in KEPT if name in info.settings}
    defaults = {field.name: field.default for field in fields(config)}
    for name, value in stored.items():
        found = getattr(config, name)
        if found != value and (name in given or found != defaults[name]):
            flag = name.replace("_", "-")
            if isinstance(value, bool):
                yes, no = f"--{flag}", f"--no-{flag}"
                said = f"{yes}: expected {no}" if found else f"{no}: expected {yes}"
            else:
                said = f"--{flag} {_said(found)}: expected {_said(value)}"
            raise UserError(f"{said}, as {out} was prepared with")
    return replace(config, **stored)


def _said(value: Any) -> str:
    return "none" if value is None else str(value)


def _check(info: StoreInfo, sources: Mapping[str, Source], out: Path | Uri) -> int:
    """Return the threshold of hashes. Raises UserError for a store that cannot grow, and for files
    that it has already."""
    if info.threshold is None:
        raise UserError(f"{out}: prepared by an earlier version, expected a store prepared anew")
    there = {one["file"]: one["bytes"] for one in info.sources}
    for one in names_of(sources):
        if (before := there.get(one["file"])) is not None:
            grown = one["bytes"] != before
            said = f" with {before:,} bytes, now {one['bytes']:,}: its lines" if grown else ""
            raise UserError(
                f"{one['file']}: in {out} already{said}, expected files that are not"
                + (" (what is new, in a file of its own)" if grown else "")
            )
    return info.threshold


def _next_numbers(info: StoreInfo) -> dict[tuple[str, int], int]:
    """Return the number of the first new shard of each split and length."""
    numbers: Counter[tuple[str, int]] = Counter()
    for name, split in info.splits.items():
        numbers.update((name, shard.length) for shard in split.shards)
    return dict(numbers)


def _together(
    before: Mapping[str, SplitInfo], new: Mapping[str, SplitInfo]
) -> dict[str, SplitInfo]:
    """Return the records of all splits, some of which have grown."""
    grown = {}
    for name in SPLITS:
        old, added = before.get(name), new.get(name)
        if old is None or added is None:
            if (one := old or added) is not None:
                grown[name] = one
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
