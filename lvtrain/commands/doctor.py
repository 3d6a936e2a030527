"""`lvtrain doctor`: what this machine offers and what will be used."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from lvtrain.commands.parse import parse
from lvtrain.commands.table import show

_PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "pyarrow",
    "tokenizers",
    "safetensors",
    "sacrebleu",
    "ray",
    "deepspeed",
)


@dataclass(frozen=True, kw_only=True)
class DoctorArguments:
    """Say what this machine offers (versions, cores, GPUs) and which implementation of each
    operation will be used, and why."""

    json: bool = False
    """One JSON object."""


def run(argv: list[str]) -> int:
    arguments = parse(DoctorArguments, argv, "doctor", "lvtrain doctor")
    figures = _figures()
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return 0
    rows = [("lvtrain", figures["lvtrain"]), ("python", figures["python"])]
    show([*rows, *figures["packages"].items()], title="versions")
    print()
    show([(name, str(value)) for name, value in figures["machine"].items()], title="machine")
    print()
    operations = figures["operations"]
    show(
        [tuple(operation.values()) for operation in operations],
        header=tuple(operations[0]),
        title="operations",
    )
    return 0


def _figures() -> dict[str, Any]:
    import torch

    from lvtrain import __version__
    from lvtrain.kernels import dispatch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "lvtrain": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "gpus": ", ".join(gpus) or "none",
        },
        "operations": dispatch.table(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
