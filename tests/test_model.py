"""The Python API on small runs."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import lvtrain
from lvtrain.data.tokenizer import Tokenizer
from lvtrain.errors import UserError
from lvtrain.grammar.grammar import Grammar
from lvtrain.model import Model
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences
from lvtrain.training import checkpoint
from lvtrain.training.parts import parts

SENTENCES = Grammar().sample(5, seed=9)


def train(system: str, store: Path, run: Path) -> Path:
    lvtrain.train(
        system, store, run, preset="tiny", steps=3, batch_size=16, threads=1,
        validate_every=0, tensorboard=False,
    )  # fmt: skip
    return run


@pytest.fixture(scope="module", params=["arae", "ae", "dae", "vae"])
def model(request: pytest.FixtureRequest, store: Path, tmp_path_factory) -> Model:  # type: ignore[no-untyped-def]
    return lvtrain.load(train(request.param, store, tmp_path_factory.mktemp("m") / request.param))


@pytest.fixture(scope="module")
def trained(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs to make copies of."""
    folder = tmp_path_factory.mktemp("trained")
    return {system: train(system, store, folder / system) for system in ("ae", "lm")}


@pytest.fixture
def ae(trained: dict[str, Path], tmp_path: Path) -> Path:
    """A run of an autoencoder that a test may spoil."""
    return Path(shutil.copytree(trained["ae"], tmp_path / "ae"))


@pytest.fixture
def exported(ae: Path, tmp_path: Path) -> Path:
    """The same as a model alone."""
    lvtrain.load(ae).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_codes_decode_to_what_reconstruct_says(model: Model) -> None:
    assert model.decode(model.encode(SENTENCES)) == model.reconstruct(SENTENCES)


def test_a_sentence_has_the_same_code_alone_and_in_company(model: Model) -> None:
    together = model.encode(SENTENCES)
    alone = torch.cat([model.encode([sentence]) for sentence in SENTENCES])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_interpolations_have_as_many_steps_as_asked_for(model: Model) -> None:
    assert len(model.interpolate(SENTENCES[0], SENTENCES[1], steps=4)) == 4
    ways = model.interpolations(3, steps=4)
    assert [len(way) for way in ways] == [4, 4, 4]


def test_a_pretrained_model_is_the_model(model: Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "m")
    other = Model.from_pretrained(tmp_path / "m")
    assert other.step == model.step
    assert torch.equal(other.encode(SENTENCES), model.encode(SENTENCES))
    assert other.generate(4, seed=3) == model.generate(4, seed=3)
    assert names(tmp_path / "m") == {"config.json", "model.safetensors", "tokenizer.json"}


def test_unknown_words_are_encoded_as_such(model: Model) -> None:
    assert model.encode(["xyzzy the boy"]).isfinite().all()


def test_a_sentence_that_is_no_text_is_refused(model: Model) -> None:
    with pytest.raises(UserError, match=r"expected sentences in UTF-8, found 'the .udcff'"):
        model.encode(["the boy", "the \udcff"])


def test_no_sentences_is_a_mistake_with_a_name(model: Model) -> None:
    with pytest.raises(UserError, match="at least one sentence"):
        model.encode([])


def test_a_truncated_pretrained_model_is_named(model: Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Model.from_pretrained(tmp_path / "m")


def test_a_step_that_is_not_there_is_named(model: Model) -> None:
    with pytest.raises(UserError, match="77"):
        Model.load(model.folder, 77)


def test_a_run_without_a_checkpoint_is_named(model: Model, tmp_path: Path) -> None:
    config = json.loads((model.folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="no checkpoint"):
        Model.load(tmp_path)


def test_a_long_sentence_does_not_lengthen_the_others(model: Model) -> None:
    # Padded to the longest, these would be 20 million words of 192 units: gigabytes.
    codes = model.encode(["the boy " * 5_000, *SENTENCES, *["the boy"] * 2_000])
    torch.testing.assert_close(codes[1:6], model.encode(SENTENCES), rtol=1e-4, atol=1e-5)
    assert codes.isfinite().all()


def test_an_empty_sentence_has_a_code(model: Model) -> None:
    assert model.encode(["", " "]).isfinite().all()


def test_code_noise_is_an_option_of_generation(model: Model) -> None:
    plain, noisy = (model.generate(40, seed=2, code_noise=std) for std in (0.0, 30.0))
    assert plain == model.generate(40, seed=2) and noisy != plain
    assert noisy == model.generate(40, seed=2, code_noise=30.0, batch_size=7)


@pytest.mark.parametrize(
    ("flag", "call"),
    [
        ("num", lambda m: m.generate(0)),
        ("num", lambda m: m.generate(-1)),
        ("num", lambda m: m.sample_codes(0)),
        ("temperature", lambda m: m.generate(2, temperature=-1.0)),
        ("temperature", lambda m: m.generate(2, temperature=math.nan)),
        ("top-k", lambda m: m.generate(2, top_k=-1)),
        ("max-words", lambda m: m.generate(2, max_words=0)),
        ("code-noise", lambda m: m.generate(2, code_noise=-0.1)),
        ("code-noise", lambda m: m.decode(m.encode(SENTENCES), code_noise=math.inf)),
        ("steps", lambda m: m.interpolate("a", "b", steps=1)),
        ("steps", lambda m: m.interpolations(2, steps=0)),
        ("num", lambda m: m.interpolations(0)),
        ("scale", lambda m: m.arithmetic(["a"], ["b"], ["c"], scale=math.nan)),
    ],
)
def test_a_number_that_cannot_be_is_named(
    model: Model, flag: str, call: Callable[[Model], Any]
) -> None:
    with pytest.raises(UserError, match=f"^--{flag}: expected"):
        call(model)


def test_codes_of_another_width_are_refused(model: Model) -> None:
    for codes in (torch.zeros(3, 5), torch.zeros(32)):
        with pytest.raises(UserError, match="expected codes of N × 32, found"):
            model.decode(codes)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.encode(["a"]),
        lambda m: m.reconstruct(["a"]),
        lambda m: m.interpolate("a", "b"),
        lambda m: m.interpolations(2),
        lambda m: m.arithmetic(["a"], ["b"], ["c"]),
    ],
)
def test_a_language_model_has_no_codes(
    trained: dict[str, Path], call: Callable[[Model], Any]
) -> None:
    with pytest.raises(UserError, match="a language model has no codes"):
        call(lvtrain.load(trained["lm"]))


def test_what_is_no_step_is_refused(ae: Path) -> None:
    with pytest.raises(UserError, match="expected 'best', 'latest' or a step, found 'bets'"):
        lvtrain.load(ae, "bets")


# What a run keeps: the prior of a plain autoencoder.


def test_the_prior_is_kept_and_read_again(ae: Path) -> None:
    before = os.umask(0o022)
    try:
        expected = lvtrain.load(ae).generate(5)
    finally:
        os.umask(before)
    path = ae / "prior.safetensors"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert not any(name.startswith(".") for name in names(ae))
    change(ae / "config.json", store=str(ae / "gone"))
    assert lvtrain.load(ae).generate(5) == expected


def test_the_prior_of_averaged_parameters_is_not_that_of_their_last_step(
    store: Path, ae: Path
) -> None:
    (ae / "prior.safetensors").unlink(missing_ok=True)
    lvtrain.train(
        "ae", store, ae, preset="tiny", steps=6, batch_size=16, threads=1,
        validate_every=0, tensorboard=False, resume="auto",
    )  # fmt: skip
    mean = Model.load(ae, average=2).prior.mean
    assert "prior.safetensors" not in names(ae)
    own = Model.load(ae).prior.mean
    assert not torch.equal(own, mean)
    assert torch.equal(Model.load(ae).prior.mean, own)
    assert torch.equal(Model.load(ae, average=2).prior.mean, mean)


def test_a_prior_that_cannot_be_kept_is_no_matter(ae: Path) -> None:
    expected = lvtrain.load(ae).generate(5)
    (ae / "prior.safetensors").unlink()
    (ae / "prior.safetensors").mkdir()  # No file can take its place, whoever writes it.
    before = names(ae)
    assert lvtrain.load(ae).generate(5) == expected
    assert names(ae) == before


@pytest.mark.parametrize(
    "kept",
    [{}, {"mean": torch.zeros(32), "step": torch.tensor(3)},
     {"mean": torch.zeros(4), "factor": torch.zeros(4, 4), "step": torch.tensor(3)},
     {"mean": torch.zeros(32), "factor": torch.zeros(32, 32), "step": torch.tensor(2)}],
)  # fmt: skip
def test_a_prior_that_does_not_fit_is_fitted_again(ae: Path, kept: dict[str, Any]) -> None:
    path = ae / "prior.safetensors"
    expected = lvtrain.load(ae).sample_codes(5)
    save_file(kept, path) if kept else path.write_bytes(b"cut short")
    assert torch.equal(lvtrain.load(ae).sample_codes(5), expected)
    assert load_file(path)["mean"].shape == (32,)


# The store, which may have moved.


def test_a_store_that_has_moved_is_given_to_load(store: Path, ae: Path) -> None:
    expected = lvtrain.load(ae).generate(5)
    (ae / "prior.safetensors").unlink()
    change(ae / "config.json", store=str(ae / "gone"))
    with pytest.raises(UserError, match=r"gone: the store .* is not there; --data STORE"):
        lvtrain.load(ae).generate(5)
    assert Model.load(ae, data=store).generate(5) == expected
    assert "prior.safetensors" in names(ae), "it is the store that was trained on"


def test_a_prior_of_another_store_is_not_kept(ae: Path, tmp_path: Path) -> None:
    sentences = Grammar().sample(660, seed=0)
    other = tmp_path / "other"
    # The words that the run knows, in the same order, and other rows.
    prepare_sentences(sentences[:600] * 2, sentences[600:], config=PrepareConfig(), out=other)
    assert len(Model.load(ae, data=other).generate(2)) == 2
    assert "prior.safetensors" not in names(ae)


def test_an_exported_model_is_left_as_it_is(exported: Path) -> None:
    weights = load_file(exported / "model.safetensors")
    save_file({n: t for n, t in weights.items() if not n.startswith("prior.")},
              exported / "model.safetensors")  # fmt: skip
    before = names(exported)
    assert len(lvtrain.load(exported).generate(5)) == 5
    assert names(exported) == before


def test_the_files_of_an_exported_model_have_the_mode_of_the_umask(
    ae: Path, tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        lvtrain.load(ae).save_pretrained(tmp_path / "open")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "open").iterdir()}
    assert modes == {0o644}


def test_a_folder_that_cannot_be_written_is_named(ae: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/x: cannot be written: Not a directory"):
        lvtrain.load(ae).save_pretrained(tmp_path / "file" / "x")


# Files that may be anybody's.


@pytest.fixture(params=["run", "exported"])
def foreign(request: pytest.FixtureRequest, ae: Path) -> Path:
    """A folder whose files do not fit one another, once a test has changed one."""
    return ae if request.param == "run" else Path(request.getfixturevalue("exported"))


def one_line(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        lvtrain.load(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("text", ["{}", "[]", "3", "null", '{"system": "areae"}', "{", '{"a": 1}'])
def test_a_configuration_that_is_none_is_named(foreign: Path, text: str) -> None:
    (foreign / "config.json").write_text(text)
    assert str(foreign / "config.json") in one_line(foreign)


@pytest.mark.parametrize(
    ("field", "value"), [("max_words", 0), ("vocab_size", -1), ("vocab_size", 10**12)]
)
def test_a_size_that_cannot_be_is_named(foreign: Path, field: str, value: int) -> None:
    change(foreign / "config.json", **{field: value})
    assert str(foreign) in one_line(foreign)


def test_a_setting_that_cannot_be_built_is_named(foreign: Path) -> None:
    config = json.loads((foreign / "config.json").read_text())
    for field, value in (("hidden", -1), ("layers", 0), ("hidden", "many")):
        changed = config | {"model": config["model"] | {field: value}}
        (foreign / "config.json").write_text(json.dumps(changed))
        said = one_line(foreign)
        assert str(foreign / "config.json") in said and field in said


def test_a_vocabulary_of_another_size_is_named(foreign: Path) -> None:
    Tokenizer.train_words(["one two three"]).save(foreign / "tokenizer.json")
    said = one_line(foreign)
    assert str(foreign / "tokenizer.json") in said and "found 7" in said


def test_a_vocabulary_of_other_words_is_named(foreign: Path) -> None:
    words = Tokenizer.load(foreign / "tokenizer.json").words
    other = Tokenizer.train_words([" ".join([*words[:-1], "otherwise"])])
    assert other.vocab_size == len(words) + 4
    other.save(foreign / "tokenizer.json")
    said = one_line(foreign)
    assert str(foreign / "tokenizer.json") in said and "SHA-256" in said


def test_weights_of_other_shapes_are_named(foreign: Path) -> None:
    config = json.loads((foreign / "config.json").read_text())
    config["model"]["hidden"] = 64
    (foreign / "config.json").write_text(json.dumps(config))
    said = one_line(foreign)
    assert "model.safetensors: " in said and "expected 256" in said and "found 768" in said
    assert "more that do not fit" in said


def test_weights_of_another_system_are_named(foreign: Path, store: Path, tmp_path: Path) -> None:
    lm = train("lm", store, tmp_path / "other")
    shutil.copyfile(lm / "config.json", foreign / "config.json")
    said = one_line(foreign)
    assert "model.safetensors: " in said and "expected no such tensor" in said


@pytest.mark.parametrize("name", ["step", "prior.factor", "model.decoder.output_bias"])
def test_a_tensor_that_is_missing_is_named(exported: Path, name: str) -> None:
    tensors = load_file(exported / "model.safetensors")
    tensors.pop(name)
    save_file(tensors, exported / "model.safetensors")
    said = one_line(exported)
    assert f"model.safetensors: {name}: expected" in said and "found no such tensor" in said


@pytest.fixture(scope="module")
def validated(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose newest checkpoint is also its best: each validation is better than the last."""
    out = tmp_path_factory.mktemp("validated") / "lm"
    lvtrain.train(
        "lm", store, out, preset="tiny", steps=8, batch_size=16, threads=1, validate_every=2,
        checkpoint_every=2, tensorboard=False, keep=3,
    )  # fmt: skip
    return out


@pytest.fixture
def several(validated: Path, tmp_path: Path) -> Path:
    run = Path(shutil.copytree(validated, tmp_path / "several"))
    meta = json.loads((run / "checkpoints/step-00000008/meta.json").read_text())
    assert meta["best"]["step"] == 8, "else the test says nothing"
    return run


def truncate(run: Path, step: int) -> None:
    weights = run / f"checkpoints/step-{step:08d}" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def commit_best(run: Path, step: int, best: int) -> None:
    """Commit a step again, with another one as the best that was validated up to there."""
    found = checkpoint.at(run / "checkpoints", step)
    tensors = {part: found.tensors(part) for part in found.parts}
    meta = {"step": step, "best": {"step": best, "metric": "perplexity", "value": 1.0}}
    checkpoint.commit(run / "checkpoints", step, parts(tensors), meta, 4)


def test_a_damaged_newest_checkpoint_that_is_the_best_gives_way_to_the_one_before(
    several: Path,
) -> None:
    shutil.rmtree(several / "checkpoints/step-00000004")
    truncate(several, 8)
    meta = several / "checkpoints/step-00000006/meta.json"
    before = json.loads(meta.read_text())["best"]["step"]
    assert before == 6
    with pytest.warns(UserWarning, match=r"step-00000008 is damaged.*; using step-00000006"):
        assert lvtrain.load(several).step == 6
    with pytest.raises(UserError, match="step-00000008 is damaged"):
        lvtrain.load(several, 8)


def test_where_the_newest_is_damaged_it_is_said_which_step_is_read(several: Path) -> None:
    commit_best(several, 6, 4)
    commit_best(several, 8, 8)
    truncate(several, 8)
    said = "using step-00000006, the best up to there is step-00000004"
    with pytest.warns(UserWarning, match=said):
        assert lvtrain.load(several).step == 4


def test_a_best_checkpoint_that_is_not_there_gives_way_to_the_newest(several: Path) -> None:
    """The best that the newest whole one names was removed when a better one came."""
    commit_best(several, 8, 1)
    with pytest.warns(UserWarning, match="the best validated step is 1; .*using step 8"):
        assert lvtrain.load(several).step == 8


def test_a_mean_is_of_whole_checkpoints(several: Path) -> None:
    truncate(several, 6)
    with pytest.warns(UserWarning, match="step-00000006 is damaged.*the mean is without it"):
        model = Model.load(several, average=2)
    assert (model.step, model.averaged) == (8, 2)
