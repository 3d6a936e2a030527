from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lvtrain.config import OptimizerConfig, TrainConfig, differences, from_json, to_json
from lvtrain.errors import UserError
from lvtrain.presets import PRESETS

ALL = [preset for presets in PRESETS.values() for preset in presets.values()]


@pytest.mark.parametrize("preset", ALL)
def test_every_preset_survives_json(preset: tuple[object, TrainConfig]) -> None:
    for config in preset:
        assert from_json(type(config), json.loads(json.dumps(to_json(config))), "x") == config


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
