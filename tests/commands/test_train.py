"""`lvtrain train`: its help, and what it says to odd command lines."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from lvtrain.cli import run
from lvtrain.presets import PRESETS
from lvtrain.systems import SYSTEMS


def help_of(system: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        run(["train", system, "--help"])
    assert not stop.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("system", SYSTEMS)
def test_help_lists_the_presets_with_a_line_about_each(
    system: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = help_of(system, capsys)
    assert f"{system}: {SYSTEMS[system].summary}" in page
    for name, preset in PRESETS[system].items():
        assert preset.about and re.search(rf"^  {name} +{re.escape(preset.about)}$", page, re.M)
    assert f"example:\n  lvtrain train {system} --data store" in page


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_flag_is_without_a_description(
    system: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    page = help_of(system, capsys)
    lines = [line.strip("│| ") for line in page.splitlines()]
    flags = 0
    for line, after in pairwise(lines):
        if not re.match("--[a-z]", line):
            continue
        flags += 1
        # The description stands beside the flag, two spaces on, or below it.
        beside = re.split(r"  +", line)[1:]
        said = beside[0] if beside else after
        assert re.match(r"[^\W\d_]", said) and not said.startswith("(default"), line
    assert flags > 25


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    assert run([str(a) for a in argv]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("lvtrain: error: ")
    return said


def test_odd_command_lines_are_answered_in_one_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)

    def said(flags: str, system: str = "arae", data: str | Path = store, out: str = "new") -> str:
        command = ["train", system, "--preset", "tiny", "--data", data, "--out", out]
        return refused(capsys, *command, *flags.split())

    assert "--generator.noise: expected 1 or more, found 0" in said("--generator.noise 0")
    assert "--generator.layers: expected 1 or more" in said("--generator.layers 3 -3")
    assert "--critic.rounds: expected 1 or more, found 0" in said("--critic.rounds 0")
    assert "--noise: expected a finite number, found nan" in said("--noise nan")
    assert "--critic.lipschitz.clip: expected more than 0" in said("--critic.lipschitz.clip 0")
    assert "--kl.beta: expected 0 or more, found -1.0" in said("--kl.beta -1", "vae")
    assert "--batch-size 1: expected 2 or more" in said("--batch-size 1")
    assert "--tied: expected --embedding equal to --hidden" in said("--tied", "lm")
    assert "out of memory: tried to allocate" in said("--hidden 10000000", "lm")
    assert "out of memory: storage size" in said("--hidden 1000000000000000000", "lm")
    assert (
        "before the flags, one of arae, ae, dae, vae, lm, seq2seq, seq2seq-gan, found '--tied'"
        in refused(capsys, "train", "--tied", "lm")
    )
    assert "missing --data, --out (see" in refused(capsys, "train", "lm")
    assert "--out file: expected a folder, found a file" in said("", out="file")
    assert "--out file/x: expected a folder, found a file: file" in said("", out="file/x")
    assert "File name too long" in said("", out="a" * 300)
    assert "found one with 'file' and no config.json" in said("", out=".")
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "nothing half-written"
