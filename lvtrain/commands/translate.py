"""`lvtrain translate RUN`: lines of text to their translations."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Annotated

import tyro

from lvtrain.commands.parse import parse
from lvtrain.errors import UserError
from lvtrain.generation.translate import TranslateConfig

if TYPE_CHECKING:
    from lvtrain.generation.translate import Translation, Translator, Watch

# Most lines translated before any of them is written: sorted by length, they make full batches.
_CHUNK = 2048


@dataclass(frozen=True, kw_only=True)
class TranslateArguments:
    """Translate standard input to standard output, a line out for each line in, in order; when the
    input pauses, what has come so far. An empty line stays empty. Text is split into words at
    spaces, as the training text was: tokenise it in the same way. From a file to a file, a bar on
    the terminal says how far it is."""

    run: tyro.conf.Positional[Path]
    """The run folder, or an exported model."""
    sentences: tyro.conf.Positional[tuple[str, ...]] = ()
    """Sentences; standard input, one a line, where none are given."""
    config: Annotated[TranslateConfig, tyro.conf.arg(name="")] = field(
        default_factory=TranslateConfig
    )
    average: int = 1
    """Average the parameters of so many of the newest checkpoints."""
    step: int | None = None
    """The checkpoint's step; the best validated one unless told, or the newest to average."""
    json: bool = False
    """A JSON object a line: the source and its translations with their scores. Without it, the
    --nbest translations of a line are lines `number ||| translation ||| score`."""


def run(argv: list[str]) -> int:
    arguments = parse(
        TranslateArguments, argv, "translate", "lvtrain translate runs/first --beam 5 < source.txt"
    )

    from lvtrain.commands.sentences import stdin_parts
    from lvtrain.commands.signals import signals_held
    from lvtrain.config import check
    from lvtrain.model import Model

    check(arguments.config)
    which = "best" if arguments.step is None else arguments.step
    model = Model.load(arguments.run, which, average=arguments.average)
    translator = model.translator
    for given in arguments.sentences:
        if Path(given).is_file():
            print(f"{given}: translated as a sentence; a file is read from standard input, "
                  f"lvtrain translate {arguments.run} < {given}", file=sys.stderr)  # fmt: skip
    parts, where = stdin_parts(_CHUNK, pauses=True), "standard input: line"
    if arguments.sentences:
        parts, where = iter([list(arguments.sentences)]), "sentence"
    first = 1
    with _watched(0 if arguments.sentences else _bytes_to_read()) as watch_of:
        for part in parts:
            mistake = None
            if not arguments.sentences:
                part, mistake = _before_refused(translator, part, arguments.config, first, where)
            every = translator.translate(part, arguments.config, first, where, watch_of(part))
            text = "".join(
                _said(number, source, best, arguments)
                for number, (source, best) in enumerate(zip(part, every, strict=True), first)
            )
            with signals_held():  # what is written is whole lines
                sys.stdout.write(text)
                sys.stdout.flush()
            if mistake:
                raise mistake
            first += len(part)
    return 0


def _bytes_to_read() -> int:
    """Bytes of the file on standard input that are not read yet; 0 where it is no file."""
    try:
        file = sys.stdin.fileno()
        status = os.fstat(file)
        return status.st_size - os.lseek(file, 0, os.SEEK_CUR) if S_ISREG(status.st_mode) else 0
    except (AttributeError, OSError, ValueError):  # closed, or of another kind
        return 0


@contextmanager
def _watched(size: int) -> Iterator[Callable[[list[str]], Watch | None]]:
    """Give the function from the lines of a part of so many bytes to who watches its translation: a
    bar, where it has a terminal that the translations do not go to as well."""
    if size <= 0 or not sys.stderr.isatty() or sys.stdout.isatty():
        yield lambda lines: None
        return
    from lvtrain.commands.progress import shown

    read = words = 0

    with shown("translating") as tell:

        def watch_of(lines: list[str]) -> Watch:
            nonlocal read
            start, before = read, words
            read += (own := sum(len(line.encode()) + 1 for line in lines))

            def watch(done: int, total: int) -> None:
                nonlocal words
                words = before + done
                tell(start + own * done // max(1, total), size, "translating", words)

            return watch

        yield watch_of


def _before_refused(
    translator: Translator, lines: list[str], config: TranslateConfig, first: int, where: str
) -> tuple[list[str], UserError | None]:
    """The lines before the first that is refused, and why it is."""
    if config.long == "refuse":
        for place, line in enumerate(lines):
            try:
                translator.pieces(line, config, f"{where} {first + place}")
            except UserError as error:
                return lines[:place], error
    return lines, None


def _said(number: int, source: str, best: list[Translation], how: TranslateArguments) -> str:
    """What is written of a line, ended."""
    if how.json:
        record = {"source": source, "translations": [found._asdict() for found in best]}
        return json.dumps(record, ensure_ascii=False) + "\n"
    if how.config.search.nbest == 1:
        return f"{best[0].text}\n"
    return "".join(f"{number} ||| {found.text} ||| {found.score:.4f}\n" for found in best)
