from __future__ import annotations

import pytest
import torch

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.timing import Contest, Missing, measure, relative_error

CPU = Bench(device="cpu", size="toy", ceilings={"copy": 1e9, "bf16": 1e12})


def absent():
    raise Missing("not installed")


def fails():
    raise ValueError("wrong\nand more")


def test_contestants_are_timed_and_compared_and_the_missing_are_named() -> None:
    one, two = torch.ones(3), torch.full((3,), 1.5)
    contest = Contest(
        op="add",
        sizes={"N": 3},
        contestants={
            "kernel": lambda: [lambda: (one,)] * 2,
            "other": lambda: [lambda: (two,)] * 2,
            "absent": absent,
            "broken": lambda: [fails],
        },
        moved=1e6,
        flops=1e6,
    )
    rows = {row["contestant"]: row for row in measure(contest, CPU)}
    assert rows["kernel"]["ms"] > 0 and rows["kernel"]["floor_ms"] == 1.0
    assert rows["other"]["kernel_speedup"] > 0
    assert rows["other"]["difference"] == pytest.approx(1 / 3, rel=0.02)
    assert rows["absent"]["note"] == "not installed"
    assert rows["broken"]["note"] == "ValueError: wrong"


def test_the_floor_is_the_longer_of_bytes_and_flops() -> None:
    contest = Contest(op="", sizes={}, contestants={}, moved=1e6, flops=4e9)
    assert contest.floor_ms(CPU.ceilings) == 4.0
    assert contest.floor_ms({}) is None


def test_what_is_not_a_number_is_no_small_error() -> None:
    bad = relative_error(torch.tensor([float("nan")]), torch.ones(1))
    assert bad != bad
    assert relative_error(torch.tensor([1.5]), torch.ones(1)) == 0.5
