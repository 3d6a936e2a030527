"""The sections of the report: each is a piece of HTML, empty where a run has nothing for it."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lvtrain.errors import UserError
from lvtrain.report import figures
from lvtrain.report.plots import curve, histogram
from lvtrain.training.display import RESERVED

Line = Mapping[str, Any]
"""A line of `metrics.jsonl`."""

_SAMPLES_AT_ONCE, _SAMPLES = 24, 200
_PATHS, _PAIRS = 12, 24
_LOSSES, _OTHERS = "Losses", "Norms, schedules, speed"


def evaluation(evaluated: Mapping[str, Any]) -> str:
    """Every figure, what it says, and which way is better."""
    rows = "".join(
        f'<tr><th>{escape(figures.label(name))} <span class="arrow">{figures.direction(name)}'
        f'</span></th><td class="number">{escape(figures.value(value))}</td>'
        f'<td class="note">{escape(figures.note(name))}</td></tr>'
        for name, value in evaluated.items()
        if name not in figures.CONTEXT
    )
    context = "".join(
        f"<span>{name.replace('_', ' ')} {escape(figures.value(evaluated[name]))}</span>"
        for name in figures.CONTEXT
        if evaluated.get(name) is not None
    )
    said = f'<p class="facts">{context}</p>' if context else ""
    return f"{said}<table>{rows}</table>" if rows else ""


def curves(train: Sequence[Line], held: Sequence[Line], best: Line | None) -> str:
    """Small multiples by group; validation lies over the training metric of the same name."""
    names = list(dict.fromkeys(name for line in [*held, *train] for name in metrics(line)))
    if any(line.get("words_per_second") for line in train):
        names.append("words_per_second")
    groups: dict[str, list[str]] = {_LOSSES: [], _OTHERS: []}
    for name in names:
        group = _LOSSES if figures.is_loss(name) else _OTHERS
        groups[group].append(_curve(name, train, held, best))
    body = "".join(
        f'<h3>{group}</h3><div class="plots">{"".join(plots)}</div>'
        for group, plots in groups.items()
        if plots
    )
    if not body:
        return ""
    key = '<span style="color:var(--train)"><i></i>training</span>' if train else ""
    if held:
        key += '<span style="color:var(--valid)"><i></i>validation</span>'
    if best:
        key += '<span style="color:var(--valid)">○ best validation</span>'
    return f'<p class="key">{key}</p>{body}'


def _curve(name: str, train: Sequence[Line], held: Sequence[Line], best: Line | None) -> str:
    trained = [(line["step"], number(line[name])) for line in train if name in line]
    validated = [(line["step"], number(line[name])) for line in held if name in line]
    marked = best if best and name in best else None
    aside = figures.value(trained[-1][1]) if trained else ""
    if validated:
        value = number(marked[name]) if marked else validated[-1][1]
        aside += f' <span class="valid">{figures.value(value)}</span>'
    last = max((line["step"] for line in [*train, *held]), default=0)
    svg = curve(name, trained, validated, best=marked["step"] if marked else None, last=last)
    return _figure(figures.label(name), aside, svg)


def _figure(title: str, aside: str, svg: str) -> str:
    caption = f"<b>{escape(title)}</b><span>{aside}</span>"
    return f"<figure><figcaption>{caption}</figcaption>{svg}</figure>"


def samples(path: Path) -> str:
    """Generated sentences, most of them folded away."""
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()][:_SAMPLES]
    first, rest = _sentences(lines[:_SAMPLES_AT_ONCE]), _sentences(lines[_SAMPLES_AT_ONCE:])
    more = len(lines) - _SAMPLES_AT_ONCE
    return first + (f"<details><summary>{more} more</summary>{rest}</details>" if rest else "")


def _sentences(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="sentences">{items}</ul>' if items else ""


def interpolations(path: Path) -> str:
    """Each path from one sentence to another, marked where a line differs from that before it."""
    paths = load(path) or []
    if not _is_list_of(paths, list) or not all(_is_list_of(steps, str) for steps in paths):
        raise UserError(f"{path}: expected a list of lists of sentences")
    lists = []
    for steps in paths[:_PATHS]:
        pairs = zip(steps[:1] + steps, steps, strict=False)
        items = "".join(f"<li>{_marked(before, after)}</li>" for before, after in pairs)
        lists.append(f"<ol>{items}</ol>")
    return f'<div class="paths">{"".join(lists)}</div>' if lists else ""


def reconstructions(path: Path) -> str:
    """Sentences beside what came back, marked where it differs."""
    found = load(path) or []
    rows = ""
    for item in found[:_PAIRS] if isinstance(found, list) else [None]:
        pair: Any = item
        if isinstance(item, dict):
            pair = [item.get("source"), item.get("reconstruction")]
        if not _is_list_of(pair, str) or len(pair) != 2:
            raise UserError(f"{path}: expected a list of pairs (source, reconstruction)")
        rows += f"<tr><td>{escape(pair[0])}</td><td>{_marked(*pair)}</td></tr>"
    if not rows:
        return ""
    head = "<tr><th>sentence</th><th>reconstruction</th></tr>"
    return f'<table class="pairs">{head}{rows}</table>'


def translations(path: Path) -> str:
    """Sources with their references and translations, marked where these differ."""
    rows = ""
    for item in (load(path) or [])[:_PAIRS]:
        if not _is_list_of(item, str) or len(item) != 3:
            raise UserError(f"{path}: expected a list of (source, reference, translation)")
        source, reference, translation = item
        rows += (
            f"<tr><td>{escape(source)}</td><td>{escape(reference)}</td>"
            f"<td>{_marked(reference, translation)}</td></tr>"
        )
    if not rows:
        return ""
    head = "<tr><th>source</th><th>reference</th><th>translation</th></tr>"
    return f'<table class="pairs">{head}{rows}</table>'


def _marked(before: str, after: str) -> str:
    """`after` with the words marked that are not in `before`."""
    old, new = before.split(), after.split()
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    parts = []
    for kind, _, _, start, end in matcher.get_opcodes():
        words = escape(" ".join(new[start:end]))
        if words:
            parts.append(words if kind == "equal" else f"<mark>{words}</mark>")
    return " ".join(parts)


def data(store: Mapping[str, Any]) -> str:
    """Figures of the store, a row a split, and the lengths of its training sentences."""
    splits = store.get("splits") or {}
    rest = {name: value for name, value in store.items() if name != "splits" and value is not None}
    body = ""
    if splits:
        names = [
            n for n, v in next(iter(splits.values())).items() if n not in ("lengths", "dropped")
        ]
        head = "".join(f"<th>{escape(figures.label(name))}</th>" for name in names)
        body += f"<tr><th></th>{head}<th>Dropped</th></tr>"
    for split, of in splits.items():
        cells = "".join(f"<td>{escape(figures.value(of.get(name)))}</td>" for name in names)
        dropped = (
            f"{n:,} {why.replace('_', ' ')}" for why, n in of.get("dropped", {}).items() if n
        )
        body += f"<tr><th>{escape(split)}</th>{cells}<td>{escape(', '.join(dropped))}</td></tr>"
    table = f'<table class="figures">{body}</table>' if body else ""
    lengths = next(iter(splits.values())).get("lengths") if splits else None
    if not lengths:
        return table + settings(rest)
    plot = histogram("sentence lengths", {int(length): n for length, n in lengths.items()})
    figure = _figure("Sentence lengths", escape(next(iter(splits))), plot)
    return f'{table}<div class="beside">{figure}{settings(rest)}</div>'


def settings(config: Mapping[str, Any]) -> str:
    """Nested settings as tables side by side, one for each of the outermost names."""
    tables: dict[str, dict[str, Any]] = {"": {}}
    for name, value in config.items():
        if isinstance(value, Mapping):
            tables[name] = dict(flat(value))
        else:
            tables[""][name] = value
    sections = "".join(
        f"<section>{_heading(title)}<table>{_rows(rows)}</table></section>"
        for title, rows in tables.items()
        if rows
    )
    return f'<div class="settings">{sections}</div>' if sections else ""


def _heading(title: str) -> str:
    return f"<h3>{escape(title.replace('_', ' '))}</h3>" if title else ""


def _rows(rows: Mapping[str, Any]) -> str:
    return "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(_setting(value))}</td></tr>"
        for name, value in rows.items()
    )


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        if all(isinstance(item, list | tuple) and len(item) == 2 for item in value):
            return ", ".join(f"{name} {_setting(number)}" for name, number in value) or "none"
        return ", ".join(_setting(item) for item in value) or "none"
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return {"None": "none", "True": "yes", "False": "no"}.get(str(value), str(value))


def best_validation(held: Sequence[Line]) -> Line | None:
    """The validation marked best last or, where none is, the lowest by its first metric."""
    if marked := [line for line in held if line.get("best")]:
        return marked[-1]
    firsts = [(next(iter(metrics(line).values()), None), line) for line in held]
    ranked = [(value, line) for value, line in firsts if value is not None]
    return min(ranked, key=lambda pair: pair[0])[1] if ranked else None


def metrics(line: Line) -> dict[str, float | None]:
    """The figures of a line, without what the log itself adds."""
    return {name: number(value) for name, value in line.items() if name not in RESERVED}


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def flat(nested: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings under dotted names."""
    if isinstance(nested, Mapping):
        for name, value in nested.items():
            yield from flat(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, nested


def load(path: Path) -> Any:
    """The content of a JSON file, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
