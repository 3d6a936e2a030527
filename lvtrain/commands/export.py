"""`lvtrain export RUN`: the model alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from lvtrain.commands.parse import parse


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Write the model (safetensors, JSON, tokeniser) into a folder that `lvtrain.load` reads
    without the run; it holds no optimiser state and no code."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    out: Path
    """The folder to write; it must not exist."""
    average: int = 1
    """Average the parameters of so many of the newest checkpoints."""
    data: Path | None = None
    """The store, which a plain autoencoder's prior is fitted to; the one trained on unless told."""


def run(argv: list[str]) -> int:
    arguments = parse(ExportArguments, argv, "export", "lvtrain export runs/first --out model")

    from lvtrain.data.folder import new_folder
    from lvtrain.data.location import check_here
    from lvtrain.errors import UserError
    from lvtrain.generation.recorded import CONFIG
    from lvtrain.model import Model

    check_here(arguments.out)
    if arguments.out.exists():
        raise UserError(f"export: --out {arguments.out}: exists already")
    model = Model.load(arguments.run, data=arguments.data, average=arguments.average)
    with new_folder(arguments.out, known_by=CONFIG) as folder:
        model.save_pretrained(folder)
    return 0
