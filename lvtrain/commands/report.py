"""`lvtrain report RUN`: the one-file HTML report of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from lvtrain.commands.parse import parse


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """Write the report of a run: one self-contained HTML file with curves, samples and figures."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    data: Path | None = None
    """The store to describe; the one trained on unless told."""
    out: Path | None = None
    """The file to write; report.html in the run folder unless told."""


def run(argv: list[str]) -> int:
    arguments = parse(ReportArguments, argv, "report", "lvtrain report runs/first")

    from lvtrain.data.location import check_here
    from lvtrain.errors import UserError, notice
    from lvtrain.generation.recorded import open_store, read_config, tell_of_other_store
    from lvtrain.model import WEIGHTS
    from lvtrain.report.html import write_report

    if arguments.out is not None:
        check_here(arguments.out)
    config = read_config(arguments.run)
    if arguments.out is None and (arguments.run / WEIGHTS).is_file():
        raise UserError(
            f"report: {arguments.run}: an exported model, which is left as it is: --out FILE says "
            "where to write"
        )
    figures = None
    try:
        store = open_store(config, arguments.data)
        figures = store.info.figures()
        tell_of_other_store(store, config)
    except UserError as error:
        if arguments.data:
            raise
        notice(f"{error}; the report leaves the store out")
    print(write_report(arguments.run, store=figures, out=arguments.out))
    return 0
