"""The command line from text to report, and what it says to mistakes: one line, exit status 2."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lvtrain
from lvtrain.cli import COMMANDS, run

SYSTEMS = ["arae", "ae", "vae", "lm"]
TRAIN = ["--preset", "tiny", "--steps", "4", "--batch-size", "16", "--threads", "1",
         "--validate-every", "2", "--checkpoint-every", "2", "--no-tensorboard"]  # fmt: skip


def said(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    assert run([str(a) for a in argv]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    assert run([str(a) for a in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.startswith("lvtrain: error: ")
    return captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = 0
    try:
        status = run([command, "--help"])
    except SystemExit as stop:
        status = int(stop.code or 0)
    out = capsys.readouterr().out
    assert status == 0 and "example" in out and f"lvtrain {command}" in out


def test_help_answers_within_a_second() -> None:
    def seconds() -> float:
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "lvtrain", "--help"], check=True, capture_output=True)
        return time.monotonic() - started

    assert min(seconds() for _ in range(3)) < 1


@pytest.mark.parametrize("system", SYSTEMS)
def test_generate_writes_one_sentence_a_line(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], system: str
) -> None:
    out = said(capsys, "generate", runs[system], "--num", "5")
    assert len(out.splitlines()) == 5
    assert out == said(capsys, "generate", runs[system], "--num", "5")
    assert json.loads(said(capsys, "generate", runs[system], "--num", "5", "--json")) == (
        out.splitlines()
    )


@pytest.mark.parametrize("system", ["arae", "ae", "vae"])
def test_codes_can_be_walked(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], system: str
) -> None:
    one, two = "the boy smiles", "two girls frown at the stove"
    assert len(said(capsys, "reconstruct", runs[system], one, two).splitlines()) == 2
    way = said(capsys, "interpolate", runs[system], one, two, "--steps", "4").splitlines()
    assert len(way) == 4
    ends = said(capsys, "reconstruct", runs[system], one, two).splitlines()
    assert [way[0], way[-1]] == ends
    moved = said(capsys, "arithmetic", runs[system], one, "--plus", two, "--minus", two)
    assert moved.splitlines() == ends[:1]


def test_inspect_names_step_and_digest(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    figures = json.loads(said(capsys, "inspect", runs["arae"], "--json"))
    assert figures["step"] == 4 and len(figures["digest"]) == 64
    assert figures == json.loads(said(capsys, "inspect", runs["arae"], "--json"))


def test_inspect_describes_a_store(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = json.loads(said(capsys, "inspect", store, "--json", "--verify"))
    assert figures["splits"]["train"]["sentences"] == 600


@pytest.mark.parametrize("system", SYSTEMS)
def test_evaluate_gives_finite_figures_and_a_report(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], system: str
) -> None:
    out = said(capsys, "evaluate", runs[system], "--samples", "100", "--json")
    figures = json.loads(out)
    assert figures["samples"] == 100
    assert 0 <= figures["grammatical"] <= 1
    assert math.isfinite(figures["reverse_perplexity"]) and figures["reverse_perplexity"] > 1
    page = (runs[system] / "report.html").read_text()
    assert "<script" not in page and "http" not in page.replace("http://www.w3.org", "")


def test_an_exported_model_says_what_the_run_says(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for system, folder in runs.items():
        said(capsys, "export", folder, "--out", tmp_path / system)
        assert lvtrain.load(tmp_path / system).generate(4) == lvtrain.load(folder).generate(4)


def test_grammar_writes_sentences_and_their_translations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "grammar", "--num", "7", "--out", tmp_path / "a", "--translations", tmp_path / "b")
    assert len((tmp_path / "a").read_text().splitlines()) == 7
    assert len((tmp_path / "b").read_text().splitlines()) == 7


def test_prepare_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("a b c\n" * 50 + "a d\n" * 50)
    out = said(capsys, "prepare", tmp_path / "text", "--out", tmp_path / "store", "--json")
    assert json.loads(out)["vocab_size"] == 7


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_as_the_null_device(store: Path, tmp_path: Path, closed: str) -> None:
    out = str(tmp_path / "lines")
    for command in (["inspect", str(store)], ["grammar", "--num", "2", "--out", out]):
        asked = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "lvtrain", *command]
        done = subprocess.run(asked, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(done.stdout) == (closed == "2>&-" and command[0] == "inspect")
    assert len(Path(out).read_text().splitlines()) == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_does_not_fit_is_told(tmp_path: Path, unbuffered: str) -> None:
    """Unbuffered, Python would leave the rest of a short write, and say nothing."""
    out = tmp_path / "lines"
    asked = f"ulimit -f 8; {sys.executable} -m lvtrain grammar --num 2000 > {out}"
    done = subprocess.run(
        ["bash", "-c", asked],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
    )
    assert out.stat().st_size == 8 * 1024
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "file too large" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("asked", ["--version", "grammar --num 2000"])
def test_a_full_device_is_told_once(asked: str, unbuffered: str) -> None:
    """What is left to flush must not be refused again at exit."""
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m lvtrain {asked} > /dev/full"],
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("lvtrain: error: ") and "no space left" in done.stderr


def test_doctor_names_every_operation(capsys: pytest.CaptureFixture[str]) -> None:
    figures = json.loads(said(capsys, "doctor", "--json"))
    assert {"lstm", "gradient_penalty"} <= set(json.dumps(figures["operations"]).split('"'))


def test_mistakes_are_one_line(
    runs: dict[str, Path], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = ("--data", store), ("--out", tmp_path / "new")
    run_ = runs["arae"]
    assert "did you mean 'train'" in refused(capsys, "trian")
    assert "did you mean 'arae'" in refused(capsys, "train", "area", *data, *out)
    assert "did you mean" not in refused(capsys, "translate", "x", "--foo")
    assert "did you mean '--steps'" in refused(capsys, "train", "lm", *data, *out, "--stepz", "3")
    assert "did you mean 'tiny'" in refused(capsys, "train", "lm", *data, *out, "--preset", "tinny")
    assert "--steps" in refused(capsys, "train", "lm", *data, *out, "--steps", "many")
    assert "not a store" in refused(capsys, "train", "lm", "--data", tmp_path, *out)
    assert "--resume auto" in refused(capsys, "train", "arae", *data, "--out", run_, *TRAIN)
    other = ("--data", store, "--out", run_, *TRAIN, "--resume", "auto", "--hidden", "7")
    assert "model.autoencoder.hidden" in refused(capsys, "train", "arae", *other)
    assert "not a run" in refused(capsys, "generate", tmp_path)
    assert "--num" in refused(capsys, "generate", run_, "--num", "0")
    assert "expected 2 sentences" in refused(capsys, "interpolate", run_, "one")
    assert "no codes" in refused(capsys, "reconstruct", runs["lm"], "the boy smiles")
    assert "no such" in refused(capsys, "prepare", tmp_path / "absent", *out).lower()
    for flags in ("--hidden 0", "--optimizer.lr nan", "--optimizer.betas 2 3", "--threads -1",
                  "--log-every 0", "--steps 0", "--dropout 1.5", "--corruption.drop 2",
                  "--critic.rounds 0", "--batch-size 0"):  # fmt: skip
        flag = flags.split()[0]
        assert flag in refused(capsys, "train", "arae", *data, *out, *flags.split())
    shorter = ("train", "arae", *data, "--out", run_, *TRAIN, "--resume", "auto", "--steps", "1")
    assert "is at step 4 already" in refused(capsys, *shorter)
    assert "--top-k" in refused(capsys, "generate", run_, "--top-k", "-1")
    assert "--num" in refused(capsys, "interpolate", run_, "--num", "-1")
    (tmp_path / "file").write_text("")
    assert "file" in refused(capsys, "grammar", "--out", tmp_path / "file" / "x")
    assert not (tmp_path / "new").exists(), "nothing half-written"


def test_a_damaged_configuration_is_named(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{")
    assert "config.json" in refused(capsys, "generate", tmp_path)
    config = json.loads((runs["lm"] / "config.json").read_text())
    config["train"]["stepz"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "stepz" in refused(capsys, "generate", tmp_path)
