"""What the README shows is true."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from lvtrain.cli import COMMANDS
from lvtrain.presets import PRESETS
from lvtrain.systems import SYSTEMS

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_its_python_runs(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    few = "steps=2, batch_size=8, threads=1"
    short = first.replace('preset="tiny"', f'preset="tiny", {few}')
    pairs = second.replace('preset="tiny"', f'preset="tiny", {few}, validate_every=0')
    assert short != first and pairs.count(few) == 2
    for name in ("store", "pairs"):
        shutil.copytree(store, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(short, names)
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert (tmp_path / "model" / "model.safetensors").is_file()
    exec(pairs, names)
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_it_names_every_command_and_no_other() -> None:
    assert set(re.findall(r"`lvtrain (\w+)", README)) - {"train"} == set(COMMANDS) - {"train"}


def test_it_names_every_system_and_its_presets() -> None:
    for system in SYSTEMS:
        row = next(line for line in README.splitlines() if re.match(rf"\|.*`{system}`", line))
        for preset in PRESETS[system]:
            assert preset == "default" or f"`{preset}`" in row


def test_every_make_target_it_names_exists() -> None:
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in set(re.findall(r"\bmake (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
