from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gpu.bars import BARS, judged, memory_shares
from benchmarks.gpu.table import line, text

LSTM = {"op": "lstm forward+backward", "T": 15, "rows": "full", "contestant": "nn.LSTM"}


def bar(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (found,) = [bar for bar in judged(rows) if bar["bar"].startswith(name)]
    return found


def test_without_rows_no_bar_is_met_or_missed() -> None:
    assert all(bar["met"] is None for bar in judged([]))
    assert len(judged([])) == len(BARS) + 1


@pytest.mark.parametrize(("speeds", "met"), [([2.0, 3.0], True), ([1.9, 3.0], False)])
def test_a_bar_is_judged_by_its_worst_size(speeds: list[float], met: bool) -> None:
    rows = [
        LSTM | {"H": h, "B": 64, "dtype": "bf16", "kernel_speedup": s}
        for h, s in zip((300, 512), speeds, strict=True)
    ]
    found = bar(rows, "LSTM forward+backward")
    assert found["met"] is met and found["found"] == min(speeds)
    assert found["at"] == "T15 full H300 B64 bf16"


@pytest.mark.parametrize(
    "other", [{"H": 1024}, {"B": 16}, {"dtype": "fp16"}, {"contestant": "torch.compile"}]
)
def test_a_bar_speaks_of_its_own_sizes_alone(other: dict[str, Any]) -> None:
    row = LSTM | {"H": 300, "B": 64, "dtype": "bf16", "kernel_speedup": 1.0} | other
    assert bar([row], "LSTM forward+backward")["met"] is None


def test_cudnns_persistent_kernel_is_met_where_it_is_chosen() -> None:
    row = LSTM | {"H": 512, "B": 64, "dtype": "fp16", "kernel_speedup": 0.91}
    name = "LSTM over cuDNN's fp16"
    assert bar([row], name)["met"]
    for other in ({"H": 300}, {"B": 256}, {"dtype": "bf16"}, {"contestant": "nn.LSTM packed"}):
        assert bar([row | other], name)["met"] is None


def test_memory_is_a_share_of_eagers_at_the_same_size() -> None:
    size = {"op": "linear_cross_entropy", "V": 30_000, "dtype": "bf16", "results_mb": 40.0}
    kernel = size | {"contestant": "kernel", "peak_mb": 140.0}
    eager = size | {"contestant": "eager", "peak_mb": 1040.0}
    shared, _ = memory_shares([kernel, eager])
    assert shared["memory_share"] == pytest.approx(0.1346, abs=1e-4)
    assert shared["working_share"] == pytest.approx(0.1)
    assert bar([kernel, eager], "cross-entropy of 30,000 words")["met"]
    assert bar([kernel, eager | {"dtype": "tf32"}], "cross-entropy of 30,000")["met"] is None


def test_a_failed_stress_test_is_named() -> None:
    row = {"op": "stress", "H": 32, "B": 16, "dtype": "bf16", "passed": True}
    assert bar([row], "barrier")["met"]
    found = bar([row, row | {"H": 64, "passed": False}], "barrier")
    assert found["met"] is False and found["found"] == "1 of 2" and "H64" in found["at"]


@pytest.mark.parametrize("note", ["process ended with -9", "no time left for 3 more cases"])
def test_a_stress_test_that_was_cut_short_is_no_pass(note: str) -> None:
    row = {"section": "stress", "op": "stress", "H": 32, "B": 16, "dtype": "bf16", "passed": True}
    cut = {"section": "stress", "op": "stress", "note": note}
    found = bar([row, cut], "barrier")
    assert found["met"] is False and found["at"] == note
    assert note in line(cut) and any(note in shown for shown in text([row, cut], judged([cut])))
