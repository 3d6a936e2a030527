"""Checkpoints on any file system of pyarrow or fsspec."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lvtrain.cluster.storage import Storage
from lvtrain.errors import UserError


def content(step: int) -> dict[str, dict[str, Tensor]]:
    return {
        "model": {"module.w": torch.full((30, 4), float(step)), "step": torch.tensor(step)},
        "critic": {"module.b": torch.arange(7) + step},
    }


def commit(storage: Storage, *steps: int, **options: int) -> None:
    for step in steps:
        storage.commit(
            step,
            lambda folder, step=step: {
                f"{part}.safetensors": storage.write_part(folder, part, tensors)
                for part, tensors in content(step).items()
            },
            {"step": step},
            **options,
        )


@pytest.fixture(params=["file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "file":
        return Storage(f"file://{tmp_path}/run")
    return Storage(f"memory://{tmp_path.name}/run")


def test_what_is_committed_is_read_bit_for_bit(storage: Storage) -> None:
    assert storage.latest() is None
    commit(storage, 10)
    found = storage.latest()
    assert found is not None and found.step == 10 and found.meta == {"step": 10}
    assert found.parts == ("critic", "model") and not found.warnings
    for part, tensors in content(10).items():
        read = found.tensors(part)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_the_newest_are_kept_and_those_asked_for(storage: Storage) -> None:
    commit(storage, 1, 2, 3)
    assert sorted(storage.steps()) == [2, 3]
    storage.commit(4, lambda folder: {}, {}, keep_steps=[2])
    assert sorted(storage.steps()) == [2, 3, 4]


def test_a_commit_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}")
    commit(storage, 1)

    def killed(folder: str) -> dict[str, dict[str, int]]:
        storage.write_part(folder, "model", content(2)["model"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        storage.commit(2, killed, {})
    found = storage.latest()
    assert found is not None and found.step == 1
    commit(storage, 2)
    found = storage.latest()
    assert found is not None and found.step == 2


@pytest.mark.parametrize("damage", ["shorter", "other bits", "missing"])
def test_a_damaged_part_sends_the_reader_to_the_one_before(damage: str, tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}")
    commit(storage, 1, 2)
    path = tmp_path / "step-00000002" / "model.safetensors"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        data[-1] ^= 1
        path.write_bytes(data[:-9] if damage == "shorter" else data)
    found = storage.latest()
    assert found is not None and found.step == 1
    assert "step-00000002 is damaged: model.safetensors" in found.warnings[0]
    with pytest.raises(UserError, match="step-00000002: model.safetensors"):
        storage.at(2)


def test_nothing_complete_is_said(tmp_path: Path) -> None:
    storage = Storage(f"file://{tmp_path}")
    commit(storage, 1)
    (tmp_path / "step-00000001" / "manifest.json").unlink()
    with pytest.raises(UserError, match="no complete checkpoint: step-00000001 is damaged"):
        storage.latest()


@pytest.mark.parametrize("uri", ["nowhere", "nosuch://bucket/run"])
def test_an_unknown_file_system_is_refused_in_a_line(uri: str) -> None:
    with pytest.raises(UserError, match=f"--checkpoints {uri}: "):
        Storage(uri)


def test_storage_that_refuses_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        commit(Storage(f"file://{tmp_path}/run"), 1)
