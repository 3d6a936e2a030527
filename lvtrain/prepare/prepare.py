"""Text to store: `lvtrain prepare`.

Passes over the input in bounded memory: one counts words and makes the vocabulary, one encodes
each sentence and puts it to the rows of its length, and the rows of each length become shards. Each
pass is many tasks (`stages`, `passes`), for as many processes as there are cores; a `prepare` that
was killed goes on with those that are left.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lvtrain.data.checksums import sha256
from lvtrain.data.folder import WorkFolder, new_folder, resumed_folder
from lvtrain.data.info import INDEX, TARGET_TOKENIZER, TOKENIZER, VERSION, StoreInfo
from lvtrain.data.layout import Layout, smallest_dtype
from lvtrain.data.location import Uri, check_here, place, uri_of
from lvtrain.errors import UserError
from lvtrain.prepare.append import append
from lvtrain.prepare.config import PrepareConfig, check_files, check_settings
from lvtrain.prepare.counts import most_frequent, total
from lvtrain.prepare.inputs import (
    check_alike,
    key_of,
    names_of,
    sorter_of,
    sources_of,
    threshold_of,
)
from lvtrain.prepare.passes import Readable
from lvtrain.prepare.sending import sent_folder
from lvtrain.prepare.stages import Progress, Work
from lvtrain.prepare.tally import check_splits
from lvtrain.prepare.workers import Here, Processes, Workers, cores, enough_memory
from lvtrain.text.sources import Sentences

FREQUENT: Final = 100


def prepare(
    config: PrepareConfig,
    out: Path | str,
    progress: Progress | None = None,
    workers: Workers | None = None,
    given: Collection[str] = (),
) -> StoreInfo:
    """Turn files into a store at `out`. Raises UserError for anything wrong with them.

    With `config.append` they are added to the store that is there, whose settings stay: other ones
    are refused, those named in `given` also where they are the default. What a killed or
    interrupted call had done is not done again. The store is the same whatever the number of
    `workers`, by default one process a core.
    """
    to = place(out)
    check_files(config)
    check_settings(config)
    _check_places(config, to)
    if workers is None:
        check_shared(to)
    sources = sources_of(config)
    if config.append:
        return append(config, sources, to, progress, workers, given)
    key = key_of(config, sources)
    if isinstance(to, Path):
        making = resumed_folder(to, known_by=INDEX, key=key, overwrite=config.overwrite)
    else:
        making = sent_folder(to, config.work, key, config.overwrite)
    count = config.processes or cores()
    with making as folder, enough_memory(), Processes(count) as processes:
        workers = workers or processes
        work = Work(workers, folder, config, progress)
        info = _build(work, sources, names_of(sources))
        if isinstance(to, Uri):
            work.send(info, to)
    return info


def prepare_sentences(
    train: Sentences | Sequence[str],
    valid: Sentences | Sequence[str] | None = None,
    test: Sentences | Sequence[str] | None = None,
    *,
    config: PrepareConfig,
    out: Path | str,
    progress: Progress | None = None,
) -> StoreInfo:
    """Turn sentences in memory into a store at `out`; the files of `config` are not read."""
    check_here(Path(out), "out")
    check_settings(config)
    given = {"train": train, "valid": valid, "test": test}
    sources = {
        split: texts if isinstance(texts, Sentences) else Sentences(texts=list(texts))
        for split, texts in given.items()
        if texts is not None
    }
    with new_folder(Path(out), known_by=INDEX, overwrite=config.overwrite) as folder:
        place = WorkFolder(path=folder, parts=folder / ".parts", result=folder)
        info = _build(Work(Here(), place, config, progress), sources, ())
        shutil.rmtree(place.parts)
    return info


def _build(
    work: Work, sources: Mapping[str, Readable], names: tuple[Mapping[str, Any], ...]
) -> StoreInfo:
    """Carry out all stages, the index of the store last."""
    config = work.config
    check_alike(sources)
    threshold = 0 if "valid" in sources else threshold_of(config)
    tasks = work.tasks(sources, sorter_of(config, threshold))
    seen = work.count(tasks)
    tokenizers = work.tokenizers(seen, sources["train"].name)
    sizes = {name: tokenizer.vocab_size for name, tokenizer in tokenizers.items()}
    targets = smallest_dtype(sizes[TARGET_TOKENIZER]) if seen.parallel else None
    layout = Layout(
        tokens=smallest_dtype(sizes[TOKENIZER]), labels=seen.labels is not None, targets=targets
    )
    needs = total(seen.words) * layout.tokens.itemsize
    if targets is not None:
        needs += total(seen.target_words) * targets.itemsize
    # Once in the rows of each part, once in the shards.
    work.check_space(2 * needs)
    tallies, slices = work.encode(tasks, seen.sorter, seen.labels, layout, work.result)
    check_splits(
        tallies, {split: source.name for split, source in sources.items()}, config.max_words
    )
    splits = work.assemble(tallies, slices, layout)
    info = StoreInfo(
        version=VERSION,
        vocab_size=sizes[TOKENIZER],
        target_vocab_size=sizes.get(TARGET_TOKENIZER),
        labels=seen.labels,
        splits=splits,
        frequent=tuple(most_frequent(seen.words, FREQUENT).items()),
        tokenizers={name: sha256(work.result / name) for name in tokenizers},
        sources=names,
        settings=config.settings,
        # Not one that was moved for a sentence of a small corpus: that is for it alone.
        threshold=threshold,
    )
    # Names of files need not be UTF-8: what is not becomes an escape of JSON's.
    (work.result / INDEX).write_text(info.to_json(), "utf-8", errors="backslashreplace")
    return info


def _check_places(config: PrepareConfig, out: Path | Uri) -> None:
    """Raise UserError for a work folder that has no use, or is none."""
    if config.work is not None and isinstance(out, Path):
        raise UserError(f"--work: expected with a store at a URI, found the path {out}")
    if config.work is not None and uri_of(config.work) is not None:
        raise UserError(f"--work: expected a path, found the URI {config.work}")


def check_shared(out: Path | Uri) -> None:
    """Raise UserError for storage that each process has one of its own of."""
    if str(out).startswith("memory:"):
        raise UserError(
            f"--out {out}: each process has a memory of its own, expected storage that worker "
            "processes share"
        )
