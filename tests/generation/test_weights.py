from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lvtrain.errors import UserError
from lvtrain.generation.weights import check_shapes, read_tensors, replacing, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(7)}


def test_tensors_come_back_and_may_be_read_by_whom_the_umask_says(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    before = os.umask(0o022)
    try:
        write_tensors(path, {"a": TENSORS["a"].t(), "b": TENSORS["b"]})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    found = read_tensors(path)
    assert torch.equal(found["a"], TENSORS["a"].t()) and found["b"].item() == 7
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_whose_writing_fails_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_file_that_is_not_whole_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    path.write_bytes(path.read_bytes()[:-3])
    for bad in (path, tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=str(bad)) as raised:
            read_tensors(bad)
        assert "\n" not in str(raised.value)


def test_a_bit_of_a_tensor_that_changed_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, TENSORS)
    whole = path.read_bytes()
    for place in (-1, -9):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"^{path}: damaged: expected tensors of digest"):
            read_tensors(path)
    save_file(TENSORS, path)  # Of another writer, without a digest.
    assert read_tensors(path).keys() == TENSORS.keys()


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ({"a": (2, 4), "b": ()}, "a: expected 2 × 4, as config.json has it, found 2 × 3$"),
        ({"a": (2, 3), "b": (1,)}, "b: expected 1, as config.json has it, found a single number$"),
        (
            {"a": (2, 3)},
            "b: expected no such tensor, as config.json has it, found a single number$",
        ),
        ({"a": (2, 3), "b": (), "c": (5,)}, "c: expected 5, .*, found no such tensor$"),
        ({"a": (3, 2), "b": (1,)}, "a: .*, and 1 more that do not fit$"),
    ],
)
def test_tensors_that_do_not_fit_are_one_line(expected: dict[str, tuple], said: str) -> None:
    with pytest.raises(UserError, match=f"^x.safetensors: {said}"):
        check_shapes(Path("x.safetensors"), TENSORS, expected)


def test_tensors_that_fit_pass() -> None:
    check_shapes(Path("x"), TENSORS, {"a": (2, 3), "b": ()})
