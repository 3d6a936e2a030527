"""The scaling benchmark runs end to end, and its model adds up what it says it does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scaling import Measured, contestant, main, read, rounds_for
from benchmarks.scaling_model import (
    FAST,
    MEMORY,
    NVLINK,
    SLOW,
    Assumptions,
    Line,
    StepTimes,
    adversaries_for,
    extrapolate,
    forecast,
    limits,
    most_for_one,
)
from lvtrain.cluster.plan import Messages

STEPS = StepTimes(
    device="a clock",
    propose=Line(1.0, 0.0),
    show=Line(2.0, 0.0),
    decode=Line(10.0, 0.0),
    learn=Line(4.0, 0.0),
    criticise=Line(0.0, 0.1),
    answer=Line(0.0, 0.05),
    generate=Line(0.0, 0.2),
)
FREE = Assumptions(
    cpu=STEPS,
    rows=10,
    words=3.0,
    rounds=5,
    messages=Messages(
        code=100, proposals=2, answers=1, model=(1000,), critic=(8, 100) * 5, generator=(8, 60)
    ),
    pack=0.0,
    store=0.0,
    unpack=0.0,
    call=0.0,
    wait=0.0,
    latency=0.0,
)


def test_a_hidden_adversary_costs_an_iteration_nothing() -> None:
    found = forecast(FREE, STEPS, MEMORY, 1, 1)
    # One round waits for no other batch but the second does: 2 + 4 · 1 + 0.5 ≤ 2 + 10.
    assert found.hidden
    assert found.iteration == pytest.approx(1 + 2 + 10 + 4)
    assert found.words_per_second == pytest.approx(30 / 17)
    assert found.limit == "model"
    assert found.stages["adversary"] == pytest.approx(5 + 0.5 + 2)


def test_an_adversary_that_is_late_is_waited_for() -> None:
    found = forecast(FREE, STEPS, MEMORY, 4, 1)
    answered = max(4.0, 2.0) + 4 * 4 + 2
    assert not found.hidden
    assert found.iteration == pytest.approx(max(1 + answered + 4, 5 * 4 + 2 + 8))


def test_the_exchange_is_its_fixed_part_its_pieces_and_its_bytes() -> None:
    given = replace(FREE, pack=1.0, store=2.0, unpack=0.5)
    found = forecast(given, STEPS, replace(SLOW, bandwidth=1000.0), 4, 2)
    # Each adversary has a piece from two workers, 20 rows of 100 bytes in all.
    assert found.stages["exchange"] == pytest.approx(3 * (1 + 2 + 2 * 0.5 + 2.0))


def test_sums_over_a_group_send_twice_all_but_a_share_and_wait_for_each_hop() -> None:
    given = replace(FREE, latency=0.25)
    found = forecast(given, STEPS, replace(SLOW, bandwidth=100.0), 4, 1)
    # 2 · 3/4 · 1000 bytes, and 2 log₂ 4 hops.
    assert found.stages["all-reduce"] == pytest.approx(15 + 4 * 0.25)
    one = forecast(given, STEPS, SLOW, 1, 1)
    assert one.stages["all-reduce"] == 0


def test_every_call_of_the_driver_takes_its_time() -> None:
    found = forecast(replace(FREE, call=1.0, wait=3.0), STEPS, MEMORY, 8, 2)
    assert found.stages["driver"] == pytest.approx(4 * 8 + 7 * 2 + 3)
    assert found.iteration == pytest.approx(4 * 8 + 7 * 2 + 3)
    assert found.limit == "driver"


def test_there_are_as_few_adversaries_as_stay_hidden() -> None:
    # max(1 N/M, 2) + 4 N/M + 0.5 N/M ≤ 12.
    assert most_for_one(FREE, STEPS, MEMORY) == 2
    assert [adversaries_for(FREE, STEPS, MEMORY, n) for n in (1, 2, 4, 6, 64)] == [1, 1, 2, 3, 32]


def test_the_limit_with_one_adversary_is_the_adversary() -> None:
    found = limits(FREE, STEPS, MEMORY, many=False)
    # 0.75 N 10 > 17.
    assert found == {"adversary": 3, "exchange": None, "all-reduce": None, "driver": None}
    assert limits(FREE, STEPS, MEMORY, many=True)["adversary"] is None


def test_a_line_goes_through_what_was_measured_and_never_below_zero() -> None:
    assert Line.through([(10, 3.0), (20, 5.0)]) == Line(1.0, 0.2)
    assert Line.through([(10, 3.0)]).at(20) == pytest.approx(6.0)
    assert Line.through([(10, 1.0), (20, 4.0)]) == Line(0.0, 0.2)


def test_there_are_rows_for_what_was_measured_alone() -> None:
    tables = extrapolate(FREE)
    assert {(table["device"], table["link"]) for table in tables} == {
        ("cpu", FAST.name),
        ("cpu", SLOW.name),
    }
    with_gpu = extrapolate(replace(FREE, gpu=STEPS))
    assert [table["link"] for table in with_gpu if table["device"] == "cuda"] == [
        NVLINK.name,
        FAST.name,
        SLOW.name,
    ]
    for table in with_gpu:
        assert {row["workers"] for row in table["rows"]} == {1, 2, 4, 8, 16, 32, 64}
        assert all(row["efficiency"] <= 1.001 for row in table["rows"])


def test_rounds_make_the_adversary_as_slow_as_is_wanted() -> None:
    times = {"decode": 100.0, "criticise": 10.0, "answer": 2.0, "generate": 6.0}
    assert rounds_for(times, 5, ["decode"]) == 46
    assert rounds_for(times | {"decode": 1.0}, 5, ["decode"]) == 5


def test_measurements_are_the_lines_after_the_first(tmp_path: Path) -> None:
    lines = [
        {"kind": "train", "step": 2, "words": 100, "words_per_second": 10.0, "model_idle": 0.9},
        {"kind": "validation", "step": 2, "words": 100},
        {"kind": "train", "step": 4, "words": 300, "words_per_second": 50.0, "model_idle": 0.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    measured = read(tmp_path)
    assert measured == [Measured(words_per_second=50.0, seconds=2.0, idle={"model": 0.25})]
    figures = contestant(measured, 25.0)
    assert figures["ratio"] == 2.0 and figures["idle"] == {"model": 0.25}


def test_the_benchmark_runs_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "1000")
    out = tmp_path / "scaling.json"
    toy = "--hidden 6 --vocab-size 40 --batch-size 8 --sentences 60 --no-two --no-overlap"
    few = "--runs 1 --steps 4 --every 2 --repeats 1"
    main([*toy.split(), *few.split(), "--json", "--out", str(out)])
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads(out.read_text())
    assert figures["ratio"] == pytest.approx(
        figures["words_per_second"] / figures["one_process_words_per_second"], rel=0.01
    )
    assert set(figures["contestants"]["1 + 1"]["idle"]) == {"model", "adversary"}
    assert figures["engines"]["cost_of_DeepSpeed"].keys() >= {"model_ms", "adversary_ms"}
    for way in figures["exchange_ms"].values():
        assert way["whole"] == pytest.approx(way["pack"] + way["store"] + way["unpack"], abs=0.01)
    assert [table["device"] for table in figures["model"]].count("cpu") == 2
    assert {"hardware", "date", "command", "torch", "ray", "deepspeed"} <= figures.keys()
