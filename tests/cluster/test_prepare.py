"""The stages of `prepare` by Ray Data on a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lvtrain.cli import run
from lvtrain.cluster.prepare import RayData
from lvtrain.data.store import Store
from lvtrain.errors import Passing, UserError
from lvtrain.grammar.grammar import Grammar
from lvtrain.prepare.prepare import PrepareConfig, prepare
from lvtrain.prepare.workers import Advance, Here
from lvtrain.text import sources

pytestmark = pytest.mark.usefixtures("cluster")


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sources, "PART_BYTES", 15_000)
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"{line}\n" for line in Grammar().sample(1500, seed=2)))
    return path


def digests(store: Path) -> dict[str, bytes]:
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def test_the_store_is_that_of_one_process(corpus: Path, tmp_path: Path) -> None:
    config = PrepareConfig(files=(str(corpus),), deduplicate="exact")
    prepare(config, tmp_path / "here", workers=Here())
    words = []
    prepare(config, tmp_path / "there", lambda *said: words.append(said[3]), RayData())
    assert max(words) > 5000
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


def test_text_and_store_may_be_at_a_uri(corpus: Path, tmp_path: Path) -> None:
    prepare(PrepareConfig(files=(str(corpus),)), tmp_path / "here", workers=Here())
    command = ["prepare", f"file://{tmp_path}/*.txt", "--out", f"file://{tmp_path}/far"]
    assert run([*command, "--ray", "auto", "--work", str(tmp_path / "work")]) == 0
    here, far = (digests(tmp_path / name) for name in ("here", "far"))
    del here["store.json"], far["store.json"]  # which has the names of the files
    assert far == here
    Store.open(tmp_path / "far", verify="full")


def test_files_are_those_of_the_folder_that_the_command_was_given_in(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Workers run where Ray was started.
    monkeypatch.chdir(tmp_path)
    assert run(["prepare", corpus.name, "--out", "store", "--ray", "auto"]) == 0
    prepare(PrepareConfig(files=(str(corpus),)), tmp_path / "here", workers=Here())
    assert digests(tmp_path / "store") == digests(tmp_path / "here")


def test_a_mistake_is_one_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus.write_bytes(corpus.read_bytes() + b"\xff\n")
    command = ["prepare", str(corpus), "--out", str(tmp_path / "store"), "--ray", "auto"]
    assert run(command) == 2
    assert capsys.readouterr().err == (
        f"lvtrain: error: {corpus}: not UTF-8: line 1501, byte 1 is 0xff\n"
    )
    assert not (tmp_path / "store").exists()
    with pytest.raises(UserError, match="expected words"):
        RayData().run(_fail, [1, 2, 3], lambda read, words: None)


def _fail(task: int, advance: object) -> None:
    raise UserError("expected words, found none")


def test_a_task_whose_worker_is_lost_is_done_again(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    RayData().run(_die_once, [tmp_path / "a", tmp_path / "b"], lambda *said: done.append(said))
    assert done == [(1, 2), (1, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_task_that_is_lost_each_time_is_one_line_after_which_work_goes_on() -> None:
    with pytest.raises(Passing, match="a task of `prepare` lost 4 workers"):
        RayData().run(_die, [1, 2], lambda read, words: None)


def _die_once(task: Path, advance: Advance) -> None:
    if not task.exists():
        task.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    advance(1, 2)


def _die(task: int, advance: Advance) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_cluster_that_is_not_there_is_said_by_the_flag_of_this_command(
    corpus: Path, tmp_path: Path
) -> None:
    # This process is a driver already, of a cluster of its own.
    command = ["prepare", str(corpus), "--out", str(tmp_path / "store"), "--ray"]
    for address, expected in (
        ("localhost:1", "--ray localhost:1: no Ray cluster answers there"),
        ("there", "--ray there: expected auto, local, or the HOST:PORT"),
    ):
        process = subprocess.run(
            [sys.executable, "-m", "lvtrain", *command, address], capture_output=True, text=True
        )
        assert process.returncode == 2
        assert process.stderr.startswith(f"lvtrain: error: {expected}")
        assert process.stderr.count("\n") == 1
