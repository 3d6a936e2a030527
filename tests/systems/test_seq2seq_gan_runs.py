"""Whole runs of a translator against an adversary."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

import lvtrain
from lvtrain import experiment
from lvtrain.cli import run
from lvtrain.errors import UserError
from lvtrain.experiment import starting_from
from lvtrain.model import Model
from lvtrain.systems.seq2seq import translator_of
from lvtrain.systems.seq2seq_play import PlayConfig
from lvtrain.training.checkpoint import latest, steps
from lvtrain.training.log import read_metrics
from tests.systems.test_seq2seq_gan import ADVERSARIES, SMALL

SETTINGS: dict[str, Any] = {
    "batch_size": 12, "threads": 1, "validate_every": 0, "log_every": 2, "tensorboard": False,
}  # fmt: skip
# Likelihood, the discriminator alone, then both, within ten steps.
PHASES = replace(
    SMALL,
    play=PlayConfig(likelihood=2),
    discriminator=replace(SMALL.discriminator, accuracy=0.2),
)


def trained(
    store: Path, out: Path, model: Any, system: str = "seq2seq-gan", **settings: Any
) -> Path:
    lvtrain.train(system, store, out, preset="tiny", model=model, **SETTINGS | settings)
    return out


def state(folder: Path) -> dict[str, torch.Tensor]:
    found = latest(folder / "checkpoints")
    assert found is not None
    return {f"{part}.{n}": t for part in found.parts for n, t in found.tensors(part).items()}


@pytest.fixture(scope="module")
def translator(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "translator"
    return trained(store, out, SMALL.translator, "seq2seq", steps=2, checkpoint_every=2)


def test_a_run_in_pieces_ends_in_the_very_weights_of_one(store: Path, tmp_path: Path) -> None:
    whole = trained(store, tmp_path / "whole", PHASES, steps=12, checkpoint_every=100)
    for stop in (1, 3, 5, 6, 9, 12):
        trained(store, tmp_path / "pieces", PHASES, steps=stop, checkpoint_every=100, resume="auto")
    ours, theirs = state(tmp_path / "pieces"), state(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert theirs["adversary.module.heeded"]


@pytest.mark.parametrize("architecture", ["rnnsearch", "transformer"])
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_in_bf16_each_adversary_plays_nearly_as_in_float32(
    store: Path, tmp_path: Path, adversary: Any, architecture: Any
) -> None:
    model = replace(
        SMALL,
        adversary=adversary,
        translator=replace(SMALL.translator, architecture=architecture),
        critic=replace(SMALL.critic, pretraining=1),
        discriminator=replace(SMALL.discriminator, accuracy=0.0),
    )
    exact, rounded = (
        read_metrics(
            trained(store, tmp_path / kind, model, steps=3, precision=kind, log_every=1)
        )[-1]
        for kind in ("fp32", "bf16")
    )  # fmt: skip
    assert rounded["cross_entropy"] == pytest.approx(exact["cross_entropy"], rel=0.02)
    played = {"wgan": "penalty"}.get(adversary, "discriminator")
    assert rounded[played] == pytest.approx(exact[played], rel=0.05)
    assert rounded[played] != exact[played]


def test_a_run_begins_where_the_translator_ended_that_it_comes_from(
    store: Path, translator: Path, tmp_path: Path
) -> None:
    model = starting_from(replace(SMALL, discriminator=replace(SMALL.discriminator, accuracy=1.0)),
                          translator)  # fmt: skip
    # The discriminator is never good enough, so the translator stays as it came.
    out = trained(store, tmp_path / "run", model, steps=3, checkpoint_every=3)
    ours, theirs = (translator_of(Model.load(folder).system) for folder in (out, translator))
    assert ours is not None and theirs is not None
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
    assert Model.load(out).translate(["the boy runs"])
    # Once there is a checkpoint, the run that it came from may be gone.
    gone = replace(model, start=tmp_path / "gone")
    config = (out / "config.json").read_text().replace(str(model.start), str(gone.start))
    (out / "config.json").write_text(config)
    trained(store, out, gone, steps=4, resume="auto")


def test_the_flags_take_the_translator_as_it_is(
    store: Path, translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["train", "seq2seq-gan", "--data", store, "--out", tmp_path / "run", "--steps", "1",
            "--batch-size", "12", "--validate-every", "0", "--policy.rollouts", "1",
            "--no-tensorboard"]  # fmt: skip
    assert run([str(a) for a in (*argv, "--from", translator)]) == 0
    assert Model.load(tmp_path / "run").config.model.translator.hidden == 16
    capsys.readouterr()
    for given, said in (
        (["--from", tmp_path / "nothing"], "nothing: no such run"),
        (["--from", translator.parent / "translato"], "did you mean 'translator'?"),
        (["--from", translator, "--hidden", "18"],
         f"--hidden: expected 16, as --from {translator} has, found 18"),
        (["--from", translator, "--architecture", "transformer"],
         f"--architecture: expected rnnsearch, as --from {translator} has, found transformer"),
    ):  # fmt: skip
        assert run([str(a) for a in (*argv[:5], tmp_path / "other", *argv[6:], *given)]) == 2
        assert said in capsys.readouterr().err
        assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("architecture", ["rnnsearch", "transformer"])
def test_heads_must_agree_where_there_are_any(
    store: Path, tmp_path: Path, architecture: Literal["rnnsearch", "transformer"]
) -> None:
    first = replace(SMALL.translator, architecture=architecture, heads=2)
    start = trained(store, tmp_path / "start", first, "seq2seq", steps=1)
    model = starting_from(SMALL, start)
    other = replace(model, translator=replace(model.translator, heads=1))
    if architecture == "transformer":
        with pytest.raises(UserError, match=f"^--heads: expected 2, as --from {start} has"):
            trained(store, tmp_path / "run", other, steps=1)
    else:
        trained(store, tmp_path / "run", other, steps=1)


def test_what_a_user_may_not_expect_of_a_run_is_said(
    store: Path, translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = replace(SMALL, discriminator=replace(SMALL.discriminator, accuracy=1.0))
    untrained, frozen = "begins untrained: --from", "has not learnt from it yet"
    for model, expected in (
        (waiting, {untrained, frozen}),
        (starting_from(waiting, translator), {frozen}),
        (starting_from(PHASES, translator), set()),
    ):
        trained(store, tmp_path / "run", model, steps=12)
        said = capsys.readouterr().err
        assert {one for one in (untrained, frozen) if one in said} == expected
        shutil.rmtree(tmp_path / "run")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"play": PlayConfig(likelihood=5)}, "after --likelihood 5 iterations, and there were 3"),
        ({"adversary": "wgan", "critic": replace(SMALL.critic, pretraining=4)},
         "after --critic.pretraining 4 iterations of its own, and there were 3"),
        ({"discriminator": replace(SMALL.discriminator, accuracy=1.0)},
         "is heeded from 100% on"),
        ({"discriminator": replace(SMALL.discriminator, accuracy=0.0)}, ""),
        ({"adversary": "wgan", "critic": replace(SMALL.critic, pretraining=2)}, ""),
    ],
)  # fmt: skip
def test_that_an_adversary_is_not_heeded_is_said_once_and_wherever_the_run_is_looked_at(
    store: Path,
    translator: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changed: dict[str, Any],
    expected: str,
) -> None:
    out = tmp_path / "run"
    trained(store, out, starting_from(replace(SMALL, **changed), translator), steps=3)
    before, after = capsys.readouterr().err.split("step 2/3")
    if "--" in expected:
        # Known from the start, and said there alone.
        assert f"{expected.replace('were', 'are')}: the translator will not learn" in before
        assert "warning" not in after
        said = []
    else:
        assert "will not learn" not in before
        said = [after]
    assert run(["inspect", str(out), "--json"]) == 0
    said.append("\n".join(json.loads(capsys.readouterr().out)["warnings"]))
    assert run(["evaluate", str(out), "--draws", "0"]) == 0
    said.append(capsys.readouterr().err)
    for text in said:
        assert ("has not learnt from it yet" in text) == bool(expected)
        assert expected in text
    shares = [re.findall(r"right about ([\d.]+)%", text) for text in said]
    assert shares == shares[:1] * len(shares), "all say the same of the same step"


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (0.5, "is right about 50% of pairs that are new to it (a running mean that begins at 0), "
              "and is heeded from 55% on"),
        (0.5499, "is right about 54.9% of pairs that are new to it (a running mean that begins at "
                 "0), and is heeded from 55% on"),
        (0.58, "came to be right about 58% of pairs that are new to it (a running mean that begins "
               "at 0) at the last step, and is heeded from 55% on (--discriminator.accuracy): the "
               "translator has not learnt from it yet, and needs more --steps to"),
    ],
)  # fmt: skip
def test_how_good_a_discriminator_is_that_was_not_heeded(judged: float, expected: str) -> None:
    config = replace(SMALL, discriminator=replace(SMALL.discriminator, accuracy=0.55))
    (said,) = config.remarks(10, 10, {"heeded": 0.0, "judged": judged})
    assert expected in said


def test_a_discriminator_that_becomes_good_enough_at_the_last_step_is_said_to_have(
    store: Path, translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def waiting(accuracy: float, out: Path) -> str:
        discriminator = replace(SMALL.discriminator, accuracy=accuracy)
        model = starting_from(replace(SMALL, discriminator=discriminator), translator)
        capsys.readouterr()
        trained(store, out, model, steps=3, log_every=1)
        return capsys.readouterr().err

    waiting(1.0, tmp_path / "never")
    *_, before, last = (line["judged"] for line in read_metrics(tmp_path / "never"))
    said = waiting((before + last) / 2, tmp_path / "late")
    assert "came to be right about" in said and "needs more --steps" in said


def test_of_equal_figures_the_later_step_is_the_best(
    store: Path, translator: Path, tmp_path: Path
) -> None:
    waiting = replace(SMALL, discriminator=replace(SMALL.discriminator, accuracy=1.0))
    model = starting_from(waiting, translator)
    out = trained(store, tmp_path / "run", model, steps=4, validate_every=2)
    assert Model.load(out).step == 4, "a frozen translator is as good at each step"


def worse_each_step(monkeypatch: pytest.MonkeyPatch, ends_at: int = -1) -> None:
    """Let validation find every step worse than those before it; at one it ends the process."""

    def figures(step: int) -> dict[str, float]:
        if step == ends_at:
            raise KeyboardInterrupt
        return {"missing_bleu": 50.0 + step}

    monkeypatch.setattr(experiment, "validation", lambda *arguments: figures)


def test_the_start_of_a_run_is_its_best_where_no_step_is_better(
    store: Path,
    translator: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worse_each_step(monkeypatch)
    model, out = starting_from(PHASES, translator), tmp_path / "run"
    trained(store, out, model, steps=8, validate_every=3, checkpoint_every=1)
    said = capsys.readouterr().err
    assert said.count("best so far") == 1 and "no step was better than the start" in said
    judged = [line for line in read_metrics(out) if line["kind"] == "validation"]
    assert [(line["step"], line.get("best", False)) for line in judged] == [
        (0, True), (3, False), (6, False), (8, False),
    ]  # fmt: skip
    assert steps(out / "checkpoints") == [0, 7, 8], "the best is kept however old it is"
    found = Model.load(out)
    ours, theirs = translator_of(found.system), translator_of(Model.load(translator).system)
    assert found.step == 0 and ours is not None and theirs is not None
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor)
    assert found.remarks == ["the run began with it: the translator has not learnt from its "
                             "adversary yet"]  # fmt: skip


def test_nothing_is_validated_before_the_first_step_without_a_start_or_validation(
    store: Path, translator: Path, tmp_path: Path
) -> None:
    for name, model, every in (
        ("anew", PHASES, 1),
        ("unjudged", starting_from(PHASES, translator), 0),
    ):
        out = trained(store, tmp_path / name, model, steps=1, validate_every=every)
        assert [line["step"] for line in read_metrics(out)] == ([1] if every == 0 else [1, 1])
        assert steps(out / "checkpoints") == [1]


@pytest.mark.parametrize("killed", ["before the start was judged", "before it was committed",
                                    "after it was committed"])  # fmt: skip
def test_a_run_killed_at_its_start_goes_on_as_one_that_was_not(
    store: Path,
    translator: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed: str,
) -> None:
    model, settings = starting_from(PHASES, translator), {"steps": 8, "validate_every": 3}
    whole, out = tmp_path / "whole", tmp_path / "run"
    worse_each_step(monkeypatch)
    trained(store, whole, model, **settings)
    worse_each_step(monkeypatch, ends_at=0 if killed == "before the start was judged" else 3)
    with pytest.raises(KeyboardInterrupt):
        trained(store, out, model, **settings)
    if killed == "before it was committed":
        assert steps(out / "checkpoints") == [0]
        shutil.rmtree(out / "checkpoints")
    worse_each_step(monkeypatch)
    trained(store, out, model, **settings, resume="auto")
    ours, theirs = state(out), state(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert steps(out / "checkpoints") == steps(whole / "checkpoints") == [0, 8]
    timed = {"seconds", "words_per_second"}
    lines = [
        [{name: value for name, value in line.items() if name not in timed}
         for line in read_metrics(folder)]
        for folder in (out, whole)
    ]  # fmt: skip
    assert lines[0] == lines[1]


def test_what_is_exported_is_the_translator_alone(
    store: Path, translator: Path, tmp_path: Path
) -> None:
    out = trained(store, tmp_path / "run", starting_from(PHASES, translator), steps=8)
    model = Model.load(out)
    model.save_pretrained(tmp_path / "model")
    exported = Model.load(tmp_path / "model")
    assert exported.config.system == "seq2seq" and set(exported.system.parts) == {"model"}
    sources = ["the boy runs", "two girls sing"]
    assert exported.translate(sources) == model.translate(sources)


def test_a_run_of_another_system_is_no_translator(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "lm"
    lvtrain.train("lm", store, other, preset="tiny", steps=1, **SETTINGS)
    with pytest.raises(UserError, match="expected the run of a translator.*found 'lm'"):
        starting_from(SMALL, other)


def test_a_run_goes_on_without_the_one_that_it_started_from(
    store: Path, translator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, out = tmp_path / "start", tmp_path / "run"
    shutil.copytree(translator, start)
    argv = ["train", "seq2seq-gan", "--data", store, "--out", out, "--batch-size", "12",
            "--validate-every", "0", "--policy.rollouts", "1", "--no-tensorboard",
            "--threads", "1", "--resume", "auto"]  # fmt: skip

    def go(steps: int, *given: str | Path) -> str:
        capsys.readouterr()
        assert run([str(a) for a in (*argv, "--steps", str(steps), *given)]) == 0
        return capsys.readouterr().err

    go(1, "--from", start)
    shutil.rmtree(start)
    assert "warning: --from" not in go(2, "--from", start)
    go(3)
    assert "goes on from its own checkpoint" in go(4, "--from", translator)
    assert Model.load(out).config.model.start == start
    lvtrain.train(
        "seq2seq-gan", store, out, start=start, resume="auto", steps=5,
        **SETTINGS | {"model": Model.load(out).config.model},
    )  # fmt: skip
    assert Model.load(out).step == 5


def test_a_run_that_started_from_none_does_not_go_on_from_one(
    store: Path, translator: Path, tmp_path: Path
) -> None:
    out = trained(store, tmp_path / "run", SMALL, steps=1)
    with pytest.raises(UserError, match="model.start is None there"):
        trained(store, out, starting_from(SMALL, translator), steps=2, resume="auto")


def test_python_starts_from_a_translator_as_the_flag_does(
    store: Path, translator: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    policy = replace(SMALL, policy=replace(SMALL.policy, rollouts=1))
    lvtrain.train("seq2seq-gan", store, out, start=translator, model=policy, steps=1, **SETTINGS)
    config = Model.load(out).config.model
    assert config.start == translator and config.translator.hidden == 16
    with pytest.raises(UserError, match="^--from: lm begins anew"):
        lvtrain.train("lm", store, tmp_path / "lm", start=translator, steps=1, **SETTINGS)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--discriminator.windows", "--discriminator.windows: expected one or more"),
        ("--policy.rollouts 0",
         "--policy.rollouts 0: expected 1 or more, or --policy.credit sentence --policy.baseline"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line_by_its_flag_and_no_folder(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: str, said: str
) -> None:
    argv = f"train seq2seq-gan --data {store} --out {tmp_path / 'run'} --steps 1 {flags}"
    assert run(argv.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "run").exists()


def test_likelihood_alone_that_was_asked_for_is_not_odd() -> None:
    config = replace(SMALL, play=PlayConfig(likelihood=3))
    assert not list(config.remarks(3, 3, {"heeded": 0.0, "judged": 0.0}))
    assert list(config.remarks(3, 4, {}))
    assert not [said for said in config.warnings(3, SMALL) if "will not learn" in said]
    assert [said for said in config.warnings(2, SMALL) if "will not learn" in said]
    assert not [said for said in config.warnings(4, SMALL) if "will not learn" in said]
    wgan = replace(config, adversary="wgan", critic=replace(SMALL.critic, pretraining=2))
    told = [n for n in range(1, 8) if any("will not" in s for s in wgan.warnings(n, SMALL))]
    assert told == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("adversary", "flags", "vain"),
    [
        ("wgan", "--policy.adversarial 0 --discriminator.optimizer.lr 1",
         "--discriminator.optimizer.lr, --policy.adversarial"),
        ("wgan", "--critic.rounds 2 --fresh 1 --extra-words 3", ""),
        ("brcsgan", "--critic.answer-scale 1 --policy.offset 0", "--critic.answer-scale"),
        ("brcsgan", "--discriminator.length 16", "--discriminator.length"),
        ("brcsgan", "--discriminator.windows 1 2", ""),
        ("wu", "--discriminator.windows 1 2", "--discriminator.windows"),
        ("wu", "--discriminator.length 16", ""),
    ],
)  # fmt: skip
def test_flags_that_an_adversary_does_not_have_are_said_to_be_without_effect(
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    adversary: str,
    flags: str,
    vain: str,
) -> None:
    argv = f"train seq2seq-gan --preset tiny --data {store} --out {tmp_path / 'run'} --steps 1 "
    argv += f"--validate-every 0 --likelihood 1 --adversary {adversary} --no-tensorboard {flags}"
    assert run(argv.split()) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "without effect" in line]
    expected = f"warning: {vain}: of another adversary than {adversary}, and without effect"
    assert said == ([expected] if vain else [])
