from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lvtrain.config import RunConfig, to_json
from lvtrain.data.store import Store
from lvtrain.data.tokenizer import Tokenizer
from lvtrain.errors import UserError
from lvtrain.generation.recorded import open_store, read_config, read_tokenizer
from lvtrain.systems.language_model import LanguageModelConfig


@pytest.fixture
def config(store: Path) -> RunConfig:
    opened = Store.open(store)
    return RunConfig(
        system="lm", model=LanguageModelConfig(embedding=4, hidden=4), store=store,
        store_digest=opened.digest, vocab_size=opened.tokenizer.vocab_size, max_words=9,
    )  # fmt: skip


def test_a_configuration_is_read_as_it_was_written(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(to_json(config)))
    assert read_config(tmp_path) == config


def test_a_vocabulary_is_held_to_its_digest_where_one_is_recorded(
    config: RunConfig, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.json").write_bytes((config.store / "tokenizer.json").read_bytes())
    digest = Store.open(config.store).info.tokenizers["tokenizer.json"]
    for recorded in ("", digest):
        read_tokenizer(tmp_path, replace(config, tokenizer_digest=recorded))
    with pytest.raises(UserError, match=r"tokenizer\.json: expected SHA-256 0000"):
        read_tokenizer(tmp_path, replace(config, tokenizer_digest="0" * 64))


def test_the_store_is_the_one_recorded_or_the_one_given(config: RunConfig, tmp_path: Path) -> None:
    gone = replace(config, store=tmp_path / "gone")
    assert open_store(config).digest == open_store(gone, config.store).digest
    with pytest.raises(UserError, match="gone: the store .* is not there; --data STORE says"):
        open_store(gone)
    with pytest.raises(UserError, match="no such store"):
        open_store(config, tmp_path / "gone")


def test_a_store_of_other_words_is_refused(config: RunConfig) -> None:
    words = Store.open(config.store).tokenizer.words
    assert open_store(config, None, Store.open(config.store).tokenizer)
    with pytest.raises(UserError, match="expected the vocabulary of the run"):
        open_store(config, None, Tokenizer.train_words([" ".join([*words[1:], "otherwise"])]))
