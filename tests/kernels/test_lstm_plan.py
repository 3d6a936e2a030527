from __future__ import annotations

import pytest
import torch

from lvtrain.kernels.lstm_plan import RESERVED_SMS, Chip, plan

H200 = Chip(sms=132, shared=227 * 1024)
INTERPRETER = Chip(sms=0, shared=64 * 1024)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("batch", [1, 16, 64, 200, 1024])
@pytest.mark.parametrize("hidden", [32, 128, 300, 512, 1024])
def test_a_persistent_launch_fits_the_chip_and_covers_the_product(hidden, batch, dtype, direction):
    cut = plan(direction, hidden, batch, dtype, H200)
    depth = hidden if direction == "forward" else 4 * hidden
    assert cut.BK * cut.tiles >= depth > cut.BK * (cut.tiles - 1)
    if cut.resident:
        programs = -(-hidden // cut.BH) * -(-cut.rows // cut.BB)
        assert programs <= H200.sms - RESERVED_SMS
        slice_of_weights = cut.tiles * cut.BK * 4 * cut.BH * dtype.itemsize
        if direction == "backward":
            slice_of_weights //= 4
        assert slice_of_weights < H200.shared


@pytest.mark.parametrize("hidden", [128, 300, 512])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_sizes_of_sentences_stay_on_an_h200_in_half_precision(direction, hidden):
    cut = plan(direction, hidden, 64, torch.bfloat16, H200)
    assert cut.resident and cut.rows == 64


def test_a_batch_larger_than_the_chip_runs_in_parts():
    cut = plan("forward", 512, 4096, torch.bfloat16, H200)
    assert cut.resident and cut.rows < 4096


def test_without_a_chip_that_can_wait_the_sweep_goes_step_by_step():
    assert not plan("forward", 64, 8, torch.float32, INTERPRETER).resident
