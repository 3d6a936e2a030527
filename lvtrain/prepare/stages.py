"""The stages of `prepare`: each is tasks for many processes, and what is done is not done again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa

from lvtrain.data.folder import WorkFolder, check_space
from lvtrain.data.info import TARGET_TOKENIZER, TOKENIZER, SplitInfo, StoreInfo, reasons
from lvtrain.data.layout import Layout
from lvtrain.data.location import Uri
from lvtrain.data.spill import Slice
from lvtrain.data.tokenizer import Tokenizer
from lvtrain.errors import UserError
from lvtrain.prepare import counts
from lvtrain.prepare.assembly import Assembly, assemble, assembled, read_assembled
from lvtrain.prepare.config import PrepareConfig
from lvtrain.prepare.duplicates import Comparing, find_duplicates, keyed, write_keys
from lvtrain.prepare.labels import check_number
from lvtrain.prepare.passes import (
    Coding,
    InPiece,
    Readable,
    Task,
    count_part,
    counted,
    encode_part,
    encoded,
    read_encoded,
)
from lvtrain.prepare.sending import Sending, send, send_store, sent
from lvtrain.prepare.sorter import HASH_RANGE, Sorter
from lvtrain.prepare.tally import Tally
from lvtrain.prepare.vocabulary import vocabulary
from lvtrain.prepare.workers import Workers

Progress = Callable[[int, int, str, int], None]
"""Called with what is done, the total, the name of the phase and the words done in it."""

SPLITS: Final = ("train", "valid", "test")

AnyTask = TypeVar("AnyTask", Task, Coding, Comparing)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the first pass learns of the training sentences."""

    sorter: Sorter
    words: pa.Table
    target_words: pa.Table
    dropped: Counter[str]
    """Sentences left out, by reason, those of too many pieces not yet known."""
    labels: tuple[str, ...] | None

    @property
    def parallel(self) -> bool:
        return self.target_words.num_rows > 0


class Work:
    """The passes, one after the other; what is done already is not done again."""

    def __init__(
        self,
        workers: Workers,
        folder: WorkFolder,
        config: PrepareConfig,
        progress: Progress | None,
    ) -> None:
        self._workers = workers
        self.config = config
        self.result = folder.result
        self._folder = folder
        self._parts = folder.parts
        self._report = progress or (lambda done, total, phase, words: None)
        for inner in (self._parts, self.result):
            inner.mkdir(exist_ok=True)

    def check_space(self, needs: int) -> None:
        """Raise `Passing` if the disk is known to be too small for so many bytes, of the rows of
        the parts and the shards together; those that are there take no more."""
        there = [*self._parts.glob("*.rows"), *self.result.glob("*/*.arrow")]
        check_space(self._parts, needs - sum(path.stat().st_size for path in there))

    def tasks(self, sources: Mapping[str, Readable], sorter: Sorter) -> list[Task]:
        """Cut the sources into tasks; those of training data know their duplicates."""
        parts = [(split, part) for split in sources for part in sources[split].parts()]
        tasks = [
            Task(
                source=sources[split],
                split=split,
                part=part,
                number=number,
                folder=self._parts,
                sorter=sorter,
            )
            for number, (split, part) in enumerate(parts)
        ]
        kind = self.config.deduplicate
        if kind == "none":
            return tasks
        training = [task for task in tasks if task.split == "train"]
        finding = [Comparing(**vars(task), kind=kind) for task in training]
        self._run(write_keys, finding, keyed, "comparing")
        find_duplicates(training)
        return [replace(task, deduplicated=True) for task in tasks]

    def count(self, tasks: list[Task]) -> Seen:
        """Count the words of the training sentences.

        Where the corpus is so small that no hash falls below the threshold, or none above, the pass
        is repeated with one that holds out the sentence of the smallest hash, or all but that of
        the largest, if there are two that differ.
        """
        tasks = [task for task in tasks if task.split == "train"]
        sorter = tasks[0].sorter
        while True:
            tasks = [replace(task, sorter=sorter) for task in tasks]
            self._run(count_part, tasks, counted, "counting")
            records = [json.loads(counted(task).read_text()) for task in tasks]
            hashed = [record for record in records if record["smallest"] is not None]
            smallest = min((record["smallest"] for record in hashed), default=HASH_RANGE)
            largest = max((record["largest"] for record in hashed), default=-1)
            if not sorter.threshold or smallest < sorter.threshold <= largest:
                break
            if smallest >= largest:
                threshold = 0
            else:
                threshold = largest if largest < sorter.threshold else smallest + 1
            sorter = replace(sorter, threshold=threshold)
        labels: set[str] | None = None
        for record in records:
            if record["labels"] is not None:
                labels = (labels or set()).union(record["labels"])
        check_number(tasks[0].source.name, labels or set())
        seen = Seen(
            sorter=sorter,
            words=counts.summed(counted(task).with_suffix(".words") for task in tasks),
            target_words=counts.summed(counted(task).with_suffix(".targets") for task in tasks),
            dropped=sum((Counter(record["dropped"]) for record in records), Counter[str]()),
            labels=None if labels is None else _ordered(labels),
        )
        if not seen.words.num_rows:
            said = reasons(seen.dropped, self.config.max_words)
            where = tasks[0].source.name
            raise UserError(f"{where}: no sentences to make a vocabulary of: dropped {said}")
        return seen

    def tokenizers(self, seen: Seen, where: str) -> dict[str, Tokenizer]:
        """Make the vocabularies, or read those of the work that goes on."""
        config = self.config
        words = seen.words
        if config.shared_vocabulary:
            words = counts.added(seen.words, seen.target_words)
        names = [TOKENIZER]
        self._make_tokenizer(TOKENIZER, words, config.vocab_size, where)
        if seen.parallel:
            names.append(TARGET_TOKENIZER)
            if config.shared_vocabulary:
                partial = self._parts / TARGET_TOKENIZER  # what is left of it is not in the store
                shutil.copyfile(self.result / TOKENIZER, partial)
                partial.replace(self.result / TARGET_TOKENIZER)
            else:
                size = config.target_vocab_size or config.vocab_size
                self._make_tokenizer(
                    TARGET_TOKENIZER, seen.target_words, size, f"{where}: parallel side"
                )
        return {name: Tokenizer.load(self.result / name) for name in names}

    def _make_tokenizer(self, name: str, words: pa.Table, size: int | None, where: str) -> None:
        """Train a tokeniser and save it, unless it is there."""
        path = self.result / name
        if not path.exists():
            partial = self._parts / name
            vocabulary(words, self.config, size, where).save(partial)
            partial.replace(path)

    def encode(
        self,
        tasks: list[Task],
        sorter: Sorter,
        labels: tuple[str, ...] | None,
        layout: Layout,
        tokenizers: Path,
    ) -> tuple[dict[str, Tally], list[Slice]]:
        """Encode every sentence, to the rows of each split; `tokenizers` is their folder."""
        coding = [
            Coding(
                **{**vars(task), "sorter": sorter},
                layout=layout,
                labels=labels,
                tokenizers=tokenizers,
            )
            for task in tasks
        ]
        self._run(encode_part, coding, encoded, "encoding")
        tallies: dict[str, Tally] = {}
        slices: list[Slice] = []
        for task in coding:
            found, own = read_encoded(encoded(task))
            slices += own
            for split, tally in found.items():
                tallies.setdefault(split, Tally()).add(tally)
        return {name: tallies[name] for name in SPLITS if name in tallies}, slices

    def assemble(
        self,
        tallies: Mapping[str, Tally],
        slices: list[Slice],
        layout: Layout,
        first: Mapping[tuple[str, int], int] | None = None,
    ) -> dict[str, SplitInfo]:
        """Write the shards, those of each split from the shortest rows to the longest.

        `first` has the number of the first shard of a split and length, where it is not 0.
        """
        buckets: dict[tuple[str, int], list[Slice]] = {}
        for one in slices:
            buckets.setdefault((one.split, one.length), []).append(one)
        tasks = [
            Assembly(
                folder=self._parts,
                slices=tuple(own),
                layout=layout,
                store=self.result,
                first=(first or {}).get(bucket, 0),
            )
            for bucket, own in sorted(buckets.items())
        ]
        total = sum(task.bytes for task in tasks)
        todo = [task for task in tasks if not assembled(task).exists()]
        meter = _Meter(self._report, total, total - sum(task.bytes for task in todo), "writing")
        # The longest tasks first, so that no process is left with one in the end.
        todo.sort(key=lambda task: -task.bytes)
        self._workers.run(assemble, todo, meter)
        meter.end()
        shards = [(task.slices[0].split, info) for task in tasks for info in read_assembled(task)]
        return {
            name: tally.info([info for split, info in shards if split == name])
            for name, tally in tallies.items()
        }

    def send(self, info: StoreInfo, to: Uri, before: StoreInfo | None = None) -> None:
        """Send the store, whose index is there, to a URI; of one that has grown from `before`, what
        is new."""

        def run(tasks: list[Sending]) -> None:
            todo = [task for task in tasks if not sent(task).exists()]
            total = sum(task.bytes for task in tasks)
            meter = _Meter(self._report, total, total - sum(t.bytes for t in todo), "sending")
            self._workers.run(send, todo, meter)
            meter.end()

        send_store(self._folder, info, to, self.config.overwrite, run, before)

    def _run(
        self,
        function: Callable[[AnyTask, Any], None],
        tasks: Sequence[AnyTask],
        done: Callable[[AnyTask], Path],
        phase: str,
    ) -> None:
        """Carry out the tasks that are not done."""
        todo = [task for task in tasks if not done(task).exists()]
        total = sum(task.part.bytes for task in tasks)
        meter = _Meter(self._report, total, total - sum(t.part.bytes for t in todo), phase)
        try:
            self._workers.run(function, todo, meter)
        except InPiece as error:
            # A piece of a file does not know the number of its first line: read the whole.
            task = next(task for task in todo if task.number == error.number)
            scratch = self._parts / "scratch"
            scratch.mkdir(exist_ok=True)
            again = replace(task, part=task.part.whole, folder=scratch, deduplicated=False)
            function(again, lambda read, words: None)
            raise UserError(str(error)) from None
        # Tasks cut their pieces by the size that a file had: of one that is written to meanwhile,
        # lines would be lost.
        for source in {id(task.source): task.source for task in tasks}.values():
            source.check_unchanged()
        meter.end()


class _Meter:
    """Adds up what is done in a phase."""

    def __init__(self, report: Progress, total: int, done: int, phase: str) -> None:
        self._report, self._total, self._done, self._phase = report, total, done, phase
        self._words = 0
        report(done, total, phase, 0)  # from now on the time is taken

    def __call__(self, read: int, words: int) -> None:
        self._done += read
        self._words += words
        self._report(self._done, self._total, self._phase, self._words)

    def end(self) -> None:
        self._report(self._total, self._total, self._phase, self._words)


def _ordered(labels: set[str]) -> tuple[str, ...]:
    """Sort labels, numbers by their value."""
    if all(label.isdecimal() for label in labels):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))
