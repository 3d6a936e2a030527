from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import lvtrain
from lvtrain.grammar.grammar import Grammar

Ask = Callable[..., str]
Runs = dict[str, Path]


@pytest.mark.parametrize("system", ["arae", "ae", "vae", "lm"])
def test_its_flags_are_the_keywords_of_the_api(runs: Runs, said: Ask, system: str) -> None:
    model = lvtrain.load(runs[system])
    how = {"temperature": 1.0, "top_k": 9, "code_noise": 2.0, "max_words": 3}
    flags = [part for name, value in how.items()
             for part in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip
    out = said("generate", runs[system], "--num", "40", *flags)
    assert out.splitlines() == model.generate(40, **how)
    assert max(len(line.split()) for line in out.splitlines()) <= 3


def test_code_noise_changes_what_an_autoencoder_says_and_nothing_of_a_language_model(
    runs: Runs, said: Ask
) -> None:
    for system, changed in (("arae", True), ("vae", True), ("lm", False)):
        plain = said("generate", runs[system], "--num", "20")
        noisy = said("generate", runs[system], "--num", "20", "--code-noise", "9")
        assert (plain != noisy) == changed


@pytest.mark.parametrize(
    "flags",
    ["--num 0", "--num -1", "--temperature -1", "--temperature nan", "--temperature inf",
     "--top-k -1", "--max-words 0", "--code-noise -0.1", "--code-noise nan", "--code-noise inf"],
)  # fmt: skip
@pytest.mark.parametrize("system", ["arae", "lm"])
def test_a_number_that_cannot_be_is_refused_by_its_flag(
    runs: Runs, refused: Ask, system: str, flags: str
) -> None:
    flag, value = flags.split()
    assert f"{flag}: expected" in refused("generate", runs[system], flag, value)


def test_a_step_of_an_exported_model_must_be_its_own(
    runs: Runs, tmp_path: Path, said: Ask, refused: Ask
) -> None:
    said("export", runs["lm"], "--out", tmp_path / "model")
    said("generate", tmp_path / "model", "--step", "4")
    assert "the model is of step 4" in refused("generate", tmp_path / "model", "--step", "2")


def test_the_likeliest_words_are_not_drawn_from_so_many(
    runs: Runs, said: Ask, refused: Ask
) -> None:
    assert "--top-k 3: expected with a --temperature" in refused(
        "generate", runs["arae"], "--top-k", "3"
    )
    said("generate", runs["lm"], "--top-k", "3")  # which draws unless told otherwise
    assert "--top-k 3: expected with" in refused(
        "generate", runs["lm"], "--top-k", "3", "--temperature", "0"
    )


@pytest.mark.parametrize("command", ["generate", "interpolate"])
def test_a_store_is_what_a_prior_is_fitted_to_or_refused(
    runs: Runs, store: Path, tmp_path: Path, said: Ask, refused: Ask, command: str
) -> None:
    for system, why in ("arae", "found 'arae'"), ("lm", ""):
        line = refused(command, runs[system], "--data", store)
        assert (why or {"generate": "found 'lm'", "interpolate": "no codes"}[command]) in line
    fitted = said(command, runs["ae"])  # which keeps what it fitted
    assert said(command, runs["ae"], "--data", store) == fitted
    assert "no such store" in refused(command, runs["ae"], "--data", store / "absent")
    grown = shutil.copytree(store, tmp_path / "grown")
    for side, text in zip(("source", "target"), Grammar().sample_pairs(1, seed=0)[0], strict=True):
        (tmp_path / side).write_text(f"{text}\n" * 5_000)
    both = tmp_path / "source", "--target", tmp_path / "target"
    said("prepare", *both, "--out", grown, "--append")
    assert said(command, runs["ae"], "--data", grown) != fitted
    assert said(command, runs["ae"]) == fitted, "what is kept is of the store trained on"


def test_what_is_for_random_codes_is_refused_with_sentences(runs: Runs, refused: Ask) -> None:
    for flag in ("--num", "--seed", "--data"):
        line = refused("interpolate", runs["ae"], "the boy smiles", "the girl smiles", flag, "2")
        assert f"{flag} 2: expected without sentences" in line
