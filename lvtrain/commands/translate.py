"""`lvtrain translate RUN`: lines of text to their translations."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lvtrain.commands.parse import parse
from lvtrain.generation.translate import TranslateConfig

if TYPE_CHECKING:
    from lvtrain.generation.translate import Translation

# Lines translated before any of them is written: sorted by length, they make full batches.
_CHUNK = 2048


@dataclass(frozen=True, kw_only=True)
class TranslateArguments:
    """Translate standard input to standard output, a line out for each line in, in order. An empty
    line stays empty. Text is split into words at spaces, as the training text was: tokenise it in
    the same way."""

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

    from lvtrain.commands.sentences import stdin_lines
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
    lines, where = stdin_lines(), "standard input: line"
    if arguments.sentences:
        lines, where = iter(arguments.sentences), "sentence"
    first = 1
    while chunk := list(islice(lines, _CHUNK)):
        every = translator.translate(chunk, arguments.config, first, where)
        for number, (source, best) in enumerate(zip(chunk, every, strict=True), first):
            if arguments.json:
                print(json.dumps(_record(source, best), ensure_ascii=False))
            elif arguments.config.search.nbest == 1:
                print(best[0].text)
            else:
                for translation in best:
                    print(f"{number} ||| {translation.text} ||| {translation.score:.4f}")
        sys.stdout.flush()
        first += len(chunk)
    return 0


def _record(source: str, best: list[Translation]) -> dict[str, object]:
    return {"source": source, "translations": [translation._asdict() for translation in best]}
