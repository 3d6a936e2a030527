"""The operations of `lvtrain.kernels` against what else there is, on a GPU or on a CPU.

    python -m benchmarks.kernels --json

On a GPU: first the race and stress test of the LSTM's barrier among programs, then the ceilings
(copy bandwidth, matrix rates), then every operation side by side with its rivals, medians of CUDA
events around CUDA graphs over several sets of inputs, each beside its floor; and the bars that are
to be cleared. On a CPU: each operation against plain PyTorch at the sizes of SNLI. `--toy` runs all
of the GPU's comparisons at toy size in Triton's interpreter, to see that they run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.provenance import provenance
from lvtrain.cli import guarded

if TYPE_CHECKING:
    from benchmarks.gpu.bench import Bench, Row

LIMIT = 540.0
"""Seconds that a run on a GPU takes at most."""

WRITE_EVERY = 2.0
"""Seconds between two writes of what there is so far."""


class Report:
    """The figures of a GPU's run, written to a file as they come, so that a cut run leaves some."""

    def __init__(self, origin: dict[str, Any], out: Path | None) -> None:
        self.origin, self.out = origin, out
        self.rows: list[Row] = []
        self.began = self.written = time.time()

    def add(self, row: Row) -> None:
        from benchmarks.gpu.table import line

        self.rows.append(row)
        print(f"[{time.time() - self.began:4.0f} s] {line(row)}", file=sys.stderr, flush=True)
        if time.time() - self.written > WRITE_EVERY:
            self.write()

    def figures(self) -> dict[str, Any]:
        from benchmarks.gpu.bars import judged, memory_shares

        took = round(time.time() - self.began, 1)
        rows = list(memory_shares(self.rows))
        # At toy size the interpreter is what is measured.
        bars = [] if self.origin["size"] == "toy" else judged(self.rows)
        return self.origin | {"seconds": took, "bars": bars, "rows": rows}

    def write(self) -> None:
        self.written = time.time()
        if self.out is not None:
            beside = self.out.with_name(self.out.name + ".part")
            beside.write_text(json.dumps(self.figures(), indent=1, ensure_ascii=False) + "\n")
            beside.replace(self.out)


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    given = parser.parse_args(argv)
    device = given.device or ("cuda" if torch.cuda.is_available() and not given.toy else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: expected a GPU for cuda, found none")
    if given.toy and device == "cuda":
        parser.error("--toy: runs in the interpreter on a CPU, not with --device cuda")
    if device == "cpu" and not given.toy:
        return _on_cpu(given, parser)
    if given.out is not None and not given.out.parent.is_dir():
        parser.error(f"--out: no folder {given.out.parent}")
    return _on_gpu(given, device, parser)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kernels", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--device", choices=["cpu", "cuda"], help="cuda where there is a GPU")
    add("--json", action="store_true", help="print one JSON object, not a table")
    add("--only", default="", help="an operation, or a section of the GPU's, or part of a name")
    add("--threads", type=int, default=0, help="CPU threads; 0 takes PyTorch's number")
    add("--repeats", type=int, default=15, help="CPU: how often each is timed")
    add("--quick", action="store_true", help="GPU: few sizes")
    add("--toy", action="store_true", help="the GPU's comparisons in Triton's interpreter")
    add("--sweeps", type=int, default=100_000, help="GPU: sweeps of the stress test")
    add("--limit", type=float, default=LIMIT, help="GPU: seconds that a run takes at most")
    add("--jobs", type=int, default=0, help="GPU: processes that compile; 0 takes most cores")
    add("--out", type=Path, help="GPU: a file of JSON, rewritten as the figures come")
    return parser


def _on_cpu(given: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from benchmarks import kernels_cpu

    _chosen(given, kernels_cpu.OPERATIONS, parser)
    origin = provenance("benchmarks.kernels")
    torch.set_num_threads(given.threads or torch.get_num_threads())
    rows = kernels_cpu.compare(given.only.replace("-", "_"), given.repeats)
    if given.json:
        settings = {"threads": torch.get_num_threads(), "repeats": given.repeats}
        print(json.dumps(origin | settings | {"rows": rows}, indent=1))
    else:
        kernels_cpu.show(rows)
    return 0


def _on_gpu(given: argparse.Namespace, device: str, parser: argparse.ArgumentParser) -> int:
    if given.toy:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    from benchmarks.gpu.bars import stress_outcome
    from benchmarks.gpu.bench import Bench
    from benchmarks.gpu.run import SECTIONS, run
    from benchmarks.gpu.table import text

    chosen = _chosen(given, SECTIONS, parser)
    size: Any = "toy" if given.toy else "quick" if given.quick else "full"
    bench = Bench(
        device="cuda" if device == "cuda" else "cpu",
        size=size,
        sweeps=given.sweeps,
        seconds=0.02 if given.quick else 0.06,
        deadline=time.time() + given.limit,
    )
    report = Report(_origin(bench, given), given.out)
    try:
        run(bench, chosen | {"ceilings"}, report.add, given.jobs or _jobs())
    finally:
        report.write()
    figures = report.figures()
    if given.json:
        print(json.dumps(figures, indent=1, ensure_ascii=False))
    else:
        for line in text(figures["rows"], figures["bars"]):
            print(line)
    _, failed = stress_outcome(report.rows)
    if failed:
        print(f"the stress test did not pass in {len(failed)} cases", file=sys.stderr)
    return 1 if failed else 0


def _chosen(
    given: argparse.Namespace, names: Iterable[str], parser: argparse.ArgumentParser
) -> set[str]:
    """The names that ``--only`` asks for."""
    found = {name for name in names if given.only.replace("-", "_") in name}
    if not found:
        parser.error(f"--only: expected one of {', '.join(names)}, found {given.only!r}")
    return found


def _jobs() -> int:
    return max(1, min(14, (os.cpu_count() or 1) - 2))


def _origin(bench: Bench, given: argparse.Namespace) -> dict[str, Any]:
    """Hardware, driver, versions and date, and the settings of the run."""
    found = provenance("benchmarks.kernels", bench.device)
    for package in ("triton", "liger-kernel", "cut-cross-entropy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if bench.device == "cuda":
        found |= {"driver": _driver(), "cuda": torch.version.cuda}
        found["cudnn"] = torch.backends.cudnn.version()
    settings = {"size": bench.size, "sweeps": bench.sweeps, "limit": given.limit}
    return found | settings


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return shown.stdout.strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(guarded(main))
