"""`lvtrain inspect PATH`: what a run or a store holds, and whether it is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from lvtrain.commands.parse import parse
from lvtrain.commands.table import show

if TYPE_CHECKING:
    from lvtrain.systems import System


@dataclass(frozen=True, kw_only=True)
class InspectArguments:
    """Describe a run (its step, the digest of its parameters, its best validation), an exported
    model or a store (its counts, its vocabulary)."""

    path: tyro.conf.Positional[Path]
    """A run folder, an exported model or a store; a store may be a URI."""
    verify: bool = False
    """Compare every shard of a store with its checksum, and say how many there were. A run's newest
    and best checkpoints, and an exported model, are always compared."""
    json: bool = False
    """One JSON object."""


def run(argv: list[str]) -> int:
    arguments = parse(InspectArguments, argv, "inspect", "lvtrain inspect runs/first --json")

    from lvtrain.data.info import INDEX
    from lvtrain.data.location import is_file, uri_of
    from lvtrain.errors import UserError
    from lvtrain.generation.recorded import CONFIG
    from lvtrain.model import WEIGHTS

    path = arguments.path
    if uri_of(path) is not None or is_file(path / INDEX):
        return _store(path, arguments.verify, arguments.json)
    if not path.exists():
        raise UserError(f"inspect: {path}: no such run or store")
    if not path.is_dir():
        raise UserError(f"inspect: {path}: expected the folder of a run or store, found a file")
    exported = (path / WEIGHTS).is_file()
    if not exported and not (path / CONFIG).is_file():
        raise UserError(
            f"inspect: {path}: neither a run (no {CONFIG}), an exported model (no {WEIGHTS}) nor "
            f"a store (no {INDEX})"
        )
    figures = _model(path) if exported else _run(path)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        show([(name, _text(value)) for name, value in figures.items()])
    return 0


def _text(value: Any) -> str:
    """A figure as people read it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value or "none")


def _run(folder: Path) -> dict[str, Any]:
    import torch

    from lvtrain.data.location import place
    from lvtrain.errors import UserError
    from lvtrain.generation.recorded import build_read, read_config
    from lvtrain.systems.seq2seq_gan import Seq2SeqGANConfig, standing
    from lvtrain.training import checkpoint
    from lvtrain.training.parts import digest

    config = read_config(folder)
    found = checkpoint.latest(folder / "checkpoints")
    if found is None:
        raise UserError(f"inspect: {folder}: the run has no checkpoint yet")
    warnings, best = list(found.warnings), found.meta.get("best")
    if best and best["step"] != found.step:
        try:
            checkpoint.at(folder / "checkpoints", best["step"])
        except UserError as error:
            warnings.append(f"the best validated step is {best['step']}; {error}")
    modules = {part: found.module(part) for part in found.parts}
    if isinstance(config.model, Seq2SeqGANConfig):
        last = standing(modules["adversary"])
        warnings += config.model.remarks(found.step, config.train.steps, last)
    tensors = {
        f"{part}.{name}": tensor for part, own in modules.items() for name, tensor in own.items()
    }
    with torch.device("meta"):  # to be counted, not to be had
        system = build_read(folder, config)
    return {
        "kind": "run",
        "system": config.system,
        "preset": config.preset,
        "step": found.step,
        "steps": config.train.steps,
        "digest": digest(tensors),
        "parameters": _parameters(system),
        "best": best,
        "checkpoints": checkpoint.steps(folder / "checkpoints"),
        "store": str(place(config.store)),
        **({"from": str(config.model.start)} if getattr(config.model, "start", None) else {}),
        "warnings": warnings,
    }


def _model(folder: Path) -> dict[str, Any]:
    from lvtrain.data.location import place
    from lvtrain.model import Model

    model = Model.from_pretrained(folder)
    return {
        "kind": "model",
        "system": model.config.system,
        "preset": model.config.preset,
        "step": model.step,
        **({"averaged": model.averaged} if model.averaged > 1 else {}),
        "parameters": _parameters(model.system),
        "store": str(place(model.config.store)),
    }


def _parameters(system: System) -> int:
    """Numbers that are learnt, those that are tied once."""
    return sum(one.numel() for part in system.parts.values() for one in part.parameters())


def _store(folder: Path, verify: bool, as_json: bool) -> int:
    from lvtrain.data.store import Store

    store = Store.open(folder, verify="full" if verify else "size")
    shards = sum(len(split.shards) for split in store.info.splits.values())
    figures: dict[str, Any] = {"kind": "store", "digest": store.digest}
    if verify:
        figures["verified"] = {"shards": shards, "bytes": store.bytes}
    if as_json:
        print(json.dumps({**figures, **store.info.figures()}, indent=2))
    else:
        compared = [("verified", f"{shards:,} shards, {store.bytes:,} bytes")] if verify else []
        show([("kind", "store"), ("digest", store.digest), *compared])
        print(f"\n{store.info.summary()}")
    return 0
