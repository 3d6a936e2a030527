"""Runs in processes of their own, on Ray clusters of their own or on one that outlives them: what
they say, what they are at, and whether anything of them is left."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

STEPS, EVERY = 200, 10
TIMEOUT, PING, REBUILD = 8.0, 5.0, 45.0
"""Seconds: what the runs are told, what `group.py` waits for an answer, what a start may take."""
SOON = 15.0
"""Seconds within which no process of a run that is over is left."""
FLAGS = (
    f"arae --preset tiny --steps {STEPS} --batch-size 24 --threads 1 --validate-every 0 "
    f"--checkpoint-every {EVERY} --log-every 1 --no-tensorboard --cpus 0.5 --adversary-cpus 0.5 "
    f"--timeout {TIMEOUT:g} --failures 5"
)
KINDS = {"model": "AutoencoderWorker", "adversary": "AdversaryWorker"}
# A cluster that stands until its input ends.
STANDING = """
import ray
there = ray.init(address="local", num_cpus=4, include_dashboard=False)
print("at", there.address_info["gcs_address"], flush=True)
input()
"""
OPEN = {"RAY_AUTH_MODE": "disabled"}


class Wrong(Exception):
    """What a fault did that it must not."""


@dataclass(eq=False)
class Run:
    """A run in a process of its own; what it says is read as it comes."""

    store: Path
    out: Path
    resume: bool = False
    cluster: Cluster | None = None
    more: tuple[str, ...] = ()
    """Flags besides `FLAGS`."""
    lines: list[str] = field(default_factory=list)
    step: int = 0
    times: list[float] = field(default_factory=list)
    """When it said each step."""

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "lvtrain.cluster.train", *FLAGS.split()]
        command += [*self.more, "--data", str(self.store), "--out", str(self.out)]
        command += ["--resume", "auto"] if self.resume else []
        command += ["--address", self.cluster.address if self.cluster else "local"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | (OPEN if self.cluster else {}),
        )
        self.seen: set[psutil.Process] = set()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if found := re.match(r"step (\d+)/", line):
                self.step = int(found[1])
                self.times.append(time.monotonic())

    @property
    def faults(self) -> list[str]:
        return [line for line in self.lines if "starting again" in line]

    def until(self, holds: Callable[[], object], limit: float, what: str) -> float:
        """Wait until something holds; gives the seconds. Raises Wrong where it comes to nothing."""
        started = time.monotonic()
        while not holds():
            if self.process.poll() is not None and not holds():
                raise Wrong(f"over with status {self.process.returncode} before {what}")
            if time.monotonic() - started > limit:
                raise Wrong(f"no {what} within {limit:g} s")
            time.sleep(0.002)
        return time.monotonic() - started

    def until_step(self, step: int) -> None:
        self.until(lambda: self.step >= step, 120.0, f"step {step}")

    def everyone(self) -> set[psutil.Process]:
        """All processes that the run has started; every one ever met is kept in `seen`."""
        with contextlib.suppress(psutil.Error):
            self.seen |= set(psutil.Process(self.process.pid).children(recursive=True))
        with contextlib.suppress(psutil.Error):
            if self.cluster:
                self.seen |= set(filter(is_worker, self.cluster.processes()))
        return self.seen

    def met(self, role: str, phase: str, limit: float = 60.0) -> psutil.Process:
        """A worker while it is at a phase; whatever it is at where `phase` is empty."""
        name = f"ray::{KINDS[role]}" + (f".{phase}" if phase else "")
        deadline, looked = time.monotonic() + limit, 0.0
        while time.monotonic() < deadline:
            if time.monotonic() - looked > 0.2:
                self.everyone()
                looked = time.monotonic()
            for worker in self.seen:
                if title(worker).startswith(name):
                    return worker
            if self.process.poll() is not None:
                break
            time.sleep(0.0005)
        raise Wrong(f"no {name} met")

    def writing(self) -> bool:
        return any((self.out / "checkpoints").glob(".writing-*"))

    def end(self, status: int = 0, limit: float = 120.0) -> float:
        """Wait for the run's end; gives the seconds until then, and none of it may be left."""
        started = time.monotonic()
        self.everyone()
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Wrong(f"hangs: not over within {limit:g} s") from None
        seconds = time.monotonic() - started
        self.reader.join(5.0)
        if self.process.returncode != status:
            raise Wrong(f"status {self.process.returncode}, expected {status}: {self.last}")
        self.gone(self.seen)
        return seconds

    def workers(self) -> set[psutil.Process]:
        """The run's workers that are there."""
        return set(filter(is_worker, self.everyone()))

    def gone(self, processes: set[psutil.Process]) -> float:
        """Wait until none of these processes of the run is left; gives the seconds."""
        started = time.monotonic()
        while left := [p for p in processes if p.is_running() and title(p)]:
            if time.monotonic() - started > SOON:
                names = ", ".join(sorted(title(p)[:40].strip() for p in left))
                raise Wrong(f"left behind: {names}")
            time.sleep(0.02)
        return time.monotonic() - started

    @property
    def last(self) -> str:
        """The last line that is not of a step."""
        return next((s for s in reversed(self.lines) if not s.startswith("step ")), "")

    def kill(self) -> None:
        """End whatever is left of the run."""
        for process in self.everyone():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.kill()


def title(process: psutil.Process) -> str:
    """What a process calls itself at this moment."""
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_text(errors="replace").strip("\0 ")
    except OSError:
        return ""


def is_worker(process: psutil.Process) -> bool:
    return title(process).startswith(tuple(f"ray::{kind}" for kind in KINDS.values()))


@dataclass(eq=False)
class Cluster:
    """A Ray cluster that outlives the runs on it."""

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", STANDING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | OPEN,
        )
        assert self.process.stdout is not None
        line = next((line for line in self.process.stdout if line.startswith("at ")), "")
        self.address = line.removeprefix("at ").strip()

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self) -> None:
        self.process.communicate()
