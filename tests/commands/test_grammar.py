"""`lvtrain grammar`: the files it writes, all of them or none."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from lvtrain.cli import run


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    capsys.readouterr()
    assert run(["grammar", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix("lvtrain: error: ").rstrip()


def test_the_same_seed_writes_the_same_to_a_file_as_to_standard_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["grammar", "--num", "4", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    assert run(["grammar", "--num", "4", "--seed", "3", "--out", str(tmp_path / "new" / "a")]) == 0
    assert (tmp_path / "new" / "a").read_text() == out
    assert len(out.splitlines()) == 4


def test_mistakes_name_the_flag_and_leave_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    a = tmp_path / "a"
    assert refused(capsys, "--num", "0") == "grammar: --num: expected at least 1, found 0"
    assert refused(capsys, "--seed", "-1") == "grammar: --seed: expected 0 or more, found -1"
    assert refused(capsys, "--out", tmp_path / "folder", "--labels", a) == (
        f"grammar: --out {tmp_path / 'folder'}: expected a file, found a folder"
    )
    assert "expected a file, found a folder" in refused(capsys, "--out", "")
    assert refused(capsys, "--out", a, "--translations", a) == (
        f"grammar: --translations {a}: expected a file of its own, found --out's"
    )
    (tmp_path / "file").write_text("kept")
    said = refused(capsys, "--out", a, "--labels", tmp_path / "file" / "x")
    assert said == f"{tmp_path / 'file' / 'x'}: cannot be written: Not a directory"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    assert run(["grammar", "--num", "2", "--out", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert len((tmp_path / "real").read_text().splitlines()) == 2


def test_a_pipe_is_written_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe.read_text().splitlines()))
    reader.start()
    assert run(["grammar", "--num", "2", "--out", str(pipe)]) == 0
    reader.join()
    assert len(lines) == 2
    assert pipe.is_fifo()
