"""A cluster and a job as the README has them, from a clean environment."""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lvtrain.model import Model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SMALL = "--cpus 0.5 --adversary-cpus 0.5 --batch-size 24 --log-every 10"


@dataclass(frozen=True)
class Head:
    """A cluster of one node whose Python has Ray and DeepSpeed, and not lvtrain."""

    environment: dict[str, str]
    address: str
    jobs: str
    metrics: int

    def run(
        self, *words: str, cwd: Path = ROOT, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=cwd,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


def free_ports(count: int) -> list[int]:
    """Ports below those that the kernel gives to any connection while a cluster starts."""
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 1_000):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        ports.append(port)
        if len(ports) == count:
            break
    return ports


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    # Ray's sockets lie below this, and their paths may have no more than 107 characters.
    folder = Path(os.path.realpath(tmp_path_factory.mktemp("h")))
    python = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python], check=True)
    site = next(python.glob("lib/python*/site-packages"))
    # Packages, but not what .pth files among them point at, such as this checkout.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    ray = Path(sysconfig.get_path("scripts")) / "ray"
    _, _, script = ray.read_text().partition("\n")
    (python / "bin" / "ray").write_text(f"#!{python}/bin/python\n{script}")
    (python / "bin" / "ray").chmod(0o755)
    home = folder / "home"
    (home / ".ray").mkdir(parents=True)
    environment = {
        "PATH": f"{python}/bin:/usr/bin:/bin",
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
    }
    subprocess.run(["ray", "get-auth-token", "--generate"], env=environment, check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    port, dashboard, agent, metrics = free_ports(4)
    temporary = Path("/tmp") / f"lv{os.getpid()}"
    node = subprocess.Popen(
        ["ray", "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}",
         f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}",
         "--num-cpus=4", "--disable-usage-stats",
         f"--temp-dir={temporary}", "--min-worker-port=0", "--max-worker-port=0"],
        env={**environment, "RAY_metrics_report_interval_ms": "1000"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        jobs = f"http://127.0.0.1:{dashboard}"
        found = Head(environment, f"127.0.0.1:{port}", jobs, metrics)
        give_up = time.monotonic() + 60
        # Jobs are listed before the agent that starts them is there.
        submit = f"ray job submit --no-wait --address {jobs} -- true".split()
        while (tried := found.run(*submit)).returncode:
            assert node.poll() is None and time.monotonic() < give_up, tried.stdout
            time.sleep(1)
        yield found
    finally:
        node.terminate()  # --block ends all that this head has started, and nothing else
        node.wait(30)
        shutil.rmtree(temporary, ignore_errors=True)


def shown(start: str) -> str:
    """The command of the README that begins with `start`, in one line."""
    code = "\n".join(re.findall(r"^    (.+)$", README.replace("\\\n", " "), re.MULTILINE))
    (found,) = [line for line in code.splitlines() if line.startswith(start)]
    return re.sub(r"\s+", " ", found)


def test_a_job_runs_as_the_readme_submits_it(head: Head, store: Path, tmp_path: Path) -> None:
    command = shown("ray job submit")
    assert "--working-dir . " in command
    for word, meant in (
        ("http://HEAD:8265", head.jobs),
        ("/shared/store", str(store)),
        ("/shared/runs/first", str(tmp_path / "run")),
    ):
        assert word in command
        command = command.replace(word, meant)
    words = f"{command} {SMALL} --steps 100000".split()
    lines, published = [], ""
    with subprocess.Popen(
        words, cwd=ROOT, env=head.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    ) as job:  # fmt: skip
        assert job.stdout is not None
        for line in job.stdout:
            lines.append(line)
            if re.match(r"step \d+/100000  words/s [\d,]+ .* adversary_idle ", line):
                with urllib.request.urlopen(f"http://127.0.0.1:{head.metrics}/metrics") as answer:
                    published = answer.read().decode()
                if "ray_lvtrain_words_per_second{" in published:
                    break
        assert "ray_lvtrain_reconstruction{" in published, "".join(lines)
        (name,) = re.findall(r"'(raysubmit_\w+)' submitted", "".join(lines))
        stopped = head.run("ray", "job", "stop", "--address", head.jobs, name)
        assert stopped.returncode == 0, stopped.stdout
        rest = job.stdout.read()
    assert "; --resume auto goes on from there" in rest and "Traceback" not in rest
    again = head.run(*words[:-1], str(10))
    assert "is at step" in again.stdout and "exit code 2" in again.stdout
    assert Model.load(tmp_path / "run", "latest").generate(1)


def test_a_relative_path_in_a_job_is_refused_in_a_line(head: Head, store: Path) -> None:
    job = head.run(
        *f"ray job submit --address {head.jobs} --working-dir . --".split(),
        *f"python -m lvtrain.cluster.train arae --data {store} --out runs/first".split(),
    )
    assert job.returncode == 1 and "exit code 2" in job.stdout
    assert "--out runs/first: expected an absolute path" in job.stdout


def driver(head: Head, store: Path, out: Path, cwd: Path = ROOT, **environment: str) -> str:
    """What a driver that joins the cluster says, in a line, within 30 s and with status 2."""
    begun = time.monotonic()
    answer = head.run(
        *f"python -m lvtrain.cluster.train arae --preset tiny --data {store} --out {out}".split(),
        "--address",
        head.address,
        cwd=cwd,
        **environment,
    )
    assert time.monotonic() - begun < 30
    assert answer.returncode == 2 and answer.stdout.count("\n") == 1, answer.stdout
    assert not out.exists()
    return answer.stdout


def test_a_token_that_is_missing_or_another_is_one_line(
    head: Head, store: Path, tmp_path: Path
) -> None:
    other = {"RAY_AUTH_TOKEN": "0" * 64}
    nobody = {"HOME": str(tmp_path)}
    for wrong in (other, nobody, {**nobody, "RAY_AUTH_MODE": "disabled"}):
        assert "the cluster wants a token" in driver(head, store, tmp_path / "run", **wrong)


def test_a_node_without_lvtrain_is_one_line(head: Head, store: Path, tmp_path: Path) -> None:
    answer = driver(head, store, tmp_path / "run", tmp_path, PYTHONPATH=str(ROOT))
    assert "its Python cannot import lvtrain: install it on every node, or" in answer
