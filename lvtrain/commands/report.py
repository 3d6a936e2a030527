"""`lvtrain report RUN`: the one-file HTML report of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from lvtrain.commands.parse import parse


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write report.html into a run folder: one self-contained file with curves, samples and
    figures."""

    run: tyro.conf.Positional[Path]
    """The run folder."""


def run(argv: list[str]) -> int:
    arguments = parse(ReportArguments, argv, "report", "lvtrain report runs/first")

    from lvtrain.data.store import Store
    from lvtrain.model import read_config
    from lvtrain.report.html import write_report

    store = read_config(arguments.run).store
    figures = Store.open(store).info.figures() if store.is_dir() else None
    print(write_report(arguments.run, store=figures))
    return 0
