"""What is said of long work, on a terminal and where standard error is a file."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lvtrain.cli import run
from lvtrain.commands import progress
from lvtrain.grammar.grammar import Grammar
from lvtrain.model import Model

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
            (1, 0, 100, "translating", 0),
            (39, 10, 100, "translating", 12_168),
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
        "translating: 10 %, 312 words/s, 351 s left",
    ]


def test_translating_a_file_is_watched_on_a_terminal(
    translators: dict[str, Path], tmp_path: Path, beside_a_terminal: Beside
) -> None:
    source = tmp_path / "source"
    lines = [*Grammar().sample(900, 5), "", "", *Grammar().sample(900, 6)]
    source.write_text("\n".join(lines) + "\n")
    out, shown = beside_a_terminal("translate", translators["tiny"], "--beam", "1", stdin=source)
    expected = [
        best[0].text for best in Model.load(translators["tiny"]).translations(lines, beam=1)
    ]
    assert out.splitlines() == expected
    assert "translating" in shown and "100%" in shown and "words/s" in shown
    assert not any(line and line in shown for line in expected)


def test_evaluate_says_how_far_translation_is(
    translators: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(progress, "LEAST_SECONDS", 0.0)
    run_, other = translators["tiny"], translators["tiny-transformer"]
    ask = ("evaluate", run_, "--baseline", other, "--draws", "2", "--sources", "70", "--json",
           "--translate.batch-size", "16", "--out", tmp_path)  # fmt: skip
    capsys.readouterr()
    assert run([str(a) for a in ask]) == 0
    found = capsys.readouterr()
    assert json.loads(found.out)["sentences"] == 60
    said = [line for line in found.err.splitlines() if re.search(r"^\w+: \d+ %", line)]
    ends = [line.split(":")[0] for line in said if ": 100 %" in line]
    assert ends == ["translating", "translating", "drawing"]
    assert any(re.fullmatch(r"translating: \d\d %, [\d,]+ words/s, \d+ s left", s) for s in said)
