"""`lvtrain generate RUN`: new sentences, one a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from lvtrain.commands.parse import parse


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
    code_noise: float = 0.0
    """Standard deviation of Gaussian noise added to codes before they are decoded; the
    autoencoder's own `noise` makes the decoder read what it was trained on."""
    max_words: int | None = None
    """Words after which a sentence is cut; the longest of the store unless told."""
    step: int | None = None
    """The checkpoint's step; the best validated one unless told."""
    data: Path | None = None
    """The store, which a plain autoencoder's prior is fitted to; the one trained on unless told."""
    json: bool = False
    """One JSON array instead of lines."""


def run(argv: list[str]) -> int:
    arguments = parse(GenerateArguments, argv, "generate", "lvtrain generate runs/first --num 10")

    from lvtrain.generation.limits import check_number
    from lvtrain.model import MOST_SENTENCES, Model

    how: dict[str, Any] = {"top_k": arguments.top_k, "code_noise": arguments.code_noise}
    how |= {
        name: value
        for name in ("temperature", "max_words")
        if (value := getattr(arguments, name)) is not None
    }
    check_number("num", arguments.num, 1, MOST_SENTENCES)
    which = "best" if arguments.step is None else arguments.step
    model = Model.load(arguments.run, which, arguments.data)
    if arguments.data is not None:
        model.require_fitted_prior()
    sentences = model.generate(arguments.num, arguments.seed, **how)
    print(json.dumps(sentences) if arguments.json else "\n".join(sentences))
    return 0
