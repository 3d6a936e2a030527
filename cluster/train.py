"""`python -m lvtrain.cluster.train SYSTEM …`: `lvtrain train` by workers on a Ray cluster.

Its flags are those of `lvtrain train` and of `ClusterConfig`; it is what `ray job submit` runs.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import tyro

from lvtrain.cli import begin, guarded
from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.sigterm import sigterm_blocked
from lvtrain.commands.table import show
from lvtrain.commands.train import ConfigT, TrainArguments, arguments
from lvtrain.config import check
from lvtrain.data.location import uri_of
from lvtrain.errors import UserError

PROGRAM = "python -m lvtrain.cluster.train"


@dataclass(frozen=True, kw_only=True)
class ClusterArguments(TrainArguments[ConfigT]):
    """Train a system on a store by groups of workers on a Ray cluster.

    The model (encoder and decoder) and the adversary (critic and generator) have workers of their
    own, and the adversary works while the model decodes. SIGTERM commits a checkpoint and ends the
    run with status 0; a worker that is lost costs the steps since the last checkpoint.
    """

    cluster: Annotated[ClusterConfig, tyro.conf.arg(name="")] = field(default_factory=ClusterConfig)
    dry_run: bool = False
    """Print what the run would need and exchange beside what is there, and train nothing."""
    json: bool = False
    """Print the figures of --dry-run as JSON."""


def run(argv: list[str]) -> int:
    """Train on a cluster; exits as `lvtrain train` does."""
    # Its threads, which start when it is imported, take no SIGTERM then that is to wait for Ray: a
    # thread goes on to block what the one that started it did.
    with sigterm_blocked():
        importlib.import_module("numpy")
    parsed = arguments(argv, ClusterArguments, PROGRAM, "")
    if parsed is None:
        return 0
    system, given = parsed
    check(given.cluster)
    _check_installed()
    for flag, path in (("data", given.data), ("out", given.out)):
        _check_lasting(flag, path)

    from lvtrain.experiment import configure

    config = configure(system, given.model, given.train, given.data, given.preset)

    from lvtrain.cluster.controller import carry_out
    from lvtrain.cluster.plan import plan

    if not given.dry_run:
        carry_out(config, given.cluster, given.out, given.resume)
        return 0
    figures = plan(config, given.cluster)
    if given.json:
        print(json.dumps(figures, indent=2))
    else:
        show([(name.replace("_", " "), str(value)) for name, value in figures.items()])
    return 0 if figures["fits"] else 2


def _check_installed() -> None:
    """Raise UserError where a package of the cluster is missing: lvtrain itself does without."""
    # Ray without its extra `default` has no gRPC, and takes no jobs.
    for package in ("ray", "grpc", "deepspeed"):
        if find_spec(package) is None:
            raise UserError(f"{package} is not installed: pip install 'lvtrain[cluster]'")


def _check_lasting(flag: str, path: Path) -> None:
    """Raise UserError for a path that would be lost.

    A submitted job works in a copy of the folder it was submitted from, on some node, which Ray
    removes after the job: a run would go with it.
    """
    if (
        "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        and not path.is_absolute()
        and not (flag == "data" and uri_of(path))
    ):
        raise UserError(
            f"--{flag} {path}: expected an absolute path, on storage that every node has: a "
            "submitted job works in a copy of its folder that is removed after it"
        )


if __name__ == "__main__":
    begin(lambda: guarded(lambda: run(sys.argv[1:])))
