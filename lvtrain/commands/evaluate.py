"""`lvtrain evaluate RUN`: the figures of a run."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lvtrain.commands.parse import parse
from lvtrain.commands.table import show
from lvtrain.evaluation.config import EvaluateConfig

if TYPE_CHECKING:
    from lvtrain.evaluation.evaluate import Evaluation
    from lvtrain.model import Model


# Settings that are heard of one kind of systems alone.
_OF_TRANSLATION = ("translate", "draws", "sources")
_OF_GENERATION = (
    "samples", "temperature", "reverse", "forward", "reconstructions", "latent_sentences",
    "importance_samples", "judge",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Measure a run: reverse and forward perplexity by a language model, reconstruction, diversity,
    the latent space; of a translator, BLEU and chrF; on the embedded grammar, exact figures.
    Writes evaluation.json, samples and report.html into the run folder, and of a translator
    translations.tsv: source, reference and translation, a line each. Of an exported model, only
    where --out says."""

    run: tyro.conf.Positional[Path]
    """The run folder, or an exported model."""
    step: int | None = None
    """The checkpoint's step; the best validated one unless told, or the newest to average."""
    data: Path | None = None
    """The store to measure on; the one trained on unless told."""
    out: Path | None = None
    """The folder to write into; the run folder unless told."""
    average: int = 1
    """Average the parameters of so many of the newest checkpoints, of the baseline too; the figures
    say `averaged`."""
    baseline: Path | None = None
    """Another translator's run, to compare with by paired bootstrap."""
    config: Annotated[EvaluateConfig, tyro.conf.arg(name="")] = field(
        default_factory=EvaluateConfig
    )
    json: bool = False
    """One JSON object."""


def run(argv: list[str]) -> int:
    arguments = parse(
        EvaluateArguments, argv, "evaluate", "lvtrain evaluate runs/first --samples 10000 --json"
    )

    from lvtrain.commands.progress import watched
    from lvtrain.config import check
    from lvtrain.data.location import check_here
    from lvtrain.evaluation.evaluate import evaluate
    from lvtrain.model import Model
    from lvtrain.systems.seq2seq import translator_of

    check(arguments.config)
    if arguments.out is not None:
        check_here(arguments.out)
    which = "best" if arguments.step is None else arguments.step
    model = Model.load(arguments.run, which, arguments.data, arguments.average)
    _check_heard(arguments.config, translator_of(model.system) is not None)
    baseline = None
    if arguments.baseline:
        baseline = Model.load(arguments.baseline, average=arguments.average)
        baseline.translator  # noqa: B018  # raises for another system, before any work
    out = arguments.out or (arguments.run if model.is_run else None)
    found = evaluate(
        model, arguments.config, lambda text: print(text, file=sys.stderr), baseline, watched
    )
    if arguments.json:
        print(json.dumps(found.figures, indent=2))
    else:
        show([(name, _text(value)) for name, value in found.figures.items()])
    if out:
        sys.stdout.flush()
        _write(out, model, found)
    return 0


def _check_heard(config: EvaluateConfig, translates: bool) -> None:
    """Raise UserError for a flag that says nothing of such a system."""
    from lvtrain.errors import UserError

    usual = EvaluateConfig()
    names = _OF_GENERATION if translates else _OF_TRANSLATION
    for name in names:
        if getattr(config, name) != getattr(usual, name):
            found = "a translator" if translates else "a system that does not translate"
            raise UserError(f"--{name.replace('_', '-')}: not of {found}")


def _write(out: Path, model: Model, found: Evaluation) -> None:
    """Keep the figures; that they cannot be kept is no reason to lose them."""
    from lvtrain.errors import UserError
    from lvtrain.evaluation.files import write_evaluation
    from lvtrain.report.html import REPORT, write_report

    try:
        out.mkdir(parents=True, exist_ok=True)
        write_evaluation(out, found)
        write_report(
            model.folder, store=model.store.info.figures(), out=out / REPORT, evaluated=out
        )
    except OSError as error:
        reason = f"{out}: {error.strerror}"
    except UserError as error:
        reason = str(error)
    else:
        return
    print(f"lvtrain: warning: the figures could not be written: {reason}", file=sys.stderr)


def _text(value: object) -> str:
    if value is None:
        return "not finite"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
