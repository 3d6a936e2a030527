"""What is said of long work where standard error is a file."""

from __future__ import annotations

import pytest

from lvtrain.commands import progress


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
