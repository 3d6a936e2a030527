"""The table of billion-word corpora, at a million words."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import corpus, corpus_peers
from benchmarks.corpus import Memory
from benchmarks.data import measure
from lvtrain.errors import UserError

ROOT = Path(__file__).parents[2]
WORDS = 1_000_000


@pytest.fixture(scope="module")
def options() -> argparse.Namespace:
    return argparse.Namespace(
        processes=2, seconds=0.2, kills=2, damages=10, peers=None, train_steps=0, preset="tiny"
    )


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, options: argparse.Namespace) -> Path:
    """A folder with the text and the store of a million words."""
    folder = tmp_path_factory.mktemp("corpus")
    for stage in (corpus.generate, corpus.prepare):
        figures = stage(folder, WORDS, options)
        (folder / f"{stage.__name__}.json").write_text(json.dumps(figures))
    return folder


def figures(work: Path, stage: str) -> dict[str, float]:
    return json.loads((work / f"{stage}.json").read_text())


def test_text_and_store_have_the_words_asked_for(work: Path) -> None:
    text = sum(len(path.read_text().split()) for path in (work / "text").iterdir())
    assert text == pytest.approx(WORDS, rel=0.01)
    made = figures(work, "prepare")
    assert made["words"] == text
    assert made["bytes_per_token"] <= 2.2
    assert made["peak_memory_bytes"] < 1 << 30


def test_it_reads_as_fast_at_any_step(work: Path, options: argparse.Namespace) -> None:
    found = measure(work / "store", options.seconds, 64, "mixed")
    assert found["tokens_per_second"] > 1e6
    assert found["memory_growth_peak_bytes"]["anonymous"] < 100 << 20
    first, later = (
        min(corpus.first_batch(work / "store", step) for _ in range(3)) for step in (0, 10**6)
    )
    assert later < 5 * first + 0.1


def test_kills_change_nothing(work: Path, options: argparse.Namespace) -> None:
    assert corpus.kill(work, WORDS, options)["identical"]


def test_damage_is_found(work: Path, options: argparse.Namespace) -> None:
    found = corpus.damage(work, WORDS, options)
    assert found["found_by_verify"] == found["found_by_reading"] == options.damages


def test_others_make_the_same_integers(work: Path, tmp_path: Path) -> None:
    files = list(map(str, sorted((work / "text").iterdir())))
    few = tmp_path / "few.txt"
    few.write_text("".join(Path(files[0]).read_text().splitlines(keepends=True)[:500]))
    corpus_peers.binarise(tmp_path, [str(few)], 2)
    sizes = [path.stat().st_size for path in tmp_path.glob("binarise-*.bin")]
    assert sum(sizes) == 2 * (len(few.read_text().split()) + 500)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for argv, said in (
        (["--words", "-5"], "--words: expected a whole number, 1 or more, found -5"),
        (["--kills", "-1"], "--kills: expected 0 or more, found -1"),
        (["--stages", "read"], f"read: no {tmp_path / '1000000' / 'store'}: expected the stage "
         "prepare before it"),
    ):  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.corpus", "--work", str(tmp_path), *argv]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stderr) == (2, f"lvtrain: error: {said}\n")
    with pytest.raises(UserError, match="-c exit.3. … ended with status 3"):
        corpus._said([sys.executable, "-c", "exit(3)"])


def test_figures_of_all_stages_are_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "1000").mkdir()
    (tmp_path / "1000" / "read.json").write_text('{"tokens": 3}')
    argv = ["corpus", "--work", str(tmp_path), "--words", "1e3", "--stages", "read"]
    monkeypatch.setattr("sys.argv", argv)
    assert corpus.main() == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["read"],
        ["tokens", "3"],
    ]
    monkeypatch.setattr("sys.argv", [*argv, "--json"])
    assert corpus.main() == 0
    assert json.loads(capsys.readouterr().out) == {"read": {"tokens": 3}}


def test_memory_is_that_of_a_process_and_its_children() -> None:
    code = "import subprocess, sys; x = b'x' * 50_000_000; sys.stdin.read()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    process = subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE)
    with Memory(process.pid, 0.01) as memory:
        for _ in range(1000):
            if memory.peak > 50_000_000:
                break
            os.sched_yield()
            memory._end.wait(0.05)
    assert memory.peak > 50_000_000
    process.communicate()
