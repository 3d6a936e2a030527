from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lvtrain.config import (
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    bounds,
    check,
    differences,
    from_json,
    to_json,
)
from lvtrain.errors import UserError
from lvtrain.presets import PRESETS, Preset
from lvtrain.systems import SYSTEMS, entry
from lvtrain.systems.arae import ARAEConfig, GeneratorConfig
from lvtrain.systems.language_model import LanguageModelConfig
from lvtrain.systems.seq2seq import Seq2SeqConfig

ALL = [preset for presets in PRESETS.values() for preset in presets.values()]


@pytest.mark.parametrize("preset", ALL, ids=lambda p: p.about)
def test_every_preset_survives_json_and_the_check(preset: Preset) -> None:
    for config in (preset.model, preset.train):
        assert from_json(type(config), json.loads(json.dumps(to_json(config))), "x") == config
        check(config)


def numbers(config: Any) -> Iterator[tuple[Any, str, Any]]:
    """Every number of a configuration and what it is composed of: its owner, name and type."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if dataclasses.is_dataclass(value):
            yield from numbers(value)
        elif not isinstance(value, str | bool) and "Path" not in str(hint):
            yield config, field.name, hint


NUMBERS = {
    f"{type(owner).__name__}.{name}": (owner, name, hint)
    for config in [TrainConfig(), *(entry(system).load()[0]() for system in SYSTEMS)]
    for owner, name, hint in numbers(config)
}


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("number", [-1, float("nan"), float("inf"), -1e300, "1", None, True])
def test_no_number_may_be_negative_or_not_finite_or_none(field: str, number: Any) -> None:
    owner, name, hint = NUMBERS[field]
    choices = typing.get_origin(hint) is typing.Literal
    assert choices or bounds(hint) is not None, "every number has bounds in its type"
    old = getattr(owner, name)
    new = (number, *old[1:]) if isinstance(old, tuple) else number
    with pytest.raises(UserError, match=f"--{name.replace('_', '-')}: expected .*, found "):
        check(replace(owner, **{name: new}))


@pytest.mark.parametrize(
    ("owner", "name", "number", "said"),
    [
        (GeneratorConfig(), "noise", 0, "--noise: expected 1 or more, found 0"),
        (TrainConfig(), "threads", 10**8, "--threads: expected 0 to 1,024"),
        (TrainConfig(), "batch_size", 0, "--batch-size: expected 1 or more"),
        (OptimizerConfig(), "lr", 0.0, "--lr: expected more than 0"),
        (OptimizerConfig(), "lr", 1e300, r"--lr: expected at most 1.0e\+38, found 1e\+300"),
        (TrainConfig(), "seed", 10**40, r"--seed: expected at most 4.6e\+18, found 10{40}"),
        (OptimizerConfig(), "betas", (0.9, 1.0), "--betas: expected 0 or more and less than 1"),
        (OptimizerConfig(), "betas", (0.9,), "--betas: expected a list of 2"),
        (OptimizerConfig(), "decay", 1.5, "--decay: expected a share from 0 to 1"),
        (TrainConfig(), "device", "gpu", "--device: expected one of auto, cpu, cuda, found 'gpu'"),
        (LanguageModelConfig(), "dropout", 1.0, "--dropout: expected 0 or more and less than 1"),
        (Seq2SeqConfig(), "label_smoothing", 1.0, "--label-smoothing: expected 0 or more and less"),
    ],
)
def test_a_value_out_of_bounds_is_named(owner: Any, name: str, number: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        check(replace(owner, **{name: number}))


def test_a_composed_configurations_flags_are_those_of_the_command_line() -> None:
    config = ARAEConfig()
    bad = replace(config, autoencoder=replace(config.autoencoder, hidden=0))
    with pytest.raises(UserError, match="--hidden: "):
        check(bad)
    bad = replace(config, critic=replace(config.critic, rounds=0))
    with pytest.raises(UserError, match="--critic.rounds: "):
        check(bad)


def test_fields_that_do_not_fit_each_other_are_named() -> None:
    check(LanguageModelConfig(tied=True))
    with pytest.raises(UserError, match="--tied: expected --embedding equal to --hidden, found 3"):
        check(LanguageModelConfig(tied=True, embedding=3))


def test_an_unknown_field_is_named_with_its_nearest() -> None:
    with pytest.raises(UserError, match="run.json: unknown field 'stepz'.*'steps'"):
        from_json(TrainConfig, {"stepz": 3}, "run.json")


def test_a_field_of_the_wrong_kind_is_named() -> None:
    with pytest.raises(UserError, match="run.json: steps: expected int, found 'many'"):
        from_json(TrainConfig, {"steps": "many"}, "run.json")
    with pytest.raises(UserError, match="kind: expected one of adam, sgd, found 'adm'.*'adam'"):
        from_json(OptimizerConfig, {"kind": "adm"}, "run.json")
    with pytest.raises(UserError, match="expected an object, found list"):
        from_json(TrainConfig, [], "run.json")
    with pytest.raises(UserError, match="run.json: betas: expected a list of 2, found 0.9"):
        from_json(OptimizerConfig, {"betas": 0.9}, "run.json")
    with pytest.raises(UserError, match="run.json: betas: expected float, found 'x'"):
        from_json(OptimizerConfig, {"betas": [0.9, "x"]}, "run.json")
    with pytest.raises(UserError, match="run.json: store: expected Path, found 3"):
        from_json(RunConfig, {"store": 3}, "run.json")


def test_a_required_field_that_is_missing_is_named() -> None:
    known = {"system": "lm", "model": None, "store": "s", "vocab_size": 9, "max_words": 3}
    with pytest.raises(UserError, match="run.json: expected store_digest, found no such field"):
        from_json(RunConfig, known, "run.json")
    whole = from_json(RunConfig, {**known, "store_digest": "d"}, "run.json")
    assert whole.store == Path("s") and whole.tokenizer_digest == ""


def test_differences_are_dotted_names() -> None:
    one = {"train": to_json(TrainConfig()), "system": "lm"}
    other = {"train": to_json(replace(TrainConfig(), seed=3)), "system": "lm"}
    assert differences(one, one) == []
    assert differences(one, other) == ["train.seed"]


def test_the_rate_rises_stays_and_falls() -> None:
    config = OptimizerConfig(lr=1.0, warmup=10, decay=0.5)
    rates = [config.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == 1.0
    assert rates[10:51] == [1.0] * 41
    assert rates[75] == pytest.approx(0.5) and rates[99] == pytest.approx(0.02)
    assert OptimizerConfig(lr=3.0).rate(10**9, 10) == 3.0


def test_the_rate_rises_linearly_then_falls_as_the_inverse_root() -> None:
    config = OptimizerConfig(lr=2.0, warmup=100, inverse_sqrt=True)
    assert [config.rate(step, 10_000) for step in (0, 49, 99, 399, 9_999)] == pytest.approx(
        [0.02, 1.0, 2.0, 1.0, 0.2]
    )
    last = replace(config, decay=0.5)
    assert last.rate(7_499, 10_000) == pytest.approx(config.rate(7_499, 10_000) / 2, rel=1e-3)
