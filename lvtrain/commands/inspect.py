"""`lvtrain inspect PATH`: what a run or a store holds, and whether it is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from lvtrain.commands.parse import parse


@dataclass(frozen=True, kw_only=True)
class InspectArguments:
    """Describe a run (its step, the digest of its parameters, its best validation) or a store (its
    counts, its vocabulary)."""

    path: tyro.conf.Positional[Path]
    """A run folder or a store."""
    verify: bool = False
    """Compare every shard of a store with its checksum. A run's checkpoint is always compared."""
    json: bool = False
    """One JSON object."""


def run(argv: list[str]) -> int:
    arguments = parse(InspectArguments, argv, "inspect", "lvtrain inspect runs/first --json")

    if (arguments.path / "store.json").is_file():
        figures = _store(arguments.path, arguments.verify)
    else:
        figures = _run(arguments.path)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        width = max(map(len, figures))
        for name, value in figures.items():
            print(f"{name:{width}}  {value}")
    return 0


def _run(folder: Path) -> dict[str, Any]:
    from lvtrain.errors import UserError
    from lvtrain.model import read_config
    from lvtrain.training import checkpoint

    if not folder.exists():
        raise UserError(f"inspect: {folder}: no such run or store")
    config = read_config(folder)
    found = checkpoint.latest(folder / "checkpoints")
    if found is None:
        raise UserError(f"inspect: {folder}: the run has no checkpoint yet")
    tensors = {
        f"{part}.{name.removeprefix('module.')}": tensor
        for part in found.parts
        for name, tensor in found.tensors(part).items()
        if name.startswith("module.")
    }
    return {
        "kind": "run",
        "system": config.system,
        "preset": config.preset,
        "step": found.step,
        "steps": config.train.steps,
        "digest": checkpoint.digest(tensors),
        "parameters": sum(t.numel() for t in tensors.values()),
        "best": found.meta.get("best"),
        "checkpoints": checkpoint.steps(folder / "checkpoints"),
        "store": str(config.store),
        "warnings": list(found.warnings),
    }


def _store(folder: Path, verify: bool) -> dict[str, Any]:
    from lvtrain.data.store import Store

    store = Store.open(folder, verify="full" if verify else "size")
    return {"kind": "store", "digest": store.digest, **store.info.figures()}
