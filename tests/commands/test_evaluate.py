from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvtrain.cli import run
from lvtrain.commands.evaluate import _text
from lvtrain.data.store import Store
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences

Ask = Callable[..., str]
Runs = dict[str, Path]
QUICK = ["--samples", "30", "--no-reverse", "--no-forward", "--reconstructions", "6",
         "--latent-sentences", "10", "--importance-samples", "2"]  # fmt: skip
FILES = {
    "evaluation.json", "samples.txt", "reconstructions.json", "interpolations.json", "report.html",
}  # fmt: skip


@pytest.fixture
def copy(runs: Runs, tmp_path: Path) -> Callable[[str], Path]:
    """A run of a system that a test may spoil."""

    def make(system: str) -> Path:
        shutil.copytree(runs[system], tmp_path / system)
        for name in (*FILES, "prior.safetensors"):
            (tmp_path / system / name).unlink(missing_ok=True)
        return tmp_path / system

    return make


@pytest.fixture
def exported(runs: Runs, tmp_path: Path, said: Ask) -> Path:
    said("export", runs["ae"], "--out", tmp_path / "model")
    return tmp_path / "model"


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_the_figures_are_printed_where_they_cannot_be_written(
    copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy("vae")
    (folder / "evaluation.json").mkdir()  # No file can take its place, whoever writes it.
    before = content(folder)
    assert run(["evaluate", str(folder), *QUICK, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["samples"] == 30
    warnings = [line for line in captured.err.splitlines() if "warning" in line]
    assert len(warnings) == 1 and str(folder) in warnings[0]
    assert content(folder) == before


def test_a_run_keeps_its_figures_and_its_report(copy: Callable[[str], Path], said: Ask) -> None:
    folder = copy("arae")
    out = said("evaluate", folder, *QUICK)
    figures = json.loads((folder / "evaluation.json").read_text())
    assert [line.split()[0] for line in out.splitlines()] == list(figures)
    assert content(folder).keys() >= FILES
    assert not [name for name in content(folder) if name.startswith(".")]


@pytest.mark.parametrize(
    ("figure", "printed"),
    [(40.18223817901941, "40.18"), (0.0043217, "0.004322"), (4.3217e-6, "4.322e-06"), (0.0, "0")],
)
def test_a_figure_is_printed_with_four_digits_however_small(figure: float, printed: str) -> None:
    assert _text(figure) == printed


def test_an_exported_model_stays_as_it_is(exported: Path, said: Ask) -> None:
    before = content(exported)
    figures = json.loads(said("evaluate", exported, *QUICK, "--json"))
    assert figures["step"] == 4
    assert content(exported) == before


def test_out_takes_the_files_of_an_evaluation(
    exported: Path, copy: Callable[[str], Path], tmp_path: Path, said: Ask
) -> None:
    before = content(exported)
    said("evaluate", exported, *QUICK, "--out", tmp_path / "figures" / "first")
    assert content(exported) == before
    assert content(tmp_path / "figures" / "first").keys() == FILES
    assert "Samples" in (tmp_path / "figures" / "first" / "report.html").read_text()
    folder = copy("lm")
    before = content(folder)
    said("evaluate", folder, *QUICK, "--out", tmp_path / "figures" / "second")
    assert content(folder) == before
    assert content(tmp_path / "figures" / "second").keys() == FILES


@pytest.mark.parametrize("system", ["ae", "lm"])
def test_the_store_is_opened_once(
    copy: Callable[[str], Path], said: Ask, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    folder = copy(system)
    opened: list[Any] = []

    class Watched(Store):
        @classmethod
        def open(cls, *args: Any, **options: Any) -> Any:
            opened.append(args)
            return super().open(*args, **options)

    monkeypatch.setattr("lvtrain.generation.recorded.Store", Watched)
    monkeypatch.setattr("lvtrain.data.store.Store", Watched)
    said("evaluate", folder, *QUICK)
    assert len(opened) == 1


def test_a_store_that_has_moved_is_given_by_data(
    store: Path, copy: Callable[[str], Path], tmp_path: Path, said: Ask, refused: Ask
) -> None:
    folder = copy("ae")
    expected = said("generate", folder)
    (folder / "prior.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["store"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(config))
    asked: list[list[str | Path]] = [
        ["evaluate", folder, *QUICK], ["generate", folder], ["interpolate", folder],
        ["export", folder, "--out", tmp_path / "model"],
    ]  # fmt: skip
    for argv in asked:
        said_ = refused(*argv)
        assert "gone" in said_ and "--data STORE" in said_
    assert not (tmp_path / "model").exists()
    assert said("generate", folder, "--data", store) == expected
    said("export", folder, "--out", tmp_path / "model", "--data", store)
    assert said("generate", tmp_path / "model") == expected
    for path in (folder, tmp_path / "model"):
        assert "--data STORE" in refused("evaluate", path, *QUICK)
        figures = json.loads(said("evaluate", path, *QUICK, "--json", "--data", store))
        assert figures["samples"] == 30


def test_a_store_of_other_words_is_refused(
    runs: Runs, tmp_path: Path, said: Ask, refused: Ask
) -> None:
    prepare_sentences(["a b", "b c"] * 9, ["a"], config=PrepareConfig(), out=tmp_path / "other")
    message = refused("evaluate", runs["lm"], *QUICK, "--data", tmp_path / "other")
    assert "other: expected the vocabulary of" in message


def test_report_takes_a_store_and_a_file_to_write(
    store: Path, copy: Callable[[str], Path], tmp_path: Path, said: Ask, refused: Ask
) -> None:
    folder = copy("lm")
    config = json.loads((folder / "config.json").read_text())
    for moved, there in (str(tmp_path / "gone"), False), (f"file://{store}", True):
        (folder / "config.json").write_text(json.dumps(config | {"store": moved}))
        said("report", folder)
        assert ("Sentence lengths" in (folder / "report.html").read_text()) is there
    said("report", folder, "--data", store, "--out", tmp_path / "page.html")
    assert "Sentence lengths" in (tmp_path / "page.html").read_text()
    assert "no such store" in refused("report", folder, "--data", tmp_path / "absent")


def test_report_and_evaluate_say_where_a_store_is_not_what_was_trained_on(
    store: Path, copy: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy("lm")
    assert run(["report", str(folder)]) == 0 and "other contents" not in capsys.readouterr().err
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"store_digest": "0" * 64}))
    assert run(["report", str(folder)]) == 0
    assert f"{store}: other contents than those" in capsys.readouterr().err
    assert run(["evaluate", str(folder), "--samples", "20", "--sentences", "20"]) == 0
    assert f"{store}: other contents than those" in capsys.readouterr().err


def test_report_of_an_exported_model_goes_where_it_is_told(
    exported: Path, tmp_path: Path, said: Ask, refused: Ask
) -> None:
    before = content(exported)
    assert "--out FILE" in refused("report", exported)
    said("report", exported, "--out", tmp_path / "page.html")
    assert (tmp_path / "page.html").is_file() and content(exported) == before


@pytest.mark.parametrize(
    "flags",
    ["--samples 0", "--samples -1", "--temperature -1", "--temperature nan", "--seed -1",
     "--reconstructions -1", "--latent-sentences 1", "--importance-samples 0", "--judge.epochs 0",
     "--judge.held-out 1", "--judge.hidden 0", "--judge.min-steps -1"],
)  # fmt: skip
def test_a_number_that_cannot_be_is_refused_by_its_flag(
    runs: Runs, refused: Ask, flags: str
) -> None:
    flag, value = flags.split()
    assert f"{flag}: expected" in refused("evaluate", runs["lm"], flag, value)
