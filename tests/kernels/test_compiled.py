from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lvtrain.kernels import compiled
from lvtrain.kernels.compiled import Resources

KEY = ("op/kernel", "sm_90")
ROWS = {KEY: Resources(registers=40, shared_bytes=1024, stack_bytes=0, spills=0)}


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "compiled.json"
    compiled.write(ROWS, "3.7.1", path)
    return path


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "lvtrain.kernels.compiled", *arguments]
    return subprocess.run(
        command, env=kept | environment, capture_output=True, text=True, check=False
    )


def test_every_kernel_compiles_for_every_target_as_recorded():
    done = run("--check")
    assert done.returncode == 0, done.stderr
    assert all(target in done.stdout for target in compiled.TARGETS)


def test_a_kernel_of_the_interpreter_is_refused_by_name():
    done = run("--only", "linear_cross_entropy", TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert done.stderr.startswith("linear_cross_entropy/")
    assert done.stderr.endswith("(TRITON_INTERPRET must not be set)\n")


def test_the_record_reads_back_as_written(record):
    assert compiled.read(record) == (ROWS, "3.7.1")
    assert compiled.check(ROWS, "3.7.1", record) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"registers": 41}, "op/kernel on sm_90: 41 registers, recorded 40"),
        ({"shared_bytes": 1040}, "op/kernel on sm_90: 1040 shared_bytes, recorded 1024"),
        ({"stack_bytes": 8}, "op/kernel on sm_90: 8 bytes of stack, 0 spills"),
        ({"spills": 2}, "op/kernel on sm_90: 0 bytes of stack, 2 spills"),
    ],
)
def test_a_kernel_that_needs_more_is_named(record, changed, said):
    assert compiled.check({KEY: ROWS[KEY]._replace(**changed)}, "3.7.1", record) == [said]


def test_a_kernel_that_needs_less_passes(record):
    assert compiled.check({KEY: ROWS[KEY]._replace(registers=39)}, "3.7.1", record) == []


def test_another_triton_is_held_to_the_limits_alone(record):
    assert compiled.check({KEY: ROWS[KEY]._replace(registers=50)}, "3.8.0", record) == []
    over = {KEY: ROWS[KEY]._replace(shared_bytes=228 * 1024)}
    assert "the chip has 232448" in compiled.check(over, "3.8.0", record)[0]


@pytest.mark.parametrize("version", ["3.7.1", "3.8.0"])
def test_a_kernel_lacking_or_not_recorded_is_named(record, version):
    assert compiled.check({}, version, record) == ["op/kernel on sm_90: no longer compiled"]
    more = ROWS | {("op/other", "sm_90"): ROWS[KEY]}
    assert compiled.check(more, version, record) == ["op/other on sm_90: not recorded"]
