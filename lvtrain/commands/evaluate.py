"""`lvtrain evaluate RUN`: the figures of a run."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from lvtrain.commands.parse import parse
from lvtrain.evaluation.evaluate import EvaluateConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Measure a run: reverse and forward perplexity by a language model, reconstruction, diversity,
    the latent space; on the embedded grammar, exact figures. Writes evaluation.json, samples and
    report.html into the run folder."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    step: int | None = None
    """The checkpoint's step; the best validated one unless told."""
    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(
        default_factory=EvaluateConfig
    )
    json: bool = False
    """One JSON object."""


def run(argv: list[str]) -> int:
    arguments = parse(
        EvaluateArguments, argv, "evaluate", "lvtrain evaluate runs/first --samples 10000 --json"
    )

    from lvtrain.data.store import Store
    from lvtrain.evaluation.evaluate import evaluate
    from lvtrain.model import Model
    from lvtrain.report.html import write_report

    model = Model.load(arguments.run, "best" if arguments.step is None else arguments.step)
    figures = evaluate(model, arguments.config, lambda text: print(text, file=sys.stderr))
    write_report(arguments.run, store=Store.open(model.config.store).info.figures())
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        width = max(map(len, figures))
        for name, value in figures.items():
            print(f"{name:{width}}  {value:.4g}" if isinstance(value, float)
                  else f"{name:{width}}  {value}")  # fmt: skip
    return 0
