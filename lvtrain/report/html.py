"""`report.html`: what a run did and what came of it, on one page that needs nothing else.

It is made from the files of the run folder alone. `config.json` must be there; each other one that
is (`metrics.jsonl`, `evaluation.json`, `samples.txt`, `interpolations.json`,
`reconstructions.json`, `translations.json`) adds its section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lvtrain.errors import UserError
from lvtrain.generation.weights import replacing
from lvtrain.report import figures
from lvtrain.report.sections import (
    best_validation,
    curves,
    data,
    evaluation,
    flat,
    interpolations,
    load,
    metrics,
    reconstructions,
    samples,
    settings,
    translations,
)
from lvtrain.report.style import STYLE
from lvtrain.training.display import duration
from lvtrain.training.log import read_metrics

REPORT = "report.html"


def write_report(
    run: Path,
    *,
    store: Mapping[str, Any] | None = None,
    out: Path | None = None,
    evaluated: Path | None = None,
) -> Path:
    """Write the report of the run folder `run` to `out` (its `report.html`) and give its path.

    `store` is `StoreInfo.figures()` of the data; `evaluated` the folder of the evaluation's files,
    where that is not the run's. `interpolations.json` is a list of lists of
    sentences; `reconstructions.json` a list of pairs, or of objects with "source" and
    "reconstruction"; `translations.json` one of (source, reference, translation);
    `evaluation.json` numbers by name, nested or not.
    Raises UserError for a folder that is no run, or for a file in it that cannot be read.
    """
    config = load(run / "config.json")
    if not isinstance(config, Mapping):
        raise UserError(f"{run}: not a run: there is no config.json with an object in it")
    lines = read_metrics(run)
    train = [line for line in lines if line.get("kind") != "validation"]
    held = [line for line in lines if line.get("kind") == "validation"]
    best = best_validation(held)
    found = evaluated or run
    evaluation_figures = dict(flat(load(found / "evaluation.json") or {}))
    sections = {
        "Evaluation": evaluation(evaluation_figures),
        "Curves": curves(train, held, best),
        "Samples": samples(found / "samples.txt"),
        "Interpolations": interpolations(found / "interpolations.json"),
        "Reconstructions": reconstructions(found / "reconstructions.json"),
        "Translations": translations(found / "translations.json"),
        "Data": data(store or {}),
        "Configuration": settings(config),
    }
    name = run.resolve().name
    page = _page(
        name,
        _facts(config, train),
        _headline(evaluation_figures, train, best),
        {title: body for title, body in sections.items() if body},
    )
    path = out or run / REPORT
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{(error.strerror or str(error)).lower()} while writing {path}") from error
    return path


def _page(name: str, facts: str, headline: str, sections: Mapping[str, str]) -> str:
    links = " ".join(f'<a href="#{title.lower()}">{title}</a>' for title in sections)
    bodies = "\n".join(
        f'<section id="{title.lower()}"><h2>{title}</h2>\n{body}</section>'
        for title, body in sections.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(name)} · lvtrain</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{escape(name)}</h1>
{facts}
{headline}
<nav>{links}</nav>
</header>
<main>
{bodies}
</main>
<footer>Written by lvtrain from the files of the run folder.</footer>
</body>
</html>
"""


def _facts(config: Mapping[str, Any], train: Sequence[Mapping[str, Any]]) -> str:
    """System, preset, how far, how much, how long."""
    facts = [str(config.get("system", ""))]
    if config.get("preset") not in (None, "default"):
        facts.append(f"preset {config['preset']}")
    if train:
        last = train[-1]
        steps = dict(flat(config)).get("train.steps")
        of = f" of {steps:,}" if isinstance(steps, int) else ""
        facts.append(f"step {last['step']:,}{of}")
        facts.append(f"{last.get('words') or 0:,} words seen")
        facts.append(f"{duration(last.get('seconds') or 0.0)} of training")
    return f'<p class="facts">{"".join(f"<span>{escape(f)}</span>" for f in facts if f)}</p>'


def _headline(
    evaluated: Mapping[str, Any],
    train: Sequence[Mapping[str, Any]],
    best: Mapping[str, Any] | None,
) -> str:
    """The few figures that a reader looks for first."""
    leaves = {name.rsplit(".", 1)[-1]: value for name, value in evaluated.items()}
    shown = []
    present = (next((n for n in names if n in leaves), None) for names in figures.HEADLINES)
    for name in [name for name in present if name is not None][:4]:
        aside = figures.note(name)
        if name == "reverse_perplexity" and "real_perplexity" in leaves:
            aside = f"real text: {figures.value(leaves['real_perplexity'])}"
        shown.append((figures.label(name), figures.value(leaves[name]), aside))
    if best and metrics(best) and len(shown) < 5:
        name, value = next(iter(metrics(best).items()))
        aside = f"{name.replace('_', ' ')}, at step {best['step']:,}"
        shown.append(("Best validation", figures.value(value), aside))
    if not evaluated and train:
        for name, value in list(metrics(train[-1]).items())[:2]:
            shown.append((figures.label(name), figures.value(value), "training, last logged"))
    rates = [line["words_per_second"] for line in train if line.get("words_per_second")]
    if rates and len(shown) < 5:
        rate = sorted(rates)[len(rates) // 2]
        shown.append(("Words per second", f"{rate:,.0f}", "median over the run"))
    tiles = "".join(
        f'<div><dt>{escape(label)}</dt><dd><span class="number">{escape(value)}</span>'
        f'<span class="aside">{escape(aside)}</span></dd></div>'
        for label, value, aside in shown
    )
    return f'<dl class="headline">{tiles}</dl>' if tiles else ""
