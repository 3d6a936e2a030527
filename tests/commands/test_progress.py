"""What is said of long work, on a terminal and where standard error is a file."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lvtrain.cli import run
from lvtrain.commands import progress

Beside = Callable[..., tuple[str, str]]


@pytest.fixture
def beside_a_terminal(tmp_path: Path) -> Beside:
    """A command line, with standard error on a terminal, to what it writes into a file and what
    the terminal shows."""

    def ask(*argv: str | Path, stdin: Path = Path(os.devnull)) -> tuple[str, str]:
        ours, theirs = pty.openpty()
        with (tmp_path / "out").open("w") as out, stdin.open() as given:
            process = subprocess.Popen(
                [sys.executable, "-m", "lvtrain", *map(str, argv)],
                stdin=given, stdout=out, stderr=theirs, env=os.environ | {"TERM": "xterm"},
            )  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 1 << 16)
            except OSError:  # how a terminal says that nobody writes to it any more
                break
        os.close(ours)
        assert process.wait() == 0
        return (tmp_path / "out").read_text(), shown.decode()

    return ask


def test_a_bar_on_the_terminal_takes_nothing_of_what_goes_to_a_file(
    beside_a_terminal: Beside, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["grammar", "--num", "5"]) == 0
    expected = capsys.readouterr().out
    assert expected.count("\n") == 5
    out, shown = beside_a_terminal("grammar", "--num", "5")
    assert out == expected and "100%" in shown and expected.split("\n")[0] not in shown


def test_the_time_left_follows_from_the_rate_since_the_phase_began(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.shown() as tell:
        for seconds, done, total, phase, words in (
            (0, 0, 100, "counting", 0),
            (40, 1, 100, "counting", 4_000_000),  # the first that is done, long after the beginning
            (40, 21, 100, "counting", 8_000_000),
            (90, 50, 100, "encoding", 0),  # half of it was done by an earlier process
            (40, 50, 100, "encoding", 0),  # no rate yet
            (40, 75, 100, "encoding", 8_000_000),
            (1, 0, 100, "encoding", 0),  # once more from the start
            (39, 10, 100, "encoding", 4_000_000),
        ):
            now += seconds
            tell(done, total, phase, words)
    assert capsys.readouterr().err.splitlines() == [
        "counting: 1 %, 0.10M words/s, 3,960 s left",
        "counting: 21 %, 0.10M words/s, 301 s left",
        "encoding: 50 %",
        "encoding: 50 %",
        "encoding: 75 %, 0.10M words/s, 80 s left",
        "encoding: 10 %, 0.10M words/s, 351 s left",
    ]
