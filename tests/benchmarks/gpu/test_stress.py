"""The stress test of the barrier: which sizes it takes, and that it sees what is wrong."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu import stress
from benchmarks.gpu.stress import NAMES, covering, derivatives, draw, largest_error, plans
from lvtrain.kernels import reference
from lvtrain.kernels.lstm_plan import Chip


@pytest.fixture
def h200(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stress, "chip", lambda device: Chip(sms=132, shared=227 * 1024))


def test_every_tile_shape_of_a_persistent_sweep_is_taken(h200: None) -> None:
    def tiles(sizes) -> set:
        cuts = [(d, *item) for h, b, d in sizes for item in plans(h, b, d, "cuda").items()]
        return {(d, way, cut.BB, cut.BH, cut.BK) for d, way, cut in cuts if cut.resident}

    every = [(h, b, d) for h in stress.HIDDEN for b in stress.BATCH for d in ("bf16", "tf32")]
    assert tiles(covering("cuda")) == tiles(every)
    assert len(covering("cuda")) < len(every) / 2


def test_sweeps_are_counted_by_launch(h200: None) -> None:
    assert stress.persistent_sweeps(300, 64, "bf16", "cuda") == 4
    # 128 rows at a time both ways.
    assert stress.persistent_sweeps(512, 1024, "bf16", "cuda") == 2 * (8 + 8)


def test_a_result_that_is_off_in_one_row_is_seen_and_named() -> None:
    given = draw(6, 4, 3, torch.float32, "cpu", 0)
    exact = derivatives(reference.lstm, given.double())
    found = derivatives(reference.lstm, given)
    assert len(found) == len(NAMES)
    assert largest_error(found, exact, "fp32")[0] < 1
    found[NAMES.index("dw_hh")][2] += 0.1
    share, where = largest_error(found, exact, "bf16")
    assert share > 1 and where == "dw_hh"
    found[NAMES.index("second h0")][0, 0] = float("nan")
    assert largest_error(found, exact, "bf16") == (float("inf"), "second h0")


def test_the_definition_passes_its_own_test_in_half_precision() -> None:
    given = draw(32, 4, 6, torch.bfloat16, "cpu", 1)
    exact = derivatives(reference.lstm, given.double())
    assert largest_error(derivatives(reference.lstm, given), exact, "bf16")[0] < 1
