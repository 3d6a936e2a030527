"""`python -m lvtrain.cluster.train`: its help, its dry run, its answers to odd command lines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from lvtrain.cli import guarded
from lvtrain.cluster.connect import _cause
from lvtrain.cluster.train import PROGRAM, ClusterArguments, run
from lvtrain.commands.train import arguments
from lvtrain.systems import SYSTEMS
from tests.cluster.fault_runs import Run

ROOT = Path(__file__).parents[2]


def test_help_has_an_example_and_a_description_of_every_flag(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert run([]) == 0
    assert "example:\n  python -m lvtrain.cluster.train arae --data" in capsys.readouterr().out
    for system in SYSTEMS:
        with pytest.raises(SystemExit) as stop:
            run([system, "--help"])
        assert not stop.value.code
        page = capsys.readouterr().out
        assert f"example:\n  python -m lvtrain.cluster.train {system} --data store" in page
        lines = [line.strip("│| ") for line in page.splitlines()]
        for line, after in pairwise(lines):
            if re.match("--[a-z]", line):
                beside = re.split(r"  +", line)[1:]
                said = beside[0] if beside else after
                assert re.match(r"[^\W\d_]", said) and not said.startswith("(default"), line
        assert {"--workers", "--adversaries", "--zero", "--dry-run"} <= set(
            re.findall(r"--[a-z-]+", page)
        )


@pytest.mark.usefixtures("cluster")
def test_a_dry_run_says_what_is_needed_and_trains_nothing(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["arae", "--preset", "tiny", "--data", str(store), "--out", str(tmp_path / "run")]
    command += ["--batch-size", "64", "--workers", "2", "--dry-run"]
    assert run([*command, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["rows_a_worker"] == 32 and figures["rows_an_adversary"] == 64
    assert (figures["cpus_needed"], figures["cpus_there"], figures["fits"]) == (3.0, 8.0, True)
    assert run(command) == 0
    assert re.search(r"^cpus needed +3\.0$", capsys.readouterr().out, re.MULTILINE)
    assert run([*command, "--cpus", "20"]) == 2
    assert not (tmp_path / "run").exists()


def said(*words: str | Path, **environment: str) -> str:
    """The one line that the program answers with, within 30 s and with status 2."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    begun = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-m", "lvtrain.cluster.train", *map(str, words)],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - begun < 30
    assert answer.returncode == 2, answer
    assert not answer.stdout and answer.stderr.count("\n") == 1, answer
    return answer.stderr


def command(store: Path, out: Path) -> list[str | Path]:
    return ["arae", "--preset", "tiny", "--data", store, "--out", out]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "10.255.255.1:6379", "nowhere.invalid:6379"])
def test_a_cluster_that_is_not_there_is_one_line(address: str, store: Path, tmp_path: Path) -> None:
    answer = said(*command(store, tmp_path / "run"), "--address", address)
    assert f"--address {address}: no Ray cluster answers there" in answer
    assert not (tmp_path / "run").exists()


def test_an_address_that_is_none_is_one_line(store: Path, tmp_path: Path) -> None:
    words = command(store, tmp_path / "run")
    assert "expected auto, local, or the HOST:PORT" in said(*words, "--address", "there")
    url = "http://127.0.0.1:8265"
    assert f"RAY_ADDRESS={url}: expected auto, local, or" in said(*words, RAY_ADDRESS=url)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--worker", "2"], "unknown flag '--worker' (did you mean '--workers'?)"),
        (["--cpus", "900"], f"901 CPUs needed, {os.cpu_count()} there"),
        (["--checkpoints", "nowhere://x"], "--checkpoints nowhere://x"),
    ],
)
def test_what_can_be_known_without_ray_is_said_before_one_is_started(
    flags: list[str], expected: str, store: Path, tmp_path: Path
) -> None:
    words = command(store, tmp_path / "run")
    # Of several lines, one would say that Ray is started.
    assert expected in said(*words, *flags)
    assert not (tmp_path / "run").exists()


def test_a_relative_path_of_a_submitted_job_is_refused(store: Path, tmp_path: Path) -> None:
    job = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    answer = said(*command(store, Path("run")), **job)
    assert "--out run: expected an absolute path, on storage that every node has" in answer
    assert "--data store: expected an absolute" in said(*command(Path("store"), tmp_path), **job)


@pytest.mark.parametrize("missing", ["ray", "deepspeed"])
def test_a_package_that_is_not_installed_is_one_line(
    missing: str, store: Path, tmp_path: Path
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for found in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(found).iterdir():
            if path.name != missing and not path.name.endswith(".pth"):
                (packages / path.name).symlink_to(path)
    # Without `site`, its packages are those of the path alone.
    answer = subprocess.run(
        [sys.executable, "-S", "-m", "lvtrain.cluster.train", *command(store, tmp_path / "run")],
        env={"PYTHONPATH": f"{ROOT}:{packages}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2
    assert answer.stderr == (
        f"lvtrain: error: {missing} is not installed: pip install 'lvtrain[cluster]'\n"
    )


def test_two_versions_are_one_line() -> None:
    from ray._private.utils import check_version_info

    other = {"ray_version": "2.50.0", "python_version": "3.10.1"}
    with pytest.raises(RuntimeError, match="Version mismatch") as raised:
        check_version_info(other, "a node")
    assert re.fullmatch(
        r"the cluster has Ray 2\.50\.0 and Python 3\.10\.1, this environment Ray \S+ and Python "
        r"\S+: expected the same versions",
        _cause(raised.value),
    )


@pytest.mark.usefixtures("cluster")
def test_odd_command_lines_are_answered_in_one_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*flags: str, preset: str = "tiny") -> str:
        words = ["arae", "--preset", preset, "--data", str(store), "--out", str(tmp_path / "run")]
        assert guarded(lambda: run([*words, *flags])) == 2
        answer = capsys.readouterr().err
        assert answer.count("\n") == 1 and answer.startswith("lvtrain: error: ")
        return answer

    assert "unknown flag '--worker' (did you mean '--workers'?)" in refused("--worker", "2")
    assert "--workers: expected 1 or more, found 0" in refused("--workers", "0")
    assert "--zero: expected one of 0, 1, 2, found '3'" in refused("--zero", "3")
    assert "unknown preset 'huge'" in refused(preset="huge")
    assert "expected a multiple of --workers 7" in refused("--workers", "7")
    assert "900.5 CPUs needed, 8 there" in refused("--cpus", "900", "--adversary-cpus", "0.5")
    assert not (tmp_path / "run").exists()


def trained_by(text: str) -> list[list[str]]:
    """The arguments of each training command in a text."""
    joined = re.sub(r"\\\n", " ", text)
    found = re.findall(r"python -m lvtrain\.cluster\.train (arae (?:[^\n:]|\n +--)+)", joined)
    return [words.split() for words in found]


def test_the_training_commands_that_are_shown_are_commands() -> None:
    manifest = yaml.safe_load((ROOT / "cluster" / "kuberay.yaml").read_text())
    script = (ROOT / "cluster" / "slurm.sh").read_text()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    (submitted,) = re.findall(r"sbatch cluster/slurm\.sh (.+?)`", script)
    shown = [
        *trained_by((ROOT / "README.md").read_text()),
        *trained_by(manifest["spec"]["entrypoint"]),
        [*submitted.split(), "--address", "10.0.0.1:6379", "--resume", "auto"],
    ]
    assert len(shown) == 5
    for words in shown:
        parsed = arguments(words, ClusterArguments, PROGRAM, "")
        assert parsed is not None and parsed[0] == "arae"
    # Each worker has a pod of its own, of the size that the command asks for.
    _, given = arguments(shown[3], ClusterArguments, PROGRAM, "") or ("", None)
    assert given is not None
    (pods,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = pods["template"]["spec"]["containers"]
    there = container["resources"]["limits"]
    assert pods["replicas"] == given.cluster.workers + given.cluster.adversaries
    assert float(there["cpu"]) == given.cluster.cpus == given.cluster.adversary_cpus
    assert float(there["nvidia.com/gpu"]) == given.cluster.gpus == given.cluster.adversary_gpus


def test_a_driver_without_its_node_says_so_and_what_goes_on(store: Path, tmp_path: Path) -> None:
    # Workers in the midst of steps go on for seconds without the agent.
    run = Run(store, tmp_path / "run", more=("--steps", "100000"))
    try:
        run.until_step(2)
        (agent,) = (p for p in run.everyone() if p.name() == "raylet")
        agent.kill()
        run.process.wait(90)
        run.reader.join(5)
        assert run.process.returncode == 1
    finally:
        run.kill()
        assert run.process.stdout is not None
        run.process.stdout.close()
    assert run.last.startswith("lvtrain: error: the Ray node that the driver was on is gone (")
    assert re.search(r"the same command with --resume auto goes on from step \d+$", run.last)
    assert not run.faults
