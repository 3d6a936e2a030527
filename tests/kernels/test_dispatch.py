from __future__ import annotations

import pytest

from lvtrain.kernels import dispatch


@pytest.mark.parametrize("op", dispatch.OPERATIONS)
def test_every_operation_has_a_path_and_a_reason_on_a_cpu(op):
    path, reason = dispatch.choose(op, "cpu")
    assert path == "torch" and reason


def test_a_device_without_kernels_runs_in_torch():
    path, reason = dispatch.choose("lstm", "cuda:1")
    assert path == "torch" and "cuda" in reason


def test_the_table_lists_every_operation_on_the_cpu():
    listed = {row["op"] for row in dispatch.table() if row["device"] == "cpu"}
    assert listed == set(dispatch.OPERATIONS)


def test_an_unknown_operation_is_named():
    with pytest.raises(ValueError, match="op: expected one of lstm.*found 'gru'"):
        dispatch.choose("gru", "cpu")
