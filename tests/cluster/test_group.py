"""The workers of a game: where they meet, and what is said of those that are lost."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.group import Groups, WorkerFault, hired
from lvtrain.config import RunConfig
from lvtrain.experiment import configure
from lvtrain.presets import preset

pytestmark = pytest.mark.usefixtures("cluster")

SMALL = ClusterConfig(cpus=0.5, adversary_cpus=0.5, timeout=10.0)


@pytest.fixture
def config(store: Path) -> RunConfig:
    return configure("arae", *preset("arae", "tiny"), store, "tiny")


@pytest.fixture
def groups(config: RunConfig) -> Iterator[Groups]:
    with hired(config, SMALL, adversary=True) as found:
        yield found


def test_the_port_that_a_group_meets_at_is_held_from_when_it_is_told(groups: Groups) -> None:
    address, port = groups.get([groups.members[0].actor.address.remote()], 60.0)[0]
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((address, port))
    groups.get([groups.members[0].actor.start.remote(address, port, None, 0)], 60.0)


def test_a_port_that_another_has_is_a_fault_and_no_bug(groups: Groups) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        start = groups.members[0].actor.start.remote
        with pytest.raises(WorkerFault, match=r"model rank 0 of 1 \(pid \d+ on .*in use"):
            groups.get([start("127.0.0.1", other.getsockname()[1], None, 0)], 60.0)


def test_a_worker_that_died_is_named_with_what_is_known_of_it(groups: Groups) -> None:
    first, second = (member.actor for member in groups.members)
    pid = groups.get([first.pid.remote(), second.pid.remote()], 60.0)[0]
    psutil.Process(pid).send_signal(signal.SIGKILL)
    said = rf"model rank 0 of 1: the process died \(killed, or crashed .*pid {pid} on .*the start"
    with pytest.raises(WorkerFault, match=said):
        groups.get([first.busy.remote(), second.busy.remote()])


def test_what_is_waited_for_while_workers_start_is_said(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    with hired(config, replace(SMALL, workers=2), adversary=True):
        assert capsys.readouterr() == ("", "starting 3 workers: model 2, adversary 1\n")


def test_workers_are_given_back_when_a_game_is_over(config: RunConfig) -> None:
    with hired(config, SMALL, adversary=True) as groups:
        # Each has said that it is there before one is frozen.
        groups.get((member.actor.phase.remote() for member in groups.members), 60.0)
        pids = groups.get((member.actor.pid.remote() for member in groups.members), 60.0)
        frozen = psutil.Process(pids[0])
        frozen.suspend()
        with pytest.raises(WorkerFault, match="model rank 0 of 1: frozen"):
            groups.get([groups.members[0].actor.pid.remote()])
    assert not psutil.wait_procs([p for p in map(process, pids) if p], timeout=20)[1]


def process(pid: int) -> psutil.Process | None:
    """A process that may be over."""
    return psutil.Process(pid) if psutil.pid_exists(pid) else None
