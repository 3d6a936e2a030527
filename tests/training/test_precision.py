"""Training whose products are rounded."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lvtrain
from lvtrain.errors import UserError
from lvtrain.presets import preset
from lvtrain.training.checkpoint import Checkpoint, latest
from lvtrain.training.precision import products

COMMON: dict[str, Any] = {
    "steps": 6,
    "batch_size": 8,
    "log_every": 1,
    "validate_every": 0,
    "tensorboard": False,
}


def last_figures(run: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"][-1]


def newest(run: Path) -> Checkpoint:
    found = latest(run / "checkpoints")
    assert found is not None
    return found


def train(system: str, model: Any, store: Path, out: Path, **settings: Any) -> dict[str, float]:
    lvtrain.train(system, store, out, model=model, **COMMON, **settings)
    return last_figures(out)


def sgd(model: Any) -> Any:
    return replace(model, optimizer=replace(model.optimizer, kind="sgd", lr=0.1))


SYSTEMS: dict[str, tuple[str, dict[str, Any]]] = {
    "lm": ("lm", {"dropout": 0.2, "layers": 2}),
    "dae": ("dae", {}),
    "vae": ("vae", {}),
    "vae-mixture": ("vae", {"components": 3}),
    "arae": ("arae", {}),
    "arae-alternating": ("arae", {"schedule": "alternating"}),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_bf16_trains_every_system_nearly_as_float32_does(
    name: str, store: Path, tmp_path: Path
) -> None:
    system, changes = SYSTEMS[name]
    model = replace(preset(system, "tiny")[0], **changes)
    exact = train(system, model, store, tmp_path / "fp32")
    rounded = train(system, model, store, tmp_path / "bf16", precision="bf16")
    loss = "cross_entropy" if system == "lm" else "reconstruction"
    assert rounded[loss] == pytest.approx(exact[loss], rel=0.02)
    assert rounded[loss] != exact[loss]
    for tensor in newest(tmp_path / "bf16").tensors("model").values():
        assert tensor.dtype == torch.float32 or not tensor.is_floating_point()


def test_bf16_takes_sparse_gradients_of_words(store: Path, tmp_path: Path) -> None:
    model = sgd(preset("ae", "tiny")[0])
    exact = train("ae", model, store, tmp_path / "fp32")
    rounded = train("ae", model, store, tmp_path / "bf16", precision="bf16")
    assert rounded["reconstruction"] == pytest.approx(exact["reconstruction"], rel=0.02)


def test_a_run_in_bf16_resumes_in_the_same_weights(store: Path, tmp_path: Path) -> None:
    model = preset("arae", "tiny")[0]
    settings = {"precision": "bf16", "checkpoint_every": 3, "keep": 3}
    train("arae", model, store, tmp_path / "whole", **settings)
    halves = tmp_path / "halves"
    shutil.copytree(tmp_path / "whole", halves)
    shutil.rmtree(halves / "checkpoints" / "step-00000006")
    lvtrain.train("arae", store, halves, model=model, resume="auto", **COMMON, **settings)
    for part in ("model", "critic", "generator"):
        ours, theirs = newest(tmp_path / "whole").tensors(part), newest(halves).tensors(part)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_tf32_is_for_what_is_inside_alone() -> None:
    before = torch.get_float32_matmul_precision()
    with products("tf32", "cuda"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before


def test_tf32_without_a_gpu_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--precision tf32: expected a GPU"):
        train("lm", preset("lm", "tiny")[0], store, tmp_path / "run", precision="tf32")
    assert not (tmp_path / "run").exists()
