from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lvtrain.training import checkpoint
from lvtrain.training.parts import parts

Ask = Callable[..., str]
Runs = dict[str, Path]


def test_a_run_is_a_row_a_figure_without_python_in_it(runs: Runs, said: Ask) -> None:
    figures = json.loads(said("inspect", runs["arae"], "--json"))
    out = said("inspect", runs["arae"])
    assert [line.split()[0] for line in out.splitlines()] == list(figures)
    assert not set("{}[]'") & set(out)
    assert f"step {figures['best']['step']}, metric reverse_ngram" in out
    assert f"{figures['parameters']:,}" in out and "checkpoints  2, 4\n" in out


def test_the_best_checkpoint_is_compared_as_the_newest_is(
    runs: Runs, tmp_path: Path, said: Ask
) -> None:
    copy = Path(shutil.copytree(runs["lm"], tmp_path / "run"))
    found = checkpoint.latest(copy / "checkpoints")
    assert found is not None
    tensors = {part: found.tensors(part) for part in found.parts}
    meta = {**found.meta, "best": {"step": 2, "metric": "perplexity", "value": 1.0}}
    checkpoint.commit(copy / "checkpoints", 4, parts(tensors), meta, 2)
    assert json.loads(said("inspect", copy, "--json"))["warnings"] == []
    weights = copy / "checkpoints/step-00000002/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (warning,) = json.loads(said("inspect", copy, "--json"))["warnings"]
    assert "the best validated step is 2" in warning and "step-00000002 is damaged" in warning


def test_a_store_is_the_table_that_prepare_shows(store: Path, said: Ask) -> None:
    out = said("inspect", store)
    assert json.loads(said("inspect", store, "--json"))["digest"] in out
    assert not set("{}[]'") & set(out)
    header, train = out.splitlines()[3:5]
    assert header.split()[:3] == ["split", "sentences", "words"]
    assert train.split()[:2] == ["train", "600"]


def test_verifying_says_what_was_compared(store: Path, said: Ask) -> None:
    shards = list(store.glob("*/*.arrow"))
    size = sum(path.stat().st_size for path in shards)
    line = f"verified  {len(shards)} shards, {size:,} bytes\n"
    assert line in said("inspect", store, "--verify")
    figures = json.loads(said("inspect", store, "--verify", "--json"))
    assert figures["verified"] == {"shards": len(shards), "bytes": size}
    assert "verified" not in said("inspect", store) + said("inspect", store, "--json")


def test_what_is_neither_a_run_nor_a_store_is_told(store: Path, refused: Ask) -> None:
    assert refused("inspect", store / "train").endswith(
        "neither a run (no config.json), an exported model (no model.safetensors) nor a store "
        "(no store.json)\n"
    )
    assert "expected the folder of a run or store, found a file" in refused(
        "inspect", store / "store.json"
    )


def test_an_exported_model_is_described(runs: Runs, tmp_path: Path, said: Ask) -> None:
    for system in ("ae", "lm"):
        said("export", runs[system], "--out", tmp_path / system)
        figures = json.loads(said("inspect", tmp_path / system, "--json"))
        assert figures["kind"] == "model" and figures["step"] == 4
        run = json.loads(said("inspect", runs[system], "--json"))
        assert figures["parameters"] == run["parameters"]
        assert "model" in said("inspect", tmp_path / system)


def test_doctor_shows_tables(said: Ask) -> None:
    figures = json.loads(said("doctor", "--json"))
    assert list(figures) == ["lvtrain", "python", "packages", "machine", "operations"]
    out = said("doctor")
    assert not set("{}[]'") & set(out)
    lines = [line.split(maxsplit=3) for line in out.splitlines()]
    for operation in figures["operations"]:
        assert list(operation.values()) in lines
    assert ["torch", figures["packages"]["torch"]] in lines


def test_on_a_terminal_a_long_cell_wraps_in_its_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lvtrain.commands.table import show

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    show([("one", "a [red]cell[/] of many words, too long for it"), ("two", "b")], ("x", "y"))
    lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 30 and len(lines) > 3
    assert all(line.startswith(("x", "one", "two", "     ")) for line in lines)
    assert "[red]" in "".join(lines)
