"""Whole runs by workers on a Ray cluster: the same weights as one process, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lvtrain import experiment
from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.controller import carry_out
from lvtrain.config import RunConfig
from lvtrain.errors import NonFiniteLoss, UserError
from lvtrain.experiment import configure, starting_from
from lvtrain.model import Model
from lvtrain.presets import preset
from lvtrain.systems.seq2seq_play import PlayConfig
from lvtrain.training.checkpoint import Checkpoint, latest, name_of
from lvtrain.training.log import read_metrics
from tests.systems.test_seq2seq_gan import SMALL as SMALL_TRANSLATORS
from tests.training.smooth import smooth

pytestmark = pytest.mark.usefixtures("cluster")

# Every phase in a few steps: likelihood, the discriminator alone, both.
SMALL_GAN = replace(
    SMALL_TRANSLATORS,
    play=PlayConfig(likelihood=2),
    fresh=1,
    discriminator=replace(SMALL_TRANSLATORS.discriminator, accuracy=0.1),
    critic=replace(SMALL_TRANSLATORS.critic, pretraining=2),
)
SMALL = ClusterConfig(cpus=0.5, adversary_cpus=0.5, timeout=60.0)


def configured(store: Path, system: str = "arae", model: Any = None, **train: Any) -> RunConfig:
    settings = {
        "steps": 6,
        "batch_size": 24,
        "threads": 1,
        "validate_every": 0,
        "checkpoint_every": 100,
        "log_every": 2,
        "tensorboard": False,
    }
    own, defaults = preset(system, "tiny")
    return configure(system, model or own, replace(defaults, **settings | train), store, "tiny")


def newest(run: Path) -> Checkpoint:
    found = latest(run / "checkpoints")
    assert found is not None
    return found


def assert_same_bits(run: Path, other: Path) -> None:
    ours, theirs = newest(run), newest(other)
    assert ours.step == theirs.step and ours.parts == theirs.parts
    for part in ours.parts:
        a, b = ours.tensors(part), theirs.tensors(part)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), part


def assert_near(
    run: Path, other: Path, tolerance: float, parts: Collection[str] | None = None
) -> None:
    for part in parts or newest(run).parts:
        a, b = (
            torch.cat([t.double().flatten() for n, t in found.items() if n.startswith("module.")])
            for found in (newest(run).tensors(part), newest(other).tensors(part))
        )
        assert (a - b).norm() <= tolerance * b.norm(), (part, float((a - b).norm() / b.norm()))


@pytest.mark.parametrize(
    "changes",
    [{}, {"schedule": "alternating"}, {"lag": 1}],
    ids=["overlapped", "alternating", "late"],
)
def test_one_worker_each_ends_in_the_very_weights_of_one_process(
    changes: dict[str, Any], store: Path, tmp_path: Path
) -> None:
    model = replace(preset("arae", "tiny")[0], **changes)
    config = configured(store, model=model)
    experiment.carry_out(config, tmp_path / "one")
    carry_out(config, SMALL, tmp_path / "many")
    assert_same_bits(tmp_path / "many", tmp_path / "one")


@pytest.mark.parametrize(
    ("workers", "adversaries", "zero", "parts"), [(2, 1, 0, 3), (2, 2, 1, 1), (1, 2, 2, 2)]
)
def test_any_number_of_workers_computes_what_one_process_does(
    workers: int, adversaries: int, zero: int, parts: int, store: Path, tmp_path: Path
) -> None:
    config = configured(store, model=smooth())
    cluster = replace(SMALL, workers=workers, adversaries=adversaries, zero=zero)
    experiment.carry_out(config, tmp_path / "one")
    many = replace(config, train=replace(config.train, accumulate=parts))
    carry_out(many, cluster, tmp_path / "many")
    assert_near(tmp_path / "many", tmp_path / "one", 1e-6)


@pytest.mark.parametrize(("workers", "adversaries"), [(1, 1), (1, 2)])
def test_tensors_that_go_straight_from_worker_to_worker_are_the_same(
    workers: int, adversaries: int, store: Path, tmp_path: Path
) -> None:
    pytest.importorskip("nixl")
    config = configured(store, model=smooth())
    cluster = replace(SMALL, workers=workers, adversaries=adversaries)
    carry_out(config, cluster, tmp_path / "store")
    carry_out(config, replace(cluster, transport="nixl"), tmp_path / "straight")
    assert_same_bits(tmp_path / "straight", tmp_path / "store")


@pytest.mark.parametrize("adversary", ["brcsgan", "wu", "wgan"])
def test_translators_and_adversaries_play_on_workers_as_in_one_process(
    adversary: str, store: Path, tmp_path: Path
) -> None:
    model = replace(SMALL_GAN, adversary=adversary, lag=1 if adversary == "wu" else 0)
    steps = 20 if adversary == "brcsgan" else 6
    config = configured(store, "seq2seq-gan", model, steps=steps)
    experiment.carry_out(config, tmp_path / "one")
    carry_out(config, SMALL, tmp_path / "many")
    assert_same_bits(tmp_path / "many", tmp_path / "one")


def test_translations_are_shared_out_among_any_number_of_workers(
    store: Path, tmp_path: Path
) -> None:
    config = configured(store, "seq2seq-gan", SMALL_GAN, steps=8)
    experiment.carry_out(config, tmp_path / "one")
    carry_out(config, replace(SMALL, workers=2, adversaries=3), tmp_path / "many")
    assert_near(tmp_path / "many", tmp_path / "one", 1e-4)


@pytest.mark.parametrize("zero", [0, 1])
def test_a_run_begins_on_workers_where_the_run_it_starts_from_ended(
    zero: int, store: Path, tmp_path: Path
) -> None:
    start = configured(store, "seq2seq", SMALL_TRANSLATORS.translator, steps=4)
    experiment.carry_out(start, tmp_path / "start")
    model, workers = (
        starting_from(SMALL_GAN, tmp_path / "start"),
        replace(SMALL, workers=2, zero=zero),
    )
    config = configured(store, "seq2seq-gan", model, steps=4, validate_every=2, keep=9)
    one, many, again = tmp_path / "one", tmp_path / "many", tmp_path / "again"
    experiment.carry_out(config, one)
    carry_out(config, workers, many)
    # ZeRO's sums round otherwise, which Adam makes more of in a discriminator with rectifiers.
    assert_near(many, one, 1e-4, parts=["model"])
    judged, theirs = (
        [(line["step"], line["missing_bleu"]) for line in read_metrics(folder)
         if line["kind"] == "validation"]
        for folder in (many, one)
    )  # fmt: skip
    assert judged[0] == theirs[0] and [step for step, _ in judged] == [0, 2, 4]
    # A run that was killed after the checkpoint of its start goes on from there.
    shutil.copytree(many, again)
    for path in (again / "checkpoints").iterdir():
        if path.is_dir() and path.name != name_of(0):
            shutil.rmtree(path)
    (again / "checkpoints" / "LATEST").write_text(f"{name_of(0)}\n")
    carry_out(config, workers, again, "auto")
    assert_same_bits(again, many)


def test_samples_are_the_same_whoever_draws_them(store: Path, tmp_path: Path) -> None:
    config = configured(store, "seq2seq-gan", SMALL_GAN, steps=8)
    experiment.carry_out(config, tmp_path / "one")
    many = replace(config, train=replace(config.train, accumulate=2))
    carry_out(many, replace(SMALL, samplers=2, sampler_cpus=0.5), tmp_path / "many")
    assert_near(tmp_path / "many", tmp_path / "one", 1e-4)


FIRST = {"lm": "perplexity", "vae": "negative_elbo", "seq2seq": "nll"}
"""A figure of validation that is a likelihood, or follows from one."""


@pytest.mark.parametrize("system", FIRST)
def test_a_system_without_an_adversary_has_workers_of_one_kind(
    system: str, store: Path, tmp_path: Path
) -> None:
    config = configured(store, system, steps=3, validate_every=3)
    experiment.carry_out(config, tmp_path / "one")
    carry_out(config, replace(SMALL, workers=2), tmp_path / "many")
    found, expected = (json.loads((tmp_path / run / "metrics.jsonl").read_text().splitlines()[-1])
                       for run in ("many", "one"))  # fmt: skip
    assert found["kind"] == "validation"
    assert found[FIRST[system]] == pytest.approx(expected[FIRST[system]], rel=1e-4)


def test_a_run_moves_between_a_cluster_and_one_process(store: Path, tmp_path: Path) -> None:
    config = configured(store, validate_every=6, checkpoint_every=3)
    experiment.carry_out(config, tmp_path / "one")
    half = replace(config, train=replace(config.train, steps=3))
    carry_out(half, SMALL, tmp_path / "run")
    experiment.carry_out(config, tmp_path / "run", "auto")
    # Its rates fall towards another end, so it is held to a run of the same past.
    experiment.carry_out(half, tmp_path / "same")
    carry_out(config, replace(SMALL, workers=2, zero=1), tmp_path / "same", "auto")
    assert_near(tmp_path / "same", tmp_path / "run", 1e-3)
    assert Model.load(tmp_path / "same").generate(2)


def workers(kind: str) -> list[psutil.Process]:
    """The processes of workers of a kind, on this machine."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if f"ray::{kind}" in " ".join(process.cmdline()):
                found.append(process)
    return found


def steps_done(run: Path) -> int:
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines), default=0)
    except (FileNotFoundError, ValueError):
        return 0


def disturb(run: Path, faults: list[tuple[int, Callable[[], None]]]) -> threading.Thread:
    """Do each fault once the run has come to its step."""

    def wait() -> None:
        for step, fault in faults:
            while steps_done(run) < step:
                time.sleep(0.01)
            fault()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def send(kind: str, number: int) -> Callable[[], None]:
    return lambda: workers(kind)[0].send_signal(number)


def test_a_run_that_loses_workers_ends_in_the_weights_of_one_that_did_not(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(store, steps=60, checkpoint_every=10, log_every=1)
    carry_out(config, SMALL, tmp_path / "quiet")
    run = tmp_path / "disturbed"
    thread = disturb(
        run,
        [
            (13, send("AutoencoderWorker", signal.SIGKILL)),
            (27, send("AdversaryWorker", signal.SIGKILL)),
            (43, send("AdversaryWorker", signal.SIGSTOP)),
        ],
    )
    carry_out(config, replace(SMALL, timeout=8.0), run)
    thread.join(1)
    assert not thread.is_alive()
    assert_same_bits(run, tmp_path / "quiet")
    said = [line for line in capsys.readouterr().out.splitlines() if "starting again" in line]
    assert len(said) == 3
    assert said[0].startswith("model rank 0 of 1: the process died (killed")
    assert said[1].startswith("adversary rank 0 of 1: the process died (killed")
    # The model's worker waits for the frozen one and is not blamed.
    assert said[2].startswith("adversary rank 0 of 1: frozen")
    for line, step in zip(said, (10, 20, 40), strict=True):
        assert "the others were at step" in line and line.endswith(f"again from step {step}")
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_a_sampler_is_a_worker_whose_loss_costs_no_more(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(store, "seq2seq-gan", SMALL_GAN, steps=10, checkpoint_every=2, log_every=1)
    experiment.carry_out(config, tmp_path / "one")
    thread = disturb(tmp_path / "many", [(5, send("SamplerWorker", signal.SIGKILL))])
    carry_out(config, replace(SMALL, samplers=1, sampler_cpus=0.5), tmp_path / "many")
    thread.join(1)
    assert "sampler rank 0 of 1: the process died (killed" in capsys.readouterr().out
    assert_same_bits(tmp_path / "many", tmp_path / "one")


def test_a_run_that_gets_nowhere_is_given_up(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = configured(store, steps=100_000, log_every=1, checkpoint_every=100_000)
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            for process in workers("AutoencoderWorker"):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        with pytest.raises(UserError, match="given up after 2 faults without a new checkpoint"):
            carry_out(config, replace(SMALL, failures=1, timeout=15.0), run)
    finally:
        over.set()
        thread.join()


def test_a_loss_that_is_not_finite_ends_the_run_with_a_report(store: Path, tmp_path: Path) -> None:
    model, _ = preset("arae", "tiny")
    optimizer = replace(model.autoencoder.optimizer, kind="sgd", lr=1e30, clip=0.0, decay=0.0)
    model = replace(model, autoencoder=replace(model.autoencoder, optimizer=optimizer))
    with pytest.raises(NonFiniteLoss, match="model: .* at step"):
        carry_out(configured(store, model=model), replace(SMALL, workers=2), tmp_path / "run")
    report = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert report["player"] == "model" and len(report["batches"][0]["rows"]) == 24


def test_sigterm_commits_and_ends_the_run(store: Path, tmp_path: Path) -> None:
    config = configured(store, steps=100_000, log_every=1)
    run = tmp_path / "run"
    thread = disturb(run, [(3, lambda: os.kill(os.getpid(), signal.SIGTERM))])
    outcome = carry_out(config, SMALL, run)
    thread.join()
    assert outcome.stopped and newest(run).step == outcome.step >= 3


@pytest.mark.parametrize(
    ("changes", "train", "said"),
    [
        ({"workers": 5}, {}, "--batch-size 24: expected a multiple of --workers 5"),
        ({"adversaries": 7}, {}, "--batch-size 24: expected a multiple of --adversaries 7"),
        ({"cpus": 100.0}, {}, "100.5 CPUs needed, 8 there"),
        ({"gpus": 1.0}, {}, "1 GPUs needed, 0 there"),
    ],
)
def test_workers_that_cannot_be_had_are_refused_in_a_line(
    changes: dict[str, Any], train: dict[str, Any], said: str, store: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        carry_out(configured(store, **train), replace(SMALL, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_samplers_without_work_are_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--samplers 2: expected 0: only seq2seq-gan"):
        carry_out(configured(store), replace(SMALL, samplers=2), tmp_path / "run")
    config = configured(store, "seq2seq-gan", SMALL_GAN)
    with pytest.raises(UserError, match="--samplers 3: expected a multiple of --workers 2"):
        carry_out(config, replace(SMALL, workers=2, samplers=3), tmp_path / "run")


def test_settings_that_a_group_cannot_keep_are_refused(store: Path, tmp_path: Path) -> None:
    model, _ = preset("arae", "tiny")
    with pytest.raises(UserError, match="--zero 1: expected 0 with the alternating schedule"):
        config = configured(store, model=replace(model, schedule="alternating"))
        carry_out(config, replace(SMALL, zero=1), tmp_path / "run")
    with pytest.raises(UserError, match="--critic.norm batch: couples the rows"):
        config = configured(store, model=replace(model, critic=replace(model.critic, norm="batch")))
        carry_out(config, replace(SMALL, adversaries=2), tmp_path / "run")


def test_a_run_whose_checkpoints_are_elsewhere_goes_on_without_its_folder(
    store: Path, tmp_path: Path
) -> None:
    config = configured(store, steps=8, checkpoint_every=4)
    elsewhere = replace(SMALL, checkpoints=f"file://{tmp_path}/kept/run")
    carry_out(config, SMALL, tmp_path / "quiet")
    carry_out(config, elsewhere, tmp_path / "first")
    assert_same_bits(tmp_path / "first", tmp_path / "quiet")
    # The last checkpoint is lost, and the node with the run folder too.
    (tmp_path / "kept" / "run" / "step-00000008" / "manifest.json").unlink()
    with pytest.raises(UserError, match="expected no checkpoints yet, found one of step 4"):
        carry_out(config, elsewhere, tmp_path / "second")
    carry_out(config, elsewhere, tmp_path / "second", "auto")
    assert_same_bits(tmp_path / "second", tmp_path / "quiet")
    with pytest.raises(UserError, match="of another configuration: train.seed"):
        carry_out(configured(store, steps=8, seed=1), elsewhere, tmp_path / "third", "auto")
