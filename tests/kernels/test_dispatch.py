from __future__ import annotations

import pytest
import torch

from lvtrain.kernels import dispatch


@pytest.mark.parametrize("op", dispatch.OPERATIONS)
def test_every_operation_has_a_path_and_a_reason_on_a_cpu(op):
    path, reason = dispatch.choose(op, "cpu")
    assert path == "torch" and reason


@pytest.mark.parametrize("op", dispatch.OPERATIONS)
def test_a_gpu_runs_the_triton_kernels(op):
    path, reason = dispatch.choose(op, "cuda:1", torch.bfloat16)
    assert path == "triton" and reason


def test_float64_runs_in_torch_on_a_gpu():
    path, reason = dispatch.choose("lstm", "cuda", torch.float64)
    assert path == "torch" and "float64" in reason


def test_a_device_without_kernels_runs_in_torch():
    path, reason = dispatch.choose("lstm", "xpu")
    assert path == "torch" and "xpu" in reason


def test_the_environment_turns_the_kernels_off(monkeypatch):
    monkeypatch.setenv(dispatch.VARIABLE, "torch")
    assert dispatch.choose("lstm", "cuda") == ("torch", "LVTRAIN_KERNELS=torch")


def test_a_forced_path_holds_inside_and_ends_after():
    with dispatch.forced("triton"):
        assert dispatch.choose("lstm", "cpu").path == "triton"
    assert dispatch.choose("lstm", "cpu").path == "torch"


def test_the_table_lists_every_operation_on_the_cpu():
    listed = {row["op"] for row in dispatch.table() if row["device"] == "cpu"}
    assert listed == set(dispatch.OPERATIONS)


def test_an_unknown_operation_is_named():
    with pytest.raises(ValueError, match="op: expected one of lstm.*found 'gru'"):
        dispatch.choose("gru", "cpu")


def test_autocast_casts_floats_and_nothing_else():
    x, n = torch.ones(2), torch.ones(2, dtype=torch.int64)
    assert dispatch.autocast(x, n) == (x, n)
    with torch.autocast("cpu", torch.bfloat16):
        cast = dispatch.autocast(x, None, n)
    assert cast[0].dtype == torch.bfloat16 and cast[1] is None and cast[2].dtype == torch.int64
