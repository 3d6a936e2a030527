"""Small runs, and ways to ask the command line something."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lvtrain.cli import run

SYSTEMS = ["arae", "ae", "vae", "lm"]
TRAIN = ["--preset", "tiny", "--steps", "4", "--batch-size", "16", "--threads", "1",
         "--validate-every", "2", "--checkpoint-every", "2", "--no-tensorboard"]  # fmt: skip

Ask = Callable[..., str]
"""A command line to what it says."""


@pytest.fixture(scope="session")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each system."""
    folder = tmp_path_factory.mktemp("runs")
    for system in SYSTEMS:
        out = folder / system
        assert run(["train", system, "--data", str(store), "--out", str(out), *TRAIN]) == 0
    return {system: folder / system for system in SYSTEMS}


@pytest.fixture(scope="session")
def translators(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each translator, long enough that it writes words."""
    folder = tmp_path_factory.mktemp("translators")
    for preset in ("tiny", "tiny-transformer"):
        argv = ["train", "seq2seq", "--data", str(store), "--out", str(folder / preset), *TRAIN]
        steps = ["--steps", "60", "--checkpoint-every", "15", "--validate-every", "60",
                 "--optimizer.warmup", "10"]  # fmt: skip
        assert run([*argv, "--preset", preset, "--keep", "3", *steps]) == 0
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Ask:
    """What a command that does its work writes on standard output."""

    def ask(*argv: str | Path) -> str:
        capsys.readouterr()
        assert run([str(a) for a in argv]) == 0
        return capsys.readouterr().out

    return ask


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Ask:
    """The one line of a command that refuses to work."""

    def ask(*argv: str | Path) -> str:
        capsys.readouterr()
        assert run([str(a) for a in argv]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1 and captured.err.startswith("lvtrain: error: ")
        return captured.err

    return ask
