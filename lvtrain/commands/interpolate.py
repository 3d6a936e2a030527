"""`lvtrain interpolate RUN A B`: the sentences between two."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from lvtrain.commands.parse import parse


@dataclass(frozen=True, kw_only=True)
class InterpolateArguments:
    """Write the sentences on the way from one code to another: between two given sentences, or
    between random codes of the generator or prior."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    sentences: tyro.conf.Positional[tuple[str, ...]] = ()
    """Two sentences, or none for random codes."""
    steps: int = 7
    """Sentences to write, both ends included."""
    num: int | None = None
    """Interpolations to write between random codes; 3 unless told."""
    seed: int | None = None
    """Seed of the random codes; 0 unless told."""
    data: Path | None = None
    """The store, which a plain autoencoder's prior is fitted to; the one trained on unless told."""
    json: bool = False
    """A JSON array of arrays."""


def run(argv: list[str]) -> int:
    arguments = parse(
        InterpolateArguments,
        argv,
        "interpolate",
        "lvtrain interpolate runs/first 'a dog runs .' 'two women sing .'",
    )

    from lvtrain.commands.sentences import with_words
    from lvtrain.errors import UserError
    from lvtrain.generation.limits import check_number
    from lvtrain.model import MOST_SENTENCES, MOST_STEPS, Model

    if len(arguments.sentences) not in (0, 2):
        raise UserError(f"interpolate: expected 2 sentences or none, found "
                        f"{len(arguments.sentences)}")  # fmt: skip
    check_number("steps", arguments.steps, 2, MOST_STEPS)
    num = 3 if arguments.num is None else arguments.num
    check_number("num", num, 1, MOST_SENTENCES // arguments.steps)
    sentences = with_words("interpolate", arguments.sentences)
    for name in ("num", "seed", "data"):
        if sentences and (given := getattr(arguments, name)) is not None:
            raise UserError(f"--{name} {given}: expected without sentences, between random codes")
    model = Model.load(arguments.run, data=arguments.data)
    model.require_codes()
    if arguments.data is not None:
        model.require_fitted_prior()
    if sentences:
        start, end = sentences
        ways = [model.interpolate(start, end, arguments.steps)]
    else:
        ways = model.interpolations(num, arguments.steps, arguments.seed or 0)
    print(json.dumps(ways, indent=2) if arguments.json else "\n\n".join(map("\n".join, ways)))
    return 0
