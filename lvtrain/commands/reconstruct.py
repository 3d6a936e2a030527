"""`lvtrain reconstruct RUN`: sentences through their codes and back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from lvtrain.commands.parse import parse


@dataclass(frozen=True, kw_only=True)
class ReconstructArguments:
    """Encode sentences and decode their codes; one line out for each line in, in order.
    An empty line stays empty."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    sentences: tyro.conf.Positional[tuple[str, ...]] = ()
    """Sentences; standard input, one a line, where none are given."""
    json: bool = False
    """A JSON array of {source, reconstruction}."""


def run(argv: list[str]) -> int:
    arguments = parse(
        ReconstructArguments, argv, "reconstruct", "lvtrain reconstruct runs/first 'a dog runs .'"
    )

    from lvtrain.commands.sentences import from_stdin
    from lvtrain.model import Model

    model = Model.load(arguments.run)
    # Told before standard input is waited for.
    model.require_codes()
    sources = list(arguments.sentences) or from_stdin()
    worded = [source for source in sources if source.split()]
    back = iter(model.reconstruct(worded) if worded else [])
    written = [next(back) if source.split() else "" for source in sources]
    if arguments.json:
        pairs = zip(sources, written, strict=True)
        print(json.dumps([{"source": s, "reconstruction": r} for s, r in pairs], indent=2))
    else:
        for sentence in written:
            print(sentence)
    return 0
