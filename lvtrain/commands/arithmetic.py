"""`lvtrain arithmetic RUN`: move sentences by the difference of two groups of sentences."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from lvtrain.commands.parse import parse


@dataclass(frozen=True, kw_only=True)
class ArithmeticArguments:
    """Add to the code of each sentence the mean code of one group minus that of another: vector
    arithmetic in latent space."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    sentences: tyro.conf.Positional[tuple[str, ...]]
    """The sentences to move."""
    plus: tuple[str, ...]
    """Sentences that have the attribute; one file name after @ reads a sentence a line."""
    minus: tuple[str, ...]
    """Sentences that lack it, likewise."""
    scale: float = 1.0
    """Length of the move."""
    json: bool = False
    """A JSON array of {source, result}."""


def run(argv: list[str]) -> int:
    arguments = parse(
        ArithmeticArguments,
        argv,
        "arithmetic",
        "lvtrain arithmetic runs/first 'a man walks .' --plus @walking --minus @sitting",
    )

    from lvtrain.model import Model

    plus, minus = _group("--plus", arguments.plus), _group("--minus", arguments.minus)
    model = Model.load(arguments.run)
    moved = model.arithmetic(arguments.sentences, plus, minus, arguments.scale)
    if arguments.json:
        pairs = zip(arguments.sentences, moved, strict=True)
        print(json.dumps([{"source": s, "result": r} for s, r in pairs], indent=2))
    else:
        print("\n".join(moved))
    return 0


def _group(flag: str, given: tuple[str, ...]) -> list[str]:
    """The sentences of one side; `@file` stands for the file's lines."""
    from lvtrain.data.sources import read
    from lvtrain.errors import UserError

    sentences: list[str] = []
    for item in given:
        if item.startswith("@"):
            sentences += [sentence.text for sentence in read([item[1:]])]
        else:
            sentences.append(item)
    if not sentences:
        raise UserError(f"arithmetic: {flag}: expected at least one sentence, found none")
    return sentences
