"""Where a figure comes from: hardware, versions, date and command stand beside every one."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch


def hardware(device: str = "cpu") -> str:
    """The name of what computes."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def provenance(module: str, device: str = "cpu") -> dict[str, Any]:
    """Hardware, versions, date and command of a benchmark that starts now."""
    return {
        "hardware": hardware(device),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        # Where this machine has its folders is of no interest elsewhere.
        "command": " ".join([f"python -m {module}", *map(_last, sys.argv[1:])]),
    }


def _last(argument: str) -> str:
    flag, equals, value = (
        argument.partition("=") if argument.startswith("--") else ("", "", argument)
    )
    return flag + equals + (Path(value).name if value.startswith("/") else value)
