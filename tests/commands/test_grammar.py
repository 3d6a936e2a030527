"""`lvtrain grammar`: the files it writes, all of them or none."""

from __future__ import annotations

import os
import subprocess
import sys
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
    assert refused(capsys, "--words", "0.5") == (
        "grammar: --words: expected a whole number, 1 or more, found 0.5"
    )
    assert refused(capsys, "--start", "-1") == "grammar: --start: expected 0 or more, found -1"
    assert refused(capsys, "--words", "inf") == (
        "grammar: --words: expected a whole number, 1 or more, found inf"
    )
    both = refused(capsys, "--words", "9", "--num", "1")
    assert both == "grammar: expected one of --num and --words, found both"
    assert refused(capsys, "--seed", "-1") == "grammar: --seed: expected 0 or more, found -1"
    assert refused(capsys, "--out", tmp_path / "folder", "--labels", a) == (
        f"grammar: --out {tmp_path / 'folder'}: expected a file, found a folder"
    )
    for empty in (["--out", ""], ["--out="]):
        assert refused(capsys, *empty) == "grammar: --out: expected a path, found none"
    assert refused(capsys, "--out", a, "--translations", a) == (
        f"grammar: --translations {a}: expected a file of its own, found --out's"
    )
    (tmp_path / "file").write_text("kept")
    said = refused(capsys, "--out", a, "--labels", tmp_path / "file" / "x")
    assert said == f"{tmp_path / 'file' / 'x'}: cannot be written: Not a directory"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("flag", ["--out", "--labels", "--translations"])
def test_a_uri_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in ("s3://bucket/x.txt", "memory://x.txt", f"file://{tmp_path}/x.txt"):
        said = refused(capsys, flag, uri)
        assert said == f"grammar: {flag} {uri}: expected a path of this machine, found a URI"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no name for standard output")
def test_standard_output_by_its_name_is_written_wherever_it_leads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["grammar", "--num", "3"]) == 0
    out = capsys.readouterr().out
    command = [sys.executable, "-m", "lvtrain", "grammar", "--num", "3", "--out"]
    piped = subprocess.run([*command, "/dev/stdout"], capture_output=True, text=True)
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, out, "")
    file = tmp_path / "file"
    file.write_text("before\n")
    with file.open("a") as appended:
        subprocess.run([*command, "/dev/stdout"], stdout=appended, check=True)
    assert file.read_text() == f"before\n{out}"
    read, write = os.pipe()
    subprocess.run([*command, f"/dev/fd/{write}"], pass_fds=[write], check=True)
    os.close(write)
    with os.fdopen(read) as other:
        assert other.read() == out


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag, much in (("--out", "--words"), ("--translations", "--words"), ("--labels", "--num")):
        many = "1e30" if much == "--words" else str(10**30)
        said = refused(capsys, flag, tmp_path / "new" / "a", much, many)
        assert said.startswith(f"no space left on device: {tmp_path} has ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_disk_that_becomes_full_names_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flag in ("--out", "--labels"):
        others = ["--translations", tmp_path / "a"]
        others += [] if flag == "--out" else ["--out", tmp_path / "b"]
        said = refused(capsys, flag, "/dev/full", *others, "--num", "9000")
        assert said == "no space left on device while writing /dev/full"
    assert list(tmp_path.iterdir()) == []


def test_words_are_counted_and_parts_make_up_the_whole(tmp_path: Path) -> None:
    whole, first, second = (tmp_path / name for name in ("whole", "first", "second"))
    assert run(["grammar", "--words", "1e3", "--out", str(whole)]) == 0
    lines = whole.read_text().splitlines()
    assert 1000 <= len(whole.read_text().split()) < 1000 + len(lines[-1].split())
    assert run(["grammar", "--num", "60", "--out", str(first)]) == 0
    labels = tmp_path / "labels"
    command = ["grammar", "--num", str(len(lines) - 60), "--start", "60", "--out", str(second)]
    assert run([*command, "--labels", str(labels)]) == 0
    assert first.read_text() + second.read_text() == whole.read_text()
    assert len(labels.read_text().split()) == len(lines) - 60


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
