from __future__ import annotations

import io
import json
import math
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvtrain.errors import UserError
from lvtrain.training.display import duration, figure
from lvtrain.training.log import RunLog, read_metrics


def quiet(folder: Path, **options) -> RunLog:
    options = {"total_steps": 100, "display": "none", "tensorboard": False} | options
    return RunLog(folder, **options)


def train(log: RunLog, first: int, last: int, words: int = 10) -> None:
    for step in range(first, last + 1):
        log.step(step, words, {"loss": float(step)})


def test_a_line_holds_the_means_since_the_line_before(tmp_path: Path) -> None:
    with quiet(tmp_path, every=2) as log:
        log.step(1, 10, {"loss": 1.0, "critic": 5.0})
        log.step(2, 12, {"loss": 2.0})
        log.step(3, 11, {"loss": 7.0})
    first, second = read_metrics(tmp_path)
    assert (first["kind"], first["step"], first["words"]) == ("train", 2, 22)
    assert (first["loss"], first["critic"]) == (1.5, 5.0)
    assert first["words_per_second"] > 0 and first["seconds"] >= 0
    assert (second["step"], second["words"], second["loss"]) == (3, 33, 7.0)
    assert "critic" not in second


def test_the_last_step_always_has_a_line(tmp_path: Path) -> None:
    with quiet(tmp_path, total_steps=15) as log:
        train(log, 1, 15)
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 15]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with quiet(tmp_path, every=1) as log:
        log.step(1, 1, {"loss": math.nan})
        log.validation(1, {"perplexity": math.inf})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert [line.get("loss", line.get("perplexity")) for line in read_metrics(tmp_path)] == [
        None
    ] * 2


def test_validation_marks_the_best(tmp_path: Path) -> None:
    with quiet(tmp_path) as log:
        log.validation(10, {"loss": 2.0}, best=True)
        log.validation(20, {"loss": 3.0})
    first, second = read_metrics(tmp_path)
    assert first["kind"] == "validation" and first["best"] is True
    assert "best" not in second


def test_a_metric_may_not_take_a_name_of_the_log(tmp_path: Path) -> None:
    with quiet(tmp_path) as log, pytest.raises(ValueError, match="words"):
        log.validation(1, {"words": 1.0})


def test_resuming_cuts_what_will_be_trained_again(tmp_path: Path) -> None:
    with quiet(tmp_path) as log:
        train(log, 1, 40)
    before = read_metrics(tmp_path)
    with quiet(tmp_path, resume_step=20) as log:
        train(log, 21, 30)
    after = read_metrics(tmp_path)
    assert [line["step"] for line in after] == [10, 20, 30]
    assert after[:2] == before[:2]
    assert [line["words"] for line in after] == [100, 200, 300]
    assert after[2]["seconds"] >= before[1]["seconds"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl"]


def test_a_run_from_the_start_keeps_no_line(tmp_path: Path) -> None:
    with quiet(tmp_path) as log:
        log.validation(0, {"loss": 1.0})
        train(log, 1, 20)
    with quiet(tmp_path):
        pass
    assert read_metrics(tmp_path) == []


def test_a_torn_last_line_is_left_out_and_cut_on_resume(tmp_path: Path) -> None:
    with quiet(tmp_path) as log:
        train(log, 1, 20)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "train", "st')
    assert [line["step"] for line in read_metrics(tmp_path)] == [10, 20]
    with quiet(tmp_path, resume_step=20) as log:
        train(log, 21, 30)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 30]


def test_a_spoilt_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nloss=3\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics.jsonl:2: expected a JSON object .* 'loss=3'"):
        read_metrics(tmp_path)


def test_no_file_is_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "absent") == []


def test_untimed_work_does_not_lower_the_rate(tmp_path: Path) -> None:
    with quiet(tmp_path, every=1) as log:
        with log.untimed("validation", 0):
            time.sleep(0.5)
        log.step(1, 100, {})
    (line,) = read_metrics(tmp_path)
    assert line["words_per_second"] > 2 * 100 / line["seconds"]


def test_lines_say_step_rate_time_left_and_metrics(tmp_path: Path) -> None:
    out = io.StringIO()
    with quiet(tmp_path, total_steps=20, display="lines", stream=out) as log:
        train(log, 1, 10)
        log.validation(10, {"loss": 3.21}, best=True)
        log.message("committed")
    first, validation, message = out.getvalue().splitlines()
    assert first.startswith("step 10/20  words/s ")
    assert first.endswith("  eta 0:00  loss 5.500")
    assert validation == "validation 10  loss 3.210  best so far"
    assert message == "committed"


def times_left(
    paces: Sequence[float], every: int, first: int = 0, aside: tuple[int, float] = (0, 0.0)
) -> dict[int, float]:
    """What is said to remain at each line of a run whose steps, after the `first`, take `paces`;
    every so many of them something else takes some seconds besides."""
    now, out, total = 0.0, io.StringIO(), first + len(paces)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(time, "monotonic", lambda: now)
        options = {"every": every, "resume_step": first, "display": "lines", "stream": out}
        with quiet(Path(folder), total_steps=total, **options) as log:
            for step, pace in enumerate(paces, first + 1):
                now += pace
                log.step(step, 1, {})
                if aside[0] and step % aside[0] == 0:
                    with log.untimed("validation", (total - step) // aside[0]):
                        now += aside[1]
    return {
        int(step): sum(int(part) * 60**i for i, part in enumerate(reversed(left.split(":"))))
        for step, left in re.findall(r"step (\d+)/.* eta ([\d:]+)", out.getvalue())
    }


@given(pace=st.floats(0.01, 100), every=st.integers(1, 100), first=st.integers(0, 999))
@settings(max_examples=15)
def test_time_left_is_exact_where_all_steps_take_as_long(
    pace: float, every: int, first: int
) -> None:
    for step, left in times_left([pace] * (1_000 - first), every, first).items():
        assert left == pytest.approx(pace * (1_000 - step), abs=0.6)


@given(
    factor=st.sampled_from([16.0, 1 / 16]),
    every=st.integers(1, 50),
    first=st.integers(0, 399),
    jump=st.integers(400, 500),
    seed=st.integers(0, 99),
)
@settings(max_examples=15)
def test_time_left_is_right_soon_after_steps_take_otherwise(
    factor: float, every: int, first: int, jump: int, seed: int
) -> None:
    noise = random.Random(seed)
    paces = [
        (10.0 if step <= jump else 10.0 * factor) * noise.uniform(0.8, 1.2)
        for step in range(first + 1, 1_001)
    ]
    for step, left in times_left(paces, every, first).items():
        if step <= jump or step >= jump + 20 + 2 * every:
            pace = 10.0 if step <= jump else 10.0 * factor
            assert left == pytest.approx(pace * (1_000 - step), rel=0.2, abs=1)


def test_time_left_after_a_thousand_cheap_steps() -> None:
    said = times_left([0.13] * 1_000 + [2.1] * 1_500, 50)
    assert said[1_050] == pytest.approx(2.1 * 1_450, rel=0.01)
    resumed = times_left([0.13] * 10 + [2.1] * 1_500, 50, 990)
    assert resumed[1_050] == pytest.approx(2.1 * 1_450, rel=0.01)


@pytest.mark.parametrize("first", [0, 95])
def test_time_left_has_what_is_done_besides_as_often_as_it_is_to_come(first: int) -> None:
    said = times_left([1.0] * (1_000 - first), 10, first, aside=(100, 50.0))
    # At step 100 the line comes before what is done there.
    assert said[110] == pytest.approx(890 + 9 * 50, abs=1)
    assert said[900] == pytest.approx(100 + 2 * 50, abs=1)
    assert said[910] == pytest.approx(90 + 50, abs=1)


def test_time_left_follows_the_steps_of_this_process_alone(tmp_path: Path) -> None:
    out = io.StringIO()
    options = {"display": "lines", "stream": out, "every": 1}
    with quiet(tmp_path, total_steps=1000, resume_step=900, **options) as log:
        time.sleep(0.1)
        log.step(901, 1, {})
    (seconds,) = re.findall(r"eta 0:(\d\d)", out.getvalue())
    assert 9 <= int(seconds) < 60


def test_json_lines_are_those_of_the_file(tmp_path: Path) -> None:
    out = io.StringIO()
    with quiet(tmp_path, display="json", stream=out) as log:
        train(log, 1, 10)
        log.validation(10, {"loss": math.nan})
        log.message("committed")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert lines == [*read_metrics(tmp_path), {"kind": "message", "text": "committed"}]


def test_auto_writes_plain_lines_when_not_on_a_terminal(tmp_path: Path) -> None:
    out = io.StringIO()
    with quiet(tmp_path, display="auto", stream=out) as log:
        train(log, 1, 10)
    assert out.getvalue().startswith("step 10/100") and "\x1b" not in out.getvalue()


def test_the_bar_shows_progress_and_the_best_of_an_earlier_process(tmp_path: Path) -> None:
    with quiet(tmp_path) as log:
        log.validation(10, {"perplexity": 33.0}, best=True)
        train(log, 1, 10)
    out = io.StringIO()
    with quiet(tmp_path, resume_step=10, display="bar", stream=out) as log:
        train(log, 11, 20)
        log.message("[brackets] are not markup")
    shown = out.getvalue()
    assert "[brackets] are not markup" in shown
    assert "words/s" in shown and "perplexity 33.000" in shown and "at step 10" in shown


def test_full_storage_is_one_line(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = quiet(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(UserError, match=r"file too large while writing .*metrics\.jsonl"):
            train(log, 1, 10)
        log.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_metrics(tmp_path) == []


def test_tensorboard_forgets_what_is_trained_again(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with quiet(tmp_path, tensorboard=True) as log:
        train(log, 1, 40)
        log.validation(40, {"loss": 1.0})
    time.sleep(1.1)  # event files are told apart, and ordered, by the second they began in
    with quiet(tmp_path, tensorboard=True, resume_step=20) as log:
        train(log, 21, 30)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [10, 20, 30]
    assert {"train/loss", "train/words_per_second"} <= set(events.Tags()["scalars"])


WITHOUT_TENSORBOARD = """
import sys
sys.modules["tensorboard"] = None
from pathlib import Path
from lvtrain.training.log import RunLog
with RunLog(Path(sys.argv[1]), total_steps=1, display="none") as log:
    log.step(1, 1, {"loss": 1.0})
"""


def test_without_tensorboard_the_log_goes_on(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TENSORBOARD, str(tmp_path)], check=True)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]


def test_a_step_costs_microseconds(tmp_path: Path) -> None:
    metrics = {f"metric_{number}": 1.0 for number in range(10)}
    with quiet(tmp_path, total_steps=20_000, every=100) as log:
        start = time.perf_counter()
        for step in range(1, 10_001):
            log.step(step, 700, metrics)
        seconds = (time.perf_counter() - start) / 10_000
    assert seconds < 200e-6


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (-0.112, "-0.112"),
        (1234.5, "1,234.500"),
        (1e-5, "1e-05"),
        (3e7, "3e+07"),
        (math.nan, "not finite"),
        (None, "not finite"),
    ],
)
def test_figures_are_short(value: float | None, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (100, "1:40"), (7400, "2:03:20")]
)
def test_durations_are_clocks(seconds: float, text: str) -> None:
    assert duration(seconds) == text
