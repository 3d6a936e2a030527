"""A run with a Ray of its own is ended as one process is: when all of its group are told to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lvtrain.training.checkpoint import latest
from lvtrain.training.folder import CHECKPOINTS
from tests.cluster.fault_runs import FLAGS, SOON


@pytest.mark.parametrize(
    ("begun", "signum", "status", "said"),
    [
        ("starting Ray on this machine", signal.SIGTERM, 143, "lvtrain: error: terminated"),
        ("starting 2 workers", signal.SIGINT, 130, "lvtrain: error: interrupted"),
        ("step 1/", signal.SIGTERM, 0, "stopped at step "),
    ],
)
def test_a_signal_to_the_whole_group_ends_a_run_in_order(
    store: Path, tmp_path: Path, begun: str, signum: int, status: int, said: str
) -> None:
    out = tmp_path / "run"
    command = ["-m", "lvtrain.cluster.train", *FLAGS.split(), "--data", store, "--out", out]
    process = subprocess.Popen(
        [sys.executable, *map(str, command), "--address", "local", "--timeout", "120"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    started: list[psutil.Process] = []
    try:
        assert process.stderr is not None
        before: list[str] = []
        while not (before and before[-1].startswith(begun)):
            before.append(process.stderr.readline())
            assert before[-1], before
        # `timeout` and terminals do so, when Ray has been begun.
        while not started:
            started = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signum)
        rest = process.communicate(timeout=120)[1].splitlines()
        left = psutil.wait_procs(started, timeout=SOON)[1]
    finally:
        for one in started:
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.kill()
        process.communicate()
    assert process.returncode == status, rest
    assert not left
    (last,) = (line for line in rest if not line.startswith(("step ", "starting ")))
    assert last.startswith(said)
    checkpoint = latest(out / CHECKPOINTS) if out.exists() else None
    assert (checkpoint is not None) == (status == 0) == out.exists()
