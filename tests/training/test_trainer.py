"""The loop: resuming is exact, stopping is clean, a spoilt loss is caught before it spoils."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lvtrain
from lvtrain.cli import run as lvtrain_run
from lvtrain.config import OptimizerConfig
from lvtrain.errors import NonFiniteLoss
from lvtrain.presets import TINY, preset
from lvtrain.systems import SYSTEMS
from lvtrain.training import checkpoint, parts
from lvtrain.training.checkpoint import Checkpoint

SMALL = {"validate_every": 0, "tensorboard": False, "batch_size": 8, "threads": 1}


def train(system: str, store: Path, out: Path, steps: int, **fields: object) -> Checkpoint:
    lvtrain.train(
        system, store, out, preset="tiny", steps=steps, resume="auto", **{**SMALL, **fields}
    )
    found = checkpoint.latest(out / "checkpoints")
    assert found is not None
    return found


def digest(found: Checkpoint) -> str:
    tensors = {f"{p}.{n}": t for p in found.parts for n, t in found.tensors(p).items()}
    return parts.digest(tensors)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_resumed_run_ends_bitwise_where_an_undisturbed_one_does(
    store: Path, tmp_path: Path, system: str
) -> None:
    """Optimiser state included: the parameters alone could agree by luck of the last step."""
    fields = {"checkpoint_every": 3}
    whole = train(system, store, tmp_path / "whole", 6, **fields)
    train(system, store, tmp_path / "parts", 6, **fields)
    for path in (tmp_path / "parts" / "checkpoints").glob("step-00000006/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    resumed = train(system, store, tmp_path / "parts", 6, **fields)
    assert resumed.step == 6 and digest(resumed) == digest(whole)


@pytest.mark.parametrize(
    ("system", "steps", "most", "flags"),
    [
        ("arae", 120, 10, ()),
        ("seq2seq-gan", 40, 4,
         ("--likelihood", "10", "--discriminator.accuracy", "0", "--policy.rollouts", "2")),
    ],
    ids=["arae", "seq2seq-gan"],
)  # fmt: skip
def test_kill_9_at_random_moments_then_resume_ends_bitwise_equal(
    system: str, steps: int, most: int, flags: tuple[str, ...], store: Path, tmp_path: Path
) -> None:
    def command(out: Path) -> list[str]:
        return [
            sys.executable, "-m", "lvtrain", "train", system, "--preset", "tiny",
            "--data", str(store), "--out", str(out), "--steps", str(steps), "--batch-size", "8",
            "--checkpoint-every", "2", "--validate-every", "0", "--no-tensorboard",
            "--threads", "1", "--resume", "auto", *flags,
        ]  # fmt: skip

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path / "whole"), check=True, env=environment, capture_output=True)
    moments, kills = random.Random(0), 0
    while True:
        process = subprocess.Popen(
            command(tmp_path / "killed"),
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        if kills < most:
            # Wait until it trains, so that the kill falls into steps and commits, not imports.
            before = checkpoint_name(tmp_path / "killed")
            while process.poll() is None and checkpoint_name(tmp_path / "killed") == before:
                time.sleep(0.005)
            time.sleep(moments.uniform(0, 0.2))
        if kills == most or process.poll() is not None:
            assert process.wait() == 0
            break
        process.kill()
        process.wait()
        kills += 1
    assert kills >= most // 2
    whole, killed = (checkpoint.latest(tmp_path / n / "checkpoints") for n in ("whole", "killed"))
    assert whole is not None and killed is not None and killed.step == steps
    assert digest(killed) == digest(whole)


def checkpoint_name(out: Path) -> str | None:
    latest = out / "checkpoints" / "LATEST"
    return latest.read_text() if latest.is_file() else None


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_commits_and_exits_0(store: Path, tmp_path: Path, signum: int) -> None:
    command = [
        sys.executable, "-m", "lvtrain", "train", "lm", "--preset", "tiny", "--data", str(store),
        "--out", str(tmp_path / "run"), "--steps", "1000000", "--log-every", "1", "--threads", "1",
        "--validate-every", "0", "--checkpoint-every", "1000000", "--no-tensorboard",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "step 3/" not in (line := process.stderr.readline()):
        assert line, "the run ended early"
    process.send_signal(signum)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 0
    found = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert found is not None and f"stopped at step {found.step}" in said


def test_a_nonfinite_loss_stops_before_the_update_and_says_where(
    store: Path, tmp_path: Path
) -> None:
    hot = replace(TINY.autoencoder.optimizer, kind="sgd", lr=1e30, clip=0.0)
    model = replace(TINY, autoencoder=replace(TINY.autoencoder, optimizer=hot))
    with pytest.raises(NonFiniteLoss, match=r"model: .* at step \d+"):
        train("arae", store, tmp_path / "run", 50, model=model)
    report = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert report["player"] == "model" and len(report["batches"][0]["rows"]) == 8


# Float32 has no room for what these make of the logits or scores: NaN, +∞ or −∞.
ABSURD = [
    "arae --optimizer.lr 1e37",
    "arae --optimizer.lr 1e37 --optimizer.clip 0 --optimizer.kind sgd",
    "arae --critic.optimizer.lr 1e37",
    "arae --generator.optimizer.lr 1e37 --schedule alternating",
    "ae --optimizer.lr 1e37",
    "vae --optimizer.lr 1e37",
    "lm --optimizer.lr 1e37",
]


@pytest.mark.parametrize("flags", ABSURD)
def test_an_absurd_learning_rate_is_told_in_one_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str
) -> None:
    out = tmp_path / "run"
    command = (
        f"train {flags} --preset tiny --data {store} --out {out} --steps 50 --batch-size 8 "
        "--validate-every 0 --log-every 1000 --threads 1 --no-tensorboard"
    )
    assert lvtrain_run(command.split()) == 1
    report = json.loads((out / "nonfinite.json").read_text())
    assert report["value"] in ("nan", "inf", "-inf") and not math.isfinite(float(report["value"]))
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == (
        f"lvtrain: error: {report['player']}: {report['quantity']} is {report['value']} at step "
        f"{report['step']}: stopped before the update; its batches are in {out}/nonfinite.json"
    )
    assert len(report["batches"][0]["rows"]) == 8
    assert checkpoint.latest(out / "checkpoints") is None, "nothing spoilt is committed"


def test_weights_that_an_update_spoilt_are_not_committed(store: Path, tmp_path: Path) -> None:
    """The last update of a run has no loss after it that would show."""
    model = replace(preset("lm", "tiny")[0], optimizer=OptimizerConfig(lr=1e38))
    with pytest.raises(NonFiniteLoss, match=r"model: module\..* is -?(inf|nan) after step 1: not"):
        train("lm", store, tmp_path / "run", 1, model=model, validate_every=1)
    assert checkpoint.latest(tmp_path / "run" / "checkpoints") is None
    report = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert report["step"] == 1 and report["batches"][0]["index"] == 0
    assert len(report["batches"][0]["rows"]) == 8


def test_the_best_validated_checkpoint_is_kept(store: Path, tmp_path: Path) -> None:
    found = train("lm", store, tmp_path / "run", 12, validate_every=2, checkpoint_every=1)
    best = found.meta["best"]["step"]
    assert best in checkpoint.steps(tmp_path / "run" / "checkpoints")
    assert lvtrain.load(tmp_path / "run").step == best
    assert lvtrain.load(tmp_path / "run", which="latest").step == 12


def test_a_run_can_be_made_longer(store: Path, tmp_path: Path) -> None:
    train("lm", store, tmp_path / "run", 2)
    assert train("lm", store, tmp_path / "run", 4).step == 4


def test_metrics_hold_one_line_a_step_after_a_resume(store: Path, tmp_path: Path) -> None:
    fields = {"log_every": 1, "checkpoint_every": 2}
    train("lm", store, tmp_path / "run", 4, **fields)
    train("lm", store, tmp_path / "run", 6, **fields)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_training_does_not_disturb_torchs_generator(store: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train("arae", store, tmp_path / "run", 1)
    assert torch.equal(torch.get_rng_state(), before)
