"""`lvtrain arithmetic RUN`: move sentences by the difference of two groups of sentences."""

from __future__ import annotations

import json
import math
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
    """Sentences that have the attribute; a file name after @ reads a sentence a line."""
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

    from lvtrain.commands.sentences import group, with_words
    from lvtrain.errors import UserError
    from lvtrain.generation.limits import check_number
    from lvtrain.model import Model

    check_number("scale", arguments.scale, -math.inf)
    if not arguments.sentences:
        raise UserError("arithmetic: expected at least one sentence to move, found none")
    sentences = with_words("arithmetic", arguments.sentences)
    plus, minus = group("--plus", arguments.plus), group("--minus", arguments.minus)
    moved = Model.load(arguments.run).arithmetic(sentences, plus, minus, arguments.scale)
    if arguments.json:
        pairs = zip(sentences, moved, strict=True)
        print(json.dumps([{"source": s, "result": r} for s, r in pairs], indent=2))
    else:
        print("\n".join(moved))
    return 0
