"""A run's folder: one holder at a time, nothing foreign continued, nothing half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lvtrain.config import RunConfig, TrainConfig, to_json
from lvtrain.data.checksums import sha256
from lvtrain.data.info import TOKENIZER
from lvtrain.errors import UserError
from lvtrain.systems.language_model import LanguageModelConfig
from lvtrain.training import checkpoint
from lvtrain.training.folder import check_folder, find_checkpoint, held, recorded
from lvtrain.training.parts import parts


@pytest.fixture
def config(store: Path) -> RunConfig:
    return RunConfig(
        system="lm",
        model=LanguageModelConfig(hidden=8),
        train=TrainConfig(steps=5, threads=2, device="cpu"),
        store=store,
        store_digest="d",
        tokenizer_digest=sha256(store / TOKENIZER),
        vocab_size=9,
        max_words=4,
    )


@pytest.fixture
def run(config: RunConfig, tmp_path: Path) -> Path:
    """The folder of a run at step 3."""
    out = tmp_path / "run"
    with held(out), recorded(out, config, new=True):
        pass
    checkpoint.commit(out / "checkpoints", 3, parts({"model": {"w": torch.ones(2)}}), {"step": 3})
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_new_an_empty_and_a_hidden_files_folder_are_free(
    config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / ".lock").touch()
    for name in ("new", "empty", "hidden"):
        assert check_folder(tmp_path / name, config, "never") is False
        assert check_folder(tmp_path / name, config, "auto") is False


def test_a_run_is_found_by_auto_and_the_advice_of_never(config: RunConfig, run: Path) -> None:
    assert check_folder(run, config, "auto") is True
    with pytest.raises(UserError, match="of this configuration; --resume auto goes on"):
        check_folder(run, config, "never")


def test_another_run_is_not_advised_to_be_resumed(config: RunConfig, run: Path) -> None:
    other = replace(config, train=replace(config.train, seed=4))
    with pytest.raises(UserError, match=r"train.seed is 0 there and 4 here\): choose another"):
        check_folder(run, other, "never")
    with pytest.raises(UserError, match="config.json: the run has another .*train.seed is 0"):
        check_folder(run, other, "auto")


def test_a_foreign_folder_is_not_advised_to_be_resumed(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for resume, wanted in (("never", "a new or empty folder"), ("auto", "a run or a new folder")):
        with pytest.raises(UserError, match=f"expected {wanted}, found one with 'notes.txt'") as e:
            check_folder(tmp_path, config, resume)  # type: ignore[arg-type]
        assert "--resume" not in str(e.value)
    assert content(tmp_path) == {"notes.txt": b"mine"}


def test_an_exported_model_is_not_continued(config: RunConfig, run: Path) -> None:
    (run / "model.safetensors").touch()
    with pytest.raises(UserError, match="found an exported model"):
        check_folder(run, config, "auto")


def test_a_file_on_the_way_is_named(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=f"--out {out}: expected a folder, found a file: "):
            check_folder(out, config, "auto")


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", "null", "7", '{"system": "lm"}', "\ud800"])
@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_damaged_or_foreign_configuration_is_named(
    config: RunConfig, run: Path, text: str, resume: str
) -> None:
    (run / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(UserError, match=r"config.json: not (JSON|the configuration of a run): "):
        check_folder(run, config, resume)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {"hiden": 8}}, "model: unknown field 'hiden'.*'hidden'"),
        ({"model": {"hidden": "8"}}, "model: hidden: expected int, found '8'"),
        ({"train": {"steps": True}}, "train: steps: expected int, found True"),
        ({"vocab_size": 8}, "vocab_size is 8 there and 9 here"),
        ({"store_digest": "e", "model": {"hidden": 9}}, "store_digest is 'e' there and 'd' here"),
        ({"system": "ae"}, "the run is of 'ae', expected 'lm'"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named_with_its_field(
    config: RunConfig, run: Path, change: dict[str, object], said: str
) -> None:
    (run / "config.json").write_text(json.dumps(to_json(config) | change))
    with pytest.raises(UserError, match=f"config.json: .*{said}"):
        check_folder(run, config, "auto")


def test_a_store_that_has_changed_is_said_with_what_to_do(
    config: RunConfig, run: Path, tmp_path: Path
) -> None:
    grown = replace(config, store_digest="b" * 64, max_words=9)
    with pytest.raises(UserError) as told:
        check_folder(run, grown, "auto")
    assert str(told.value) == (
        f"{run}: the store {config.store} has changed since (it was grown or replaced): expected "
        f"digest d…, found {'b' * 16}…; train a new run on it, or prepare the old one again"
    )
    other = replace(grown, store=tmp_path / "other")
    with pytest.raises(UserError, match=f"{other.store} is not that of the run, {config.store}:"):
        check_folder(run, other, "auto")


def test_what_another_machine_changes_is_no_other_configuration(
    config: RunConfig, run: Path
) -> None:
    here = replace(
        config, store=Path("/elsewhere"), train=replace(config.train, threads=7, device="cuda")
    )
    assert check_folder(run, here, "auto")
    found = find_checkpoint(run, here)
    assert found is not None
    assert [w.partition(":")[0] for w in found.warnings] == [
        "threads 2 before, 7 now",
        "device cpu before, cuda now",
    ]


def test_a_run_from_before_a_field_was_recorded_goes_on(config: RunConfig, run: Path) -> None:
    record = to_json(config)
    del record["tokenizer_digest"], record["model"]["tied"]
    record["train"]["threads"] = 0
    (run / "config.json").write_text(json.dumps(record))
    assert check_folder(run, config, "auto")
    found = find_checkpoint(run, config)
    assert found is not None and found.step == 3 and found.warnings == ()


def test_a_foreign_tokenizer_is_named(config: RunConfig, run: Path) -> None:
    path = run / TOKENIZER
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(UserError, match=r"run/tokenizer.json: not the tokenizer of .*SHA-256"):
        find_checkpoint(run, config)
    path.unlink()
    assert find_checkpoint(run, config) is not None


def test_a_damaged_log_is_named_before_anything_is_written(config: RunConfig, run: Path) -> None:
    (run / "metrics.jsonl").write_text("x\n")
    with pytest.raises(UserError, match=r"metrics.jsonl:1: expected a JSON object"):
        find_checkpoint(run, config)


def test_a_step_beyond_the_last_is_refused(config: RunConfig, run: Path) -> None:
    shorter = replace(config, train=replace(config.train, steps=2))
    with pytest.raises(UserError, match="--steps 2: the run in .* is at step 3 already"):
        find_checkpoint(run, shorter)


def test_the_lock_goes_with_its_holder_and_so_does_an_unused_folder(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "first"
    with held(out):
        with pytest.raises(UserError, match="another process is training"), held(out):
            pass
        assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [".lock"]
    assert not out.exists()
    out.mkdir()
    with held(out):
        pass
    assert list(out.iterdir()) == []


CONTEND = """
import sys
from pathlib import Path
from lvtrain.errors import UserError
from lvtrain.training.folder import held

out, times = Path(sys.argv[1]), 0
while times < 200:
    try:
        with held(out):
            busy = out / ".busy"
            busy.touch(exist_ok=False)
            busy.unlink()
            times += 1
    except UserError:
        pass
"""


def test_of_many_processes_one_holds_the_folder(tmp_path: Path) -> None:
    """Each removes the lock's file while others open it."""
    out = tmp_path / "run"
    out.mkdir()
    command = [sys.executable, "-c", CONTEND, str(out)]
    contenders = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in contenders:
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
    assert list(out.iterdir()) == []


def test_what_is_recorded_replaces_files_as_a_whole(config: RunConfig, run: Path) -> None:
    longer = replace(config, train=replace(config.train, steps=50))
    before = (run / "config.json").open()
    with recorded(run, longer, new=False):
        pass
    assert json.loads(before.read())["train"]["steps"] == 5, "whoever reads it reads a whole file"
    before.close()
    assert json.loads((run / "config.json").read_text())["train"]["steps"] == 50
    assert not [p for p in run.iterdir() if p.name.startswith(".")]


def test_a_new_run_that_does_not_begin_leaves_nothing(
    config: RunConfig, tmp_path: Path, run: Path
) -> None:
    def interrupted(out: Path, new: bool) -> None:
        with held(out), recorded(out, config, new=new):
            (out / "metrics.jsonl").touch()
            (out / "tensorboard").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "new", new=True)
    assert not (tmp_path / "new").exists()
    before = content(run)
    with pytest.raises(KeyboardInterrupt):
        interrupted(run, new=False)
    assert before.items() <= content(run).items(), "a run that was there stays"


def test_what_fails_before_its_first_step_leaves_nothing_unless_it_has_something_to_show(
    config: RunConfig, tmp_path: Path
) -> None:
    def fails(out: Path, name: str, text: str) -> None:
        with held(out), recorded(out, config, new=True):
            (out / name).write_text(text)
            raise RuntimeError

    for name, text, left in (
        ("metrics.jsonl", "", False),
        ("metrics.jsonl", "{}", True),
        ("nonfinite.json", "{}", True),
    ):
        with pytest.raises(RuntimeError):
            fails(tmp_path / text / name, name, text)
        assert (tmp_path / text / name / "config.json").exists() == left
        assert (tmp_path / text / name).exists() == left
