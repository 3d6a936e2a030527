"""What a run is made of, and what it refuses and warns of before it begins."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lvtrain
from lvtrain.cli import run as lvtrain_run
from lvtrain.data.store import Store
from lvtrain.errors import UserError
from lvtrain.grammar.grammar import Grammar
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences
from lvtrain.presets import preset

SMALL: dict[str, Any] = {
    "preset": "tiny", "steps": 2, "batch_size": 8, "validate_every": 0, "tensorboard": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with one thread."""
    out = tmp_path_factory.mktemp("runs") / "lm"
    lvtrain.train("lm", store, out, threads=1, **SMALL)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_run_leaves_its_files_and_no_lock(finished: Path) -> None:
    assert {p.name for p in finished.iterdir()} == {
        "checkpoints", "config.json", "metrics.jsonl", "tokenizer.json"
    }  # fmt: skip
    assert [p.name for p in finished.parent.iterdir()] == ["lm"]


def test_the_threads_and_the_device_that_were_used_are_recorded(
    store: Path, tmp_path: Path
) -> None:
    lvtrain.train("lm", store, tmp_path / "run", **SMALL)
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["train"]
    assert recorded["threads"] == torch.get_num_threads() > 0
    assert recorded["device"] in ("cpu", "cuda")


def test_another_number_of_threads_is_told_and_no_hindrance(
    store: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    try:
        longer = {**SMALL, "steps": 3}
        assert lvtrain.train("lm", store, run, resume="auto", threads=2, **longer).step == 3
    finally:
        torch.set_num_threads(before)
    assert "warning: threads 1 before, 2 now" in capsys.readouterr().err
    assert json.loads((run / "config.json").read_text())["train"]["threads"] == 2


def test_a_finished_run_says_so_and_stays_as_it_was(
    store: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(run)
    assert lvtrain.train("lm", store, run, resume="auto", threads=1, **SMALL).step == 2
    assert f"{run} is complete at step 2" in capsys.readouterr().err
    assert content(run) == before


def spoil_config(run: Path) -> str:
    (run / "config.json").write_text("{}")
    return r"config\.json: not the configuration of a run"


def spoil_vocabulary(run: Path) -> str:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"vocab_size": 9}))
    return r"config\.json: .* vocab_size is 9 there"


def spoil_tokenizer(run: Path) -> str:
    (run / "tokenizer.json").write_text("{}")
    return r"tokenizer\.json: not the tokenizer of "


def spoil_checkpoint(run: Path) -> str:
    """A whole checkpoint, of a model of other sizes."""
    store = Path(json.loads((run / "config.json").read_text())["store"])
    model = replace(preset("lm", "tiny")[0], hidden=6)
    lvtrain.train("lm", store, run.parent / "other", model=model, threads=1, **SMALL)
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(run.parent / "other" / "checkpoints", run / "checkpoints")
    return r"step-00000002/model\.safetensors: not of this configuration: .*expected \["


def spoil_log(run: Path) -> str:
    (run / "metrics.jsonl").write_text("x\n")
    return r"metrics\.jsonl:1: "


@pytest.mark.parametrize(
    "spoil", [spoil_config, spoil_vocabulary, spoil_tokenizer, spoil_checkpoint, spoil_log]
)
def test_foreign_files_are_named_before_anything_is_written(
    store: Path, run: Path, spoil: Any
) -> None:
    said, before = spoil(run), content(run)
    longer = {**SMALL, "steps": 5}
    with pytest.raises(UserError, match=said):
        lvtrain.train("lm", store, run, resume="auto", threads=1, **longer)
    assert content(run) == before


def test_a_store_without_validation_or_smaller_than_a_batch_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    config = PrepareConfig(valid_fraction=0.0)
    prepare_sentences(Grammar().sample(10, seed=0), config=config, out=store)
    flags = f"train lm --preset tiny --data {store} --steps 1 --batch-size 12 --no-tensorboard"
    assert lvtrain_run([*flags.split(), "--out", str(tmp_path / "warned")]) == 0
    warned = [w for w in capsys.readouterr().err.splitlines() if w.startswith("warning: ")]
    assert warned == [
        f"warning: {store} has no validation split: no checkpoint can be chosen as the best, and "
        "the last one is used",
        "warning: --batch-size 12: the store has 10 sentences, so every batch holds some more "
        "than once",
    ]
    words = Store.open(store).info.vocab_size
    for system, draws in (("lm", words), ("arae", words), ("vae", words - 1)):
        argv = [*flags.replace("lm", system).split(), "--sampled-softmax", str(draws)]
        assert lvtrain_run([*argv, "--out", str(tmp_path / system)]) == 0
        warned = f"--sampled-softmax {draws}: expected fewer draws than the {words}" in (
            capsys.readouterr().err
        )
        assert warned == (draws >= words)
    flags += " --validate-every 0 --batch-size 10"
    assert lvtrain_run([*flags.split(), "--out", str(tmp_path / "content")]) == 0
    assert "warning" not in capsys.readouterr().err


def test_what_cannot_be_is_refused_before_anything_is_written(store: Path, tmp_path: Path) -> None:
    def refused(said: str, system: str = "lm", **changed: Any) -> None:
        with pytest.raises(UserError, match=said):
            lvtrain.train(system, store, tmp_path / "run", **{**SMALL, **changed})

    refused("--batch-size 1: expected 2 or more: batch normalisation", "arae", batch_size=1)
    refused("unknown setting 'stepz'.*'steps'", stepz=3)
    refused("--steps: expected int, found 'many'", steps="many")
    refused("--device: expected one of auto, cpu, cuda, found 'gpu'", device="gpu")
    refused("model: expected LanguageModelConfig, found VAEConfig", model=preset("vae", "tiny")[0])
    refused("resume: expected 'auto' or 'never', found 'yes'", resume="yes")
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_first_step_fails_leaves_no_folder(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any) -> Any:
        raise ValueError("max() arg is an empty sequence")

    monkeypatch.setattr("lvtrain.systems.language_model.LanguageModel.loss", fails)
    with pytest.raises(ValueError, match="empty sequence"):
        lvtrain.train("lm", store, tmp_path / "run", **SMALL)
    assert list(tmp_path.iterdir()) == []
