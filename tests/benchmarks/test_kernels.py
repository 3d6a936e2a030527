"""The kernels' benchmark runs: on a CPU, and at toy size everything that it does on a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.kernels import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all of the GPU's comparisons give in the interpreter."""
    out = tmp_path_factory.mktemp("toy") / "figures.json"
    command = [sys.executable, "-m", "benchmarks.kernels", "--toy", "--json", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    kept = json.loads(out.read_text())
    assert kept["rows"] == figures["rows"]
    return figures


def test_every_comparison_runs_at_toy_size(toy: dict[str, Any]) -> None:
    assert {row["op"] for row in toy["rows"]} == {
        "stress",
        "copy",
        "matrix product",
        "lstm forward",
        "lstm forward+backward",
        "lstm double backward",
        "reparameterize forward",
        "reparameterize forward+backward",
        "reparameterize_mixture forward",
        "reparameterize_mixture forward+backward",
        "gradient_penalty",
        "linear_cross_entropy",
    }
    assert all("ms" in row for row in toy["rows"] if row["op"] != "stress")
    assert all(row["passed"] for row in toy["rows"] if row["op"] == "stress")


def test_what_is_compared_gives_the_same(toy: dict[str, Any]) -> None:
    compared = [row for row in toy["rows"] if "difference" in row]
    assert {"nn.LSTM", "nn.LSTM packed", "torch.compile", "loop over cells", "double backward"} <= {
        row["contestant"] for row in compared
    }
    assert all(row["difference"] < 1e-5 for row in compared)


def test_every_figure_has_its_origin_and_its_floor(toy: dict[str, Any]) -> None:
    assert {"hardware", "torch", "triton", "date", "command"} <= toy.keys()
    assert toy["bars"] == []  # the interpreter's times say nothing of them
    kernels = [row for row in toy["rows"] if row.get("contestant") == "kernel"]
    assert kernels and all(row["floor_ms"] > 0 for row in kernels)


def test_on_a_cpu_it_compares_with_plain_torch(capsys: pytest.CaptureFixture[str]) -> None:
    main("--device cpu --only reparameterize --repeats 1 --threads 1 --json".split())
    figures = json.loads(capsys.readouterr().out)
    assert [(row["op"], row["variant"]) for row in figures["rows"]] == [
        ("sgemm", "kernel"),
        ("reparameterize", "kernel"),
        ("reparameterize", "eager"),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--toy --only lstmm", "--only: expected one of stress, ceilings, lstm"),
        ("--device cpu --only gru", "--only: expected one of lstm, linear_cross_entropy"),
        ("--toy --device cuda", "--toy: runs in the interpreter on a CPU|--device: expected a GPU"),
        ("--toy --out nowhere/at/all.json", "--out: no folder nowhere/at"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_line(
    arguments: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments.split())
    assert stopped.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert any(part in last for part in said.split("|"))
