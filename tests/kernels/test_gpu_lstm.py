"""What only a GPU shows of the LSTM: its barrier, its persistent launches, bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.gpu.bench import DTYPES, precision
from benchmarks.gpu.stress import (
    NAMES,
    TOLERANCES,
    Inputs,
    count_differing,
    derivatives,
    draw,
    largest_error,
    persistent_sweeps,
    plans,
)
from benchmarks.gpu.timing import relative_error
from lvtrain.kernels import reference
from lvtrain.kernels.lstm import lstm
from lvtrain.kernels.lstm_plan import Chip

lstm_triton = pytest.importorskip("lvtrain.kernels.lstm_triton")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:.*TF32"),
]


def exact(inputs: Inputs) -> list[Tensor]:
    return derivatives(reference.lstm, inputs.double())


@pytest.mark.parametrize(
    ("hidden", "batch", "dtype"),
    [
        (32, 16, "bf16"),
        (300, 64, "bf16"),
        (512, 64, "bf16"),
        (512, 256, "bf16"),
        (512, 128, "tf32"),
        (1024, 16, "bf16"),
    ],
)
def test_the_barrier_holds(hidden, batch, dtype):
    # `python -m benchmarks.kernels` does it with every tile shape and many more sweeps.
    inputs = [draw(hidden, batch, 12, DTYPES[dtype], "cuda", seed) for seed in (0, 1)]
    with precision(dtype):
        for one in inputs:
            assert largest_error(derivatives(lstm, one), exact(one), dtype)[0] < 1
        a_set = persistent_sweeps(hidden, batch, dtype, "cuda")
        differing, done = count_differing(inputs, 2000, 2 * a_set)
    assert not differing and done >= 2000


@pytest.mark.parametrize("dtype", ["bf16", "tf32"])  # the others: test_lstm_triton.py
@pytest.mark.parametrize(("hidden", "batch", "time"), [(33, 18, 5), (300, 5, 6), (40, 1, 1)])
def test_precisions_that_the_interpreter_lacks_are_near_the_definition(hidden, batch, time, dtype):
    inputs = draw(hidden, batch, time, DTYPES[dtype], "cuda", 0)
    with precision(dtype):
        share, where = largest_error(derivatives(lstm, inputs), exact(inputs), dtype)
    assert share < 1, where


@pytest.mark.parametrize(
    ("hidden", "batch", "dtype"), [(64, 20, "bf16"), (64, 20, "fp32"), (300, 64, "bf16")]
)
def test_persistent_and_step_by_step_agree(hidden, batch, dtype, monkeypatch):
    assert all(cut.resident for cut in plans(hidden, batch, dtype, "cuda").values())
    inputs = draw(hidden, batch, 7, DTYPES[dtype], "cuda", 0)
    with precision(dtype):
        persistent = derivatives(lstm, inputs)
        # No multiprocessors to spare: nothing can wait.
        monkeypatch.setattr(lstm_triton, "chip_of", lambda tensor: Chip(0, 96 * 1024))
        stepwise = derivatives(lstm, inputs)
    for name, a, b in zip(NAMES, persistent, stepwise, strict=True):
        allowed = TOLERANCES[dtype][name.startswith("second")]
        assert relative_error(a, b) < allowed, name


@pytest.mark.parametrize(("hidden", "batch", "dtype"), [(300, 1024, "bf16"), (512, 600, "tf32")])
def test_a_batch_larger_than_a_launch_is_near_the_definition(hidden, batch, dtype):
    assert any(cut.rows < batch for cut in plans(hidden, batch, dtype, "cuda").values())
    inputs = draw(hidden, batch, 4, DTYPES[dtype], "cuda", 0)
    with precision(dtype):
        found = derivatives(lstm, inputs)
        assert largest_error(found, exact(inputs), dtype)[0] < 1
        again = derivatives(lstm, inputs)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def test_vectors_that_lie_time_first_give_the_same():
    inputs = draw(64, 9, 5, torch.bfloat16, "cuda", 0)
    x, *rest = inputs.arguments
    lying = x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    other = Inputs([lying, *rest], inputs.lengths, inputs.first, inputs.second)
    pairs = zip(NAMES, derivatives(lstm, inputs), derivatives(lstm, other), strict=True)
    for name, a, b in pairs:
        assert relative_error(b, a) < TOLERANCES["bf16"][name.startswith("second")], name


def test_a_length_out_of_range_gives_nan_in_its_row_alone():
    inputs = draw(64, 40, 5, torch.bfloat16, "cuda", 0)
    lengths = inputs.lengths.clone()
    lengths[17] = 6
    y, h, c = lstm(*inputs.arguments, lengths)
    bad = torch.zeros(40, dtype=torch.bool, device="cuda")
    bad[17] = True
    for out in (y.flatten(1), h, c):
        assert torch.equal(out.isnan().any(dim=1), bad)
