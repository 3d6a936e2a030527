from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from lvtrain.config import RunConfig, TrainConfig
from lvtrain.data.store import Store
from lvtrain.evaluation import generated as module
from lvtrain.evaluation.generated import generated
from lvtrain.evaluation.sentences import read
from lvtrain.generation.recorded import build
from lvtrain.grammar.grammar import Grammar
from lvtrain.model import Model
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences
from lvtrain.systems.language_model import LanguageModelConfig


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    out = tmp_path / "store"
    prepare_sentences(Grammar().sample(100, 1), config=PrepareConfig(), out=out)
    store = Store.open(out)
    config = RunConfig(
        system="lm",
        model=LanguageModelConfig(embedding=8, hidden=12),
        train=TrainConfig(),
        store=store.path,
        store_digest=store.digest,
        vocab_size=store.tokenizer.vocab_size,
        max_words=6,
    )
    return Model(config, build(config), store.tokenizer, 0, tmp_path)


def of(model: Model, count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    with generated(model, count, seed, lambda text: None) as (first, rows):
        assert rows.rows == count
        return first, sorted(model.tokenizer.decode_batch(read(rows)))


def test_they_are_the_sentences_that_the_model_generates(model: Model) -> None:
    first, everything = of(model, 30)
    assert first == model.generate(30)
    assert everything == sorted(first)
    assert not list(Path(tempfile.gettempdir()).iterdir()), "nothing is left"


def test_more_than_are_held_at_a_time_are_generated_in_parts(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 20)
    first, everything = of(model, 50)
    assert len(first) == 20
    assert first == model.generate(20)
    assert len(set(everything)) > 45, "no part repeats another"
    assert (first, everything) == of(model, 50)
    assert everything != of(model, 50, seed=1)[1]


def test_nothing_is_left_where_it_is_broken_off(model: Model) -> None:
    with pytest.raises(ZeroDivisionError), generated(model, 5, 0, lambda text: None) as (_, rows):
        assert np.all(rows.lengths(np.arange(5)) <= 6)
        raise ZeroDivisionError
    assert not list(Path(tempfile.gettempdir()).iterdir())
