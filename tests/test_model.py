"""The Python API on small runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import lvtrain
from lvtrain.data.grammar import Grammar
from lvtrain.errors import UserError
from lvtrain.model import Model

SENTENCES = Grammar().sample(5, seed=9)


@pytest.fixture(scope="module", params=["arae", "ae", "dae", "vae"])
def model(request: pytest.FixtureRequest, store: Path, tmp_path_factory) -> Model:  # type: ignore[no-untyped-def]
    run = tmp_path_factory.mktemp("model") / request.param
    lvtrain.train(
        request.param, store, run, preset="tiny", steps=3, batch_size=16, threads=1,
        validate_every=0, tensorboard=False,
    )  # fmt: skip
    return lvtrain.load(run)


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
    names = {path.name for path in (tmp_path / "m").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json"}


def test_unknown_words_are_encoded_as_such(model: Model) -> None:
    assert model.encode(["xyzzy the boy"]).isfinite().all()


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
