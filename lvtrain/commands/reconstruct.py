"""`lvtrain reconstruct RUN`: sentences through their codes and back."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import tyro

from lvtrain.commands.parse import parse


@dataclass(frozen=True, kw_only=True)
class ReconstructArguments:
    """Encode sentences and decode their codes; one line out for each line in, in order."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    sentences: tyro.conf.Positional[tuple[str, ...]] = ()
    """Sentences; standard input, one a line, where none are given."""
    json: bool = False
    """A JSON array of {source, reconstruction}."""


def _lines(stream: BinaryIO) -> list[str]:
    """The lines of standard input."""
    from lvtrain.errors import UserError

    lines = []
    for number, line in enumerate(stream, start=1):
        try:
            lines.append(line.decode().rstrip("\r\n"))
        except UnicodeDecodeError as error:
            raise UserError(f"standard input: line {number}: not UTF-8: {error.reason}") from None
    return lines


def run(argv: list[str]) -> int:
    arguments = parse(
        ReconstructArguments, argv, "reconstruct", "lvtrain reconstruct runs/first 'a dog runs .'"
    )

    from lvtrain.model import Model

    model = Model.load(arguments.run)
    sources = list(arguments.sentences) or _lines(sys.stdin.buffer)
    written = model.reconstruct(sources) if sources else []
    if arguments.json:
        pairs = zip(sources, written, strict=True)
        print(json.dumps([{"source": s, "reconstruction": r} for s, r in pairs], indent=2))
    else:
        for sentence in written:
            print(sentence)
    return 0
