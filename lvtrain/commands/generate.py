"""`lvtrain generate RUN`: new sentences, one a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from lvtrain.commands.parse import parse

# Sentences of one call: they are all held in memory.
MOST = 100_000_000


@dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """Write new sentences of a trained run, one a line."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    num: int = 10
    """Sentences to write."""
    seed: int = 0
    """The same seed gives the same sentences."""
    temperature: float | None = None
    """0 takes the likeliest word, 1 samples: what a language model does unless told otherwise."""
    top_k: int = 0
    """Sample from the k likeliest words only; 0 samples from all."""
    step: int | None = None
    """The checkpoint's step; the best validated one unless told."""
    json: bool = False
    """One JSON array instead of lines."""


def run(argv: list[str]) -> int:
    arguments = parse(GenerateArguments, argv, "generate", "lvtrain generate runs/first --num 10")

    from lvtrain.errors import UserError
    from lvtrain.model import Model

    if not 1 <= arguments.num <= MOST:
        raise UserError(f"generate: --num: expected 1 to {MOST:,}, found {arguments.num}")
    if arguments.top_k < 0:
        raise UserError(f"generate: --top-k: expected 0 or more, found {arguments.top_k}")
    if arguments.temperature is not None and not 0 <= arguments.temperature < float("inf"):
        raise UserError(
            f"generate: --temperature: expected 0 or more, found {arguments.temperature}"
        )
    which = "best" if arguments.step is None else arguments.step
    how = {} if arguments.temperature is None else {"temperature": arguments.temperature}
    sentences = Model.load(arguments.run, which).generate(
        arguments.num, arguments.seed, top_k=arguments.top_k, **how
    )
    print(json.dumps(sentences) if arguments.json else "\n".join(sentences))
    return 0
