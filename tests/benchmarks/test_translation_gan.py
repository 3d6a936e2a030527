"""The benchmarks of adversarial translation count what they claim to count, and go on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import lvtrain
from benchmarks.rollouts import RolloutsConfig, measure, one_prefix, translator
from benchmarks.translation_gan import LIKELIHOOD, ComparisonConfig, curve, settings, table, whence
from benchmarks.translation_gan import measure as column
from lvtrain.data.tokenizer import PAD
from lvtrain.errors import UserError
from lvtrain.experiment import starting_from
from lvtrain.objectives.rollouts import sample
from lvtrain.presets import preset
from lvtrain.randomness import Key
from tests.systems.test_seq2seq_gan import SMALL


def test_the_loop_completes_as_many_words_as_the_pass() -> None:
    """With an end in every second place the words after prefix 1 number the same on average."""
    config = RolloutsConfig(batch_size=64, vocabulary=20, hidden=8, width=6, ending=5.0,
                            sharpness=1.0, rollouts=20)  # fmt: skip
    model, sources, lengths = translator(config)
    memory = model.encode(sources, lengths)
    found = sample(model, memory, 64, 6, range(1, 2), 20, Key(seed=0, step=0))
    ours = int((found.completions != PAD).sum() - (found.completions != PAD).any(-1).sum())
    theirs = sum(one_prefix(model, sources, lengths, found.tokens, 1, 6) for _ in range(20))
    assert 0.8 < ours / theirs < 1.25
    small = replace(config, repeats=1, prefixes=(1,))
    assert measure(small)["ratio"] > 0


def test_the_presets_are_the_columns_that_were_measured(store: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    lvtrain.train("seq2seq", store, start, preset="tiny", model=SMALL.translator, steps=2,
                  batch_size=8, threads=1, validate_every=0, tensorboard=False)  # fmt: skip
    config = ComparisonConfig(start=start, out=tmp_path)
    for name, of in (("lambda-0.7", "multi30k"), ("lambda-0", "multi30k-bleu")):
        column = config.columns[name]
        model, train = preset("seq2seq-gan", of)
        model = starting_from(model, start)
        assert replace(column, policy=column.rewards) == replace(model, policy=model.rewards)
        assert train.steps == config.iterations(column)
        for same in ("batch_size", "precision", "validate_every", "seed"):
            assert getattr(train, same) == getattr(config, same)
        assert train.validation_sentences == config.sentences


def test_a_column_is_trained_and_measured_once(store: Path, tmp_path: Path) -> None:
    start = tmp_path / "start"
    lvtrain.train("seq2seq", store, start, preset="tiny", model=SMALL.translator, steps=2,
                  batch_size=8, threads=1, validate_every=0, tensorboard=False)  # fmt: skip
    config = ComparisonConfig(
        start=start, out=tmp_path / "runs", shares=(0.0, 0.5), temperatures=(0.6, 1.0), steps=2,
        pretraining=1, batch_size=8, rollouts=1, validate_every=2, beam=1,
        discriminator=SMALL.discriminator, sentences=20,
    )  # fmt: skip
    assert list(config.columns) == [LIKELIHOOD, "lambda-0", "lambda-0.5"]
    with pytest.raises(UserError, match="expected one for each of the 2 --shares, found 1"):
        list(replace(config, temperatures=(1.0,)).columns)
    assert [config.iterations(c) for c in config.columns.values()] == [3, 2, 3]
    found = [column(name, config) for name in config.columns]
    assert "bleu_p" in found[1]["figures"] and "bleu_p" not in found[0]["figures"]
    assert str(tmp_path) not in json.dumps(found)  # They are read where this folder is not.
    kept = config.out / "lambda-0.5.json"
    kept.write_text(json.dumps(found[2] | {"column": "kept"}))
    assert column("lambda-0.5", config)["column"] == "kept"
    assert column("lambda-0.5", replace(config, beam=2))["column"] == "lambda-0.5"
    other = tmp_path / "other" / "start"
    lvtrain.train("seq2seq", store, other, preset="tiny", model=SMALL.translator, steps=2, seed=1,
                  batch_size=8, threads=1, validate_every=0, tensorboard=False)  # fmt: skip
    shutil.copytree(start, tmp_path / "moved" / "start")
    ours = found[2]["settings"]
    assert settings("lambda-0.5", replace(config, start=tmp_path / "moved" / "start")) == ours
    assert settings("lambda-0.5", replace(config, start=other)) != ours
    assert curve(config).splitlines()[0] == "| validation, greedy | 0 | 2 | 3 |"
    assert table(found).count("\n") == 5 and "1 roll-outs" in whence(config, found)
    for adversary in ("brcsgan", "wu"):
        other = replace(config, adversary=adversary)
        assert {c.rewards.credit for n, c in other.columns.items() if n != LIKELIHOOD} == {"prefix"}
        assert f"of {adversary}, credit by prefix" in whence(other, found)
