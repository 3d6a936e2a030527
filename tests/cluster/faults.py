"""Every fault a cluster has in store, played against real runs: `make test-faults`.

A run is `python -m lvtrain.cluster.train` in a process of its own with a Ray cluster of its own, or
on one that outlives it.
Whatever becomes of it, it must end by itself, in the weights of the run that nothing happened to,
bit for bit, after no longer pause than `--timeout`, the ping and a rebuild; and every worker lost
must leave one line that says who, when and of what. Ray names a process by what it is at
(`ray::AutoencoderWorker.decode`), which is how a phase is met that lasts milliseconds.

python -m tests.cluster.faults --out benchmarks/results/faults_2026-11-21.md
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil

from benchmarks.provenance import provenance
from lvtrain.grammar.grammar import Grammar
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences
from lvtrain.training import checkpoint
from lvtrain.training.parts import digest
from tests.cluster.fault_runs import (
    EVERY,
    FLAGS,
    PING,
    REBUILD,
    STEPS,
    TIMEOUT,
    Cluster,
    Run,
    Wrong,
    title,
)

# The phases a worker is killed in, beside the moments that are drawn.
PHASES = {
    "model": ["__init__", "start", "propose", "decode", "learn", "check_state", "save"],
    "adversary": ["__init__", "start", "criticise", "answer", "generate", "save"],
}


@dataclass
class Row:
    """A fault and what came of it."""

    fault: str
    moment: str
    said: str
    pause: float = 0.0
    """Seconds until a step was done again, or until the run was over."""
    verdict: str = "same bits"
    began: float = 0.0
    said_after: float = 0.0
    """Seconds until the line was there."""

    def cells(self) -> list[str]:
        seconds = [f"{s:.1f}" if s else "" for s in (self.said_after, self.pause)]
        # Of no interest elsewhere: this machine's folders, addresses and processes.
        said = re.sub(r"pid \d+ on [\w.:]+", "pid P on NODE", self.said.replace("|", "/"))
        said = said.replace(tempfile.gettempdir(), "TMP")
        return [self.fault, self.moment, said, *seconds, self.verdict]


@dataclass
class Suite:
    """The faults, each with what must come of it."""

    store: Path
    folder: Path
    chance: random.Random
    rows: list[Row] = field(default_factory=list)
    bits: dict[str, str] = field(default_factory=dict)
    made: list[Run] = field(default_factory=list)
    count: int = 0

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(" | ".join(row.cells()), flush=True)

    def play(self, name: str, fault: Callable[[], None]) -> None:
        """Play a fault, with the runs it makes; what goes wrong is a row too."""
        self.made = []
        try:
            fault()
        except Wrong as wrong:
            self.add(Row(name, "", str(wrong), 0.0, "WRONG"))
            said = [line for run in self.made for line in run.lines if line[:5] != "step "]
            print("\n".join(f"    {line}" for line in said[-60:]), flush=True)
        finally:
            for run in self.made:
                run.kill()

    def begin(self, out: Path | None = None, cluster: Cluster | None = None) -> Run:
        """Start a run, or go on with the one in a folder."""
        self.count += 1
        resume = out is not None and out.exists()
        run = Run(self.store, out or self.folder / f"run-{self.count}", resume, cluster)
        self.made.append(run)
        return run

    def compare(self, run: Run) -> None:
        """Raise Wrong unless the run ended in the bits of the undisturbed one."""
        if digests(run.out) != self.bits:
            raise Wrong("other bits than the undisturbed run's")

    def undisturbed(self) -> None:
        run = self.begin()
        seconds = run.end()
        self.bits = digests(run.out)
        self.add(Row("none", "", "", seconds))

    def workers_killed(self, moments: Sequence[tuple[str, str, float]]) -> None:
        """SIGKILL of a worker at each moment: a role, a phase or nothing, seconds to wait before.

        A phase of a step is waited for from some step on, one of the start and a moment without a
        phase from the fault before: so they fall into the start, the rebuild or the steps after.
        """
        run = self.begin()
        rows = []
        for number, (role, phase, delay) in enumerate(moments):
            early = phase in ("__init__", "start") or not phase
            if not early:
                run.until_step(int(STEPS * (number + 0.5) / (len(moments) + 1)) + 3)
            time.sleep(delay)
            worker = run.met(role, phase)
            at, before = title(worker), len(run.faults)
            step = run.step
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
            rows.append(self._lost(run, f"SIGKILL, {role}", f"{at}, step {step}", before, role))
        run.end()
        self._over(run, rows)

    def worker_frozen(self, role: str) -> None:
        """SIGSTOP of a worker in a step."""
        run = self.begin()
        run.until_step(self.chance.randrange(15, 60))
        worker = run.met(role, "")
        at, step = title(worker), run.step
        worker.suspend()
        row = self._lost(run, f"SIGSTOP, {role}", f"{at}, step {step}", 0, role)
        run.end()
        self._over(run, [row])

    def _lost(self, run: Run, fault: str, moment: str, before: int, role: str) -> Row:
        """What a run says of a worker that it has lost just now."""
        began = time.monotonic()
        run.until(lambda: len(run.faults) > before, TIMEOUT + 4 * PING, "line about the fault")
        said = run.faults[before]
        if noise := [line for line in run.lines if "Error" in line]:
            raise Wrong(f"more than a line is said of it: {noise[0]}")
        if not re.match(rf"{role} rank 0 of 1: (the process died|frozen).* step \d+$", said):
            raise Wrong(f"the line does not say who, what and when: {said}")
        return Row(fault, moment, said, began=began, said_after=time.monotonic() - began)

    def _over(self, run: Run, rows: list[Row]) -> None:
        """Hold a run that lost workers to the bits of the undisturbed one, and to its time."""
        if len(run.faults) != len(rows):
            raise Wrong(f"{len(rows)} faults, {len(run.faults)} lines: {run.faults}")
        self.compare(run)
        for row in rows:
            said = row.began + row.said_after
            row.pause = next((t for t in run.times if t > said), said) - row.began
            self.add(row)
            if row.pause > TIMEOUT + PING + REBUILD:
                raise Wrong(f"no step for {row.pause:.0f} s")

    def driver_stopped(self, step: int | None) -> None:
        """SIGTERM to the driver at a step, or before the first; then the same command again."""
        run = self.begin()
        if step is None:
            run.met("model", "start")
        else:
            run.until_step(step)
        moment = f"step {run.step}" if step is not None else "while workers start"
        run.everyone()
        run.process.send_signal(signal.SIGTERM)
        seconds = run.end(143 if step is None else 0)
        self._continued(self.begin(run.out), Row("SIGTERM, driver", moment, run.last, seconds))

    def driver_stopped_in_rebuild(self) -> None:
        """SIGTERM to the driver while it begins anew for a lost worker."""
        run = self.begin()
        run.until_step(25)
        run.met("model", "").kill()
        run.until(lambda: run.faults, 15.0, "line about the fault")
        time.sleep(self.chance.uniform(0.5, 4.0))
        run.process.send_signal(signal.SIGTERM)
        seconds = run.end(143)
        self._continued(
            self.begin(run.out), Row("SIGTERM, driver", "while it begins anew", run.last, seconds)
        )

    def driver_killed_on_a_cluster(self) -> None:
        """SIGKILL of the driver where its cluster stays."""
        cluster = Cluster()
        try:
            self.driver_killed("step", cluster)
        finally:
            cluster.close()

    def driver_killed(self, where: str, cluster: Cluster | None = None) -> None:
        """SIGKILL of the driver, then the same command at once: the folder must be free."""
        run = self.begin(cluster=cluster)
        if where == "start":
            run.met("model", "start")
        else:
            run.until_step(self.chance.randrange(24, 60))
        if where == "commit":
            run.until(run.writing, 30.0, "commit")
        workers = run.workers()
        moment = f"{where}, step {run.step}" + (", on a standing cluster" if cluster else "")
        run.process.kill()
        run.process.wait()
        again = self.begin(run.out, cluster)
        said = f"none of its {len(workers)} workers left after {run.gone(workers):.1f} s"
        if where == "commit" and not any((run.out / "checkpoints").glob(".writing-*")):
            moment += " (just done)"
        self._continued(again, Row("SIGKILL, driver", moment, said, 0.0))

    def shard_truncated(self) -> None:
        """A part of the newest checkpoint cut short after the run was stopped."""
        run = self.begin()
        run.until_step(37)
        run.process.send_signal(signal.SIGTERM)
        run.end()
        newest = checkpoint.steps(run.out / "checkpoints")[-1]
        part = run.out / "checkpoints" / f"step-{newest:08d}" / "critic.safetensors"
        os.truncate(part, part.stat().st_size // 2)
        again = self.begin(run.out)
        again.until_step(1)
        said = next((s for s in again.lines if "damaged" in s), "")
        if not said:
            raise Wrong("nothing said of the damage")
        self._continued(again, Row("truncated shard", f"step {newest}", said, 0.0))

    def disk_full(self) -> None:
        """A file system with room for two checkpoints and a half, which then gets more."""
        disk = self.folder / "disk"
        disk.mkdir()
        mounted = ["mount", "-t", "tmpfs", "-o", "size=28m", "tmpfs", str(disk)]
        if subprocess.run(mounted, capture_output=True, check=False).returncode:
            self.add(Row("full disk", "", "not played: no file system can be mounted", 0.0, "-"))
            return
        try:
            run = self.begin(disk / "run")
            run.until_step(EVERY)
            seconds = run.end(2)
            if "no space left on device" not in run.last:
                raise Wrong(run.last)
            row = Row("full disk", f"step {run.step}", run.last, seconds)
            subprocess.run(["mount", "-o", "remount,size=128m", str(disk)], check=True)
            self._continued(self.begin(run.out), row)
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)

    def port_taken(self) -> None:
        """Another process that wants every port a worker opens, as soon as it can be seen."""
        run = self.begin()
        worker = run.met("model", "start")
        wanted: dict[int, bool] = {}
        while "start" in title(worker):
            with contextlib.suppress(psutil.Error):
                for connection in worker.net_connections("tcp"):
                    if connection.status == "LISTEN" and connection.laddr.port not in wanted:
                        wanted[connection.laddr.port] = taken(connection.laddr)
            time.sleep(0.002)
        run.end()
        self.compare(run)
        said = f"{len(wanted)} ports wanted, {sum(wanted.values())} had"
        self.add(Row("port wanted by another", "while workers start", said, 0.0))
        if any(wanted.values()):
            raise Wrong(said)

    def _continued(self, again: Run, row: Row) -> None:
        """Hold a run that goes on with what a fault left to the bits of the undisturbed one."""
        again.end()
        self.compare(again)
        self.add(row)


def taken(address: tuple[str, int]) -> bool:
    """Whether a port could be had that another process listens on."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family) as other:
        try:
            other.bind((address[0], address[1]))
        except OSError:
            return False
    return True


def digests(out: Path) -> dict[str, str]:
    """The bits of a finished run: a digest of every part, optimisers' state and all."""
    found = checkpoint.latest(out / "checkpoints")
    if found is None or found.step != STEPS:
        raise Wrong(f"no checkpoint of step {STEPS}")
    return {part: digest(found.tensors(part)) for part in found.parts}


def moments(chance: random.Random, drawn: int) -> list[tuple[str, str, float]]:
    """Every phase of every role, and as many moments more that chance alone has chosen."""
    found = [(role, phase, chance.uniform(0, 0.02)) for role in PHASES for phase in PHASES[role]]
    found += [(chance.choice(list(PHASES)), "", chance.uniform(0, 7)) for _ in range(drawn)]
    chance.shuffle(found)
    return found


def write(path: Path, rows: Sequence[Row], seconds: float) -> None:
    """The table, with what it was measured on."""
    about = provenance("tests.cluster.faults") | {
        "ray": version("ray"),
        "deepspeed": version("deepspeed"),
        "a run": f"python -m lvtrain.cluster.train {FLAGS}",
        "minutes": round(seconds / 60, 1),
    }
    wrong = sum(row.verdict == "WRONG" for row in rows)
    text = ["# Faults played against real runs", ""]
    text += [f"- {name}: {value}" for name, value in about.items()]
    text += [
        "",
        f"{len(rows)} rows, {wrong} wrong. “Same bits”: every part of the last checkpoint,",
        "optimisers' state and all, is that of the undisturbed run. Seconds are from the fault to",
        "the line about it, and to the next step or the end of the run.",
        "",
        "| fault | moment | said | line, s | pause, s | weights |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(row.cells())} |" for row in rows),
    ]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")


def main() -> int:
    """Play all faults, or those whose names match a pattern; exits with 1 where one went wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="where to write the table")
    parser.add_argument("--only", default="", help="play only faults whose names match this")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(143))
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sentences = Grammar().sample(660, seed=0)
        prepare_sentences(
            sentences[:600], sentences[600:], config=PrepareConfig(), out=folder / "store"
        )
        suite = Suite(folder / "store", folder, random.Random(given.seed))
        kills = moments(suite.chance, 7)
        five = [kills[i : i + 5] for i in range(0, len(kills), 5)]
        faults: dict[str, Callable[[], None]] = {
            **{f"kill {n}": partial(suite.workers_killed, some) for n, some in enumerate(five)},
            "freeze model": partial(suite.worker_frozen, "model"),
            "freeze adversary": partial(suite.worker_frozen, "adversary"),
            "term in a step": partial(suite.driver_stopped, 43),
            "term at the start": partial(suite.driver_stopped, None),
            "term in a rebuild": suite.driver_stopped_in_rebuild,
            "driver in a step": partial(suite.driver_killed, "step"),
            "driver in a commit": partial(suite.driver_killed, "commit"),
            "driver at the start": partial(suite.driver_killed, "start"),
            "driver on a cluster": suite.driver_killed_on_a_cluster,
            "truncated": suite.shard_truncated,
            "disk": suite.disk_full,
            "port": suite.port_taken,
        }
        suite.play("none", suite.undisturbed)
        for fault, play in faults.items():
            if re.search(given.only, fault):
                suite.play(fault, play)
        if given.out:
            write(given.out, suite.rows, time.monotonic() - started)
    return int(any(row.verdict == "WRONG" for row in suite.rows))


if __name__ == "__main__":
    sys.exit(main())
