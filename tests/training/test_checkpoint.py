from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lvtrain.errors import UserError
from lvtrain.training import checkpoint
from lvtrain.training.parts import digest, parts

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def content(step: int) -> dict[str, dict[str, Tensor]]:
    """Parts whose every value follows from the step."""
    return {
        "model": {"weight": torch.full((300, 40), float(step)), "step": torch.tensor(step)},
        "critic": {"bias": torch.arange(7) + step},
    }


def commit(folder: Path, *steps: int, **options: object) -> None:
    for step in steps:
        checkpoint.commit(folder, step, parts(content(step)), {"step": step}, **options)  # type: ignore[arg-type]


def assert_holds(found: checkpoint.Checkpoint | None, step: int) -> None:
    assert found is not None
    assert (found.step, found.meta, found.parts) == (step, {"step": step}, ("critic", "model"))
    for part, tensors in content(step).items():
        loaded = found.tensors(part)
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@st.composite
def named_tensors(draw: st.DrawFn) -> dict[str, Tensor]:
    tensors = {}
    for name in draw(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=5)):
        shape = draw(st.lists(st.integers(0, 4), max_size=3))
        dtype = draw(st.sampled_from(DTYPES))
        count = torch.Size(shape).numel() * torch.empty(0, dtype=dtype).element_size()
        data = draw(st.binary(min_size=count, max_size=count))
        if dtype == torch.bool:
            data = bytes(byte & 1 for byte in data)
        raw = torch.tensor(list(data), dtype=torch.uint8)
        tensors[name] = raw.view(dtype).reshape(shape)
    return tensors


@given(named_tensors())
@settings(max_examples=60, deadline=None)
def test_any_tensors_come_back_bitwise(tmp_path_factory: pytest.TempPathFactory, tensors) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoint.commit(folder, 1, parts({"model": tensors}), {})
    found = checkpoint.latest(folder)
    assert found is not None
    loaded = found.tensors("model")
    assert digest(loaded) == digest(tensors)
    assert {name: tensor.shape for name, tensor in loaded.items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    shutil.rmtree(folder)


def test_tied_and_strided_tensors_come_back_equal(tmp_path: Path) -> None:
    weight = torch.randn(4, 6)
    tensors = {"a": weight, "tied": weight, "transposed": weight.T, "row": weight[1]}
    checkpoint.commit(tmp_path, 1, parts({"model": tensors}), {})
    found = checkpoint.latest(tmp_path)
    assert found is not None
    loaded = found.tensors("model")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_gradients_and_meta_with_infinity_are_no_hindrance(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    meta = {"best": {"value": float("inf"), "step": None}, "name": "café"}
    checkpoint.commit(tmp_path, 1, parts({"model": {"weight": weight}}), meta)
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.meta == meta


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": torch.tensor([[0.0, 0, 0], [0, 0, -0.0]])},
        {},
    ],
    ids=["name", "shape", "dtype", "one-bit", "absence"],
)
def test_digest_sees(other: dict[str, Tensor]) -> None:
    assert digest(other) != digest({"a": torch.zeros(2, 3)})


def test_digest_ignores_insertion_order_and_strides() -> None:
    a, b = torch.randn(3, 4), torch.tensor(True)
    assert digest({"a": a, "b": b}) == digest({"b": b, "a": a.T.clone().T})


def test_digest_is_what_it_says() -> None:
    tensors = {"b": torch.arange(3), "a": torch.tensor(1.5)}
    said = (
        b"a\0F32\0()\0" + struct.pack("<f", 1.5) + b"b\0I64\0(3,)\0" + struct.pack("<3q", 0, 1, 2)
    )
    assert digest(tensors) == hashlib.sha256(said).hexdigest()


def test_nothing_committed_is_none(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "absent") is None
    assert checkpoint.latest(tmp_path) is None


def test_the_newest_two_are_kept_and_the_best(tmp_path: Path) -> None:
    commit(tmp_path, 100, 200, 300, 400, 500, keep_steps=[200])
    assert names(tmp_path) == ["LATEST", "step-00000200", "step-00000400", "step-00000500"]
    assert (tmp_path / "LATEST").read_text() == "step-00000500\n"
    assert_holds(checkpoint.latest(tmp_path), 500)
    assert_holds(checkpoint.at(tmp_path, 200), 200)
    assert checkpoint.steps(tmp_path) == [200, 400, 500]


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    checkpoint.replace_file(path, b"old")
    with path.open("rb") as file:
        checkpoint.replace_file(path, b"new")
        assert file.read() == b"old"
    assert path.read_bytes() == b"new" and names(tmp_path) == ["config.json"]
    with pytest.raises(TypeError):
        checkpoint.replace_file(path, "no bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"new" and names(tmp_path) == ["config.json"]


def test_keep_says_how_many_but_never_fewer_than_two(tmp_path: Path) -> None:
    commit(tmp_path, 1, 2, 3, 4, keep=3)
    assert checkpoint.steps(tmp_path) == [2, 3, 4]
    commit(tmp_path, 5, keep=1)
    assert checkpoint.steps(tmp_path) == [4, 5]


def test_a_damaged_one_does_not_count_as_kept(tmp_path: Path) -> None:
    commit(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / "model.safetensors").unlink()
    commit(tmp_path, 3)
    assert checkpoint.steps(tmp_path) == [1, 3]


def test_resuming_from_an_older_step_abandons_the_newer_ones(tmp_path: Path) -> None:
    commit(tmp_path, 400, 500, 600, keep=3)
    commit(tmp_path, 450)
    assert checkpoint.steps(tmp_path) == [400, 450]
    assert_holds(checkpoint.latest(tmp_path), 450)


def test_committing_a_step_again_replaces_it(tmp_path: Path) -> None:
    commit(tmp_path, 1, 2)
    checkpoint.commit(tmp_path, 2, parts({"model": {"weight": torch.ones(3)}}), {"again": True})
    found = checkpoint.latest(tmp_path)
    assert found is not None and found.meta == {"again": True} and found.parts == ("model",)
    assert names(tmp_path) == ["LATEST", "step-00000001", "step-00000002"]


def test_a_kill_between_the_renames_of_a_replacement_loses_nothing(tmp_path: Path) -> None:
    commit(tmp_path, 1)
    (tmp_path / "step-00000001").rename(tmp_path / ".replaced-step-00000001")
    assert_holds(checkpoint.latest(tmp_path), 1)
    commit(tmp_path, 2)
    assert names(tmp_path) == ["LATEST", "step-00000001", "step-00000002"]
    assert_holds(checkpoint.at(tmp_path, 1), 1)


def test_leftovers_of_a_killed_process_go_at_the_next_commit(tmp_path: Path) -> None:
    commit(tmp_path, 1)
    for name in [".writing-step-00000002", ".writing-step-00000003", ".discarded-step-00000000"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    assert_holds(checkpoint.latest(tmp_path), 1)
    commit(tmp_path, 2)
    assert names(tmp_path) == ["LATEST", "step-00000001", "step-00000002"]


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


DAMAGES = {
    "model.safetensors: SHA-256 differs": lambda folder: flip_a_bit(folder / "model.safetensors"),
    "model.safetensors: 48143 bytes, expected 48144": truncate,
    "critic.safetensors is missing": lambda folder: (folder / "critic.safetensors").unlink(),
    "meta.json: SHA-256 differs": lambda folder: flip_a_bit(folder / "meta.json"),
    "manifest.json is missing": lambda folder: (folder / "manifest.json").unlink(),
    "manifest.json cannot be read": lambda folder: (folder / "manifest.json").write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_named_and_passed_over(tmp_path: Path, damage: str) -> None:
    commit(tmp_path, 400, 500)
    DAMAGES[damage](tmp_path / "step-00000500")
    found = checkpoint.latest(tmp_path)
    assert_holds(found, 400)
    assert found is not None
    assert found.warnings == (f"step-00000500 is damaged: {damage}; using step-00000400",)
    with pytest.raises(UserError, match="step-00000500 is damaged"):
        checkpoint.at(tmp_path, 500)
    commit(tmp_path, 500)
    found = checkpoint.latest(tmp_path)
    assert_holds(found, 500)
    assert found is not None and found.warnings == ()


def test_a_foreign_step_or_format_is_damage(tmp_path: Path) -> None:
    commit(tmp_path, 1)
    (tmp_path / "step-00000001").rename(tmp_path / "step-00000002")
    with pytest.raises(UserError, match=r"step-00000002 is damaged: manifest.json: of step 1"):
        checkpoint.latest(tmp_path)
    manifest = tmp_path / "step-00000002" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 9, "step": 2}))
    with pytest.raises(UserError, match="format 9, expected 1"):
        checkpoint.latest(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "LATEST reads '', not a checkpoint; using step-00000500"),
        ("step-00000700\n", "step-00000700 is named by LATEST but missing; using step-00000500"),
        (None, "LATEST is missing; using step-00000500"),
    ],
    ids=["empty", "of-a-missing-step", "missing"],
)
def test_without_a_usable_latest_the_newest_is_used(tmp_path: Path, text, said: str) -> None:
    commit(tmp_path, 400, 500)
    (tmp_path / "LATEST").unlink() if text is None else (tmp_path / "LATEST").write_text(text)
    found = checkpoint.latest(tmp_path)
    assert_holds(found, 500)
    assert found is not None and found.warnings == (said,)


def test_latest_rules_over_a_newer_step_that_was_not_announced(tmp_path: Path) -> None:
    commit(tmp_path, 400, 500)
    (tmp_path / "LATEST").write_text("step-00000400\n")
    assert_holds(checkpoint.latest(tmp_path), 400)


def test_when_none_is_complete_every_one_is_named(tmp_path: Path) -> None:
    commit(tmp_path, 1, 2)
    flip_a_bit(tmp_path / "step-00000001" / "model.safetensors")
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    with pytest.raises(UserError) as caught:
        checkpoint.latest(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: no complete checkpoint: step-00000002 is damaged: manifest.json is missing; "
        "step-00000001 is damaged: model.safetensors: SHA-256 differs"
    )


def test_a_wrong_step_or_part_is_answered_with_those_there(tmp_path: Path) -> None:
    commit(tmp_path, 1, 2)
    with pytest.raises(UserError, match="no checkpoint of step 7; there are: 1, 2"):
        checkpoint.at(tmp_path, 7)
    with pytest.raises(UserError, match="no part 'modle'; there are critic, model"):
        checkpoint.at(tmp_path, 2).tensors("modle")


def test_a_part_that_would_leave_the_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be a file name"):
        checkpoint.commit(tmp_path, 1, parts({"../model": {}}), {})


def test_storage_that_refuses_is_one_line_and_harms_nothing(tmp_path: Path) -> None:
    commit(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError) as caught:
            commit(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == (
        f"file too large while writing {tmp_path / 'step-00000002'}; "
        "the last complete checkpoint is step 1"
    )
    assert names(tmp_path) == ["LATEST", "step-00000001"]
    assert_holds(checkpoint.latest(tmp_path), 1)


FILL = """
import sys
from pathlib import Path
import torch
from lvtrain.errors import UserError
from lvtrain.training import checkpoint
from lvtrain.training.parts import parts

folder = Path(sys.argv[1]) / "checkpoints"
try:
    for step in range(1, 5):
        weight = torch.full((90_000,), float(step))
        checkpoint.commit(folder, step, parts({"model": {"weight": weight}}), {}, keep=9)
except UserError as error:
    print(error)
print(sorted(path.name for path in folder.iterdir()))
print(checkpoint.latest(folder).tensors("model")["weight"][0].item())
"""


def test_full_storage_is_one_line_and_harms_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    within = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=1M none {disk}"
    if (
        not shutil.which("unshare")
        or subprocess.run([*within, mount], capture_output=True).returncode
    ):
        pytest.skip("a small file system needs a user namespace")
    script = f'{mount} && exec {sys.executable} -c "$0" {disk}'
    done = subprocess.run([*within, script, FILL], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == [
        f"no space left on device while writing {disk}/checkpoints/step-00000003; "
        "the last complete checkpoint is step 2",
        "['LATEST', 'step-00000001', 'step-00000002']",
        "2.0",
    ], done.stderr


# Imports once, then forks for every kill. Its input is lines "MODE FOLDER NUMBER"; a fork commits
# step after step and is killed NUMBER seconds after the first two, or commits once and kills itself
# at its file operation NUMBER. The answer to each line is the signal that ended the fork.
VICTIM = """
import os, signal, sys, time
from pathlib import Path
import torch
from lvtrain.training import checkpoint
from lvtrain.training.parts import parts

torch.set_num_threads(1)

def commit(folder, step):
    model = {"weight": torch.full((300, 40), float(step)), "step": torch.tensor(step)}
    critic = {"bias": torch.arange(7) + step}
    write = parts({"model": model, "critic": critic})
    checkpoint.commit(folder, step, write, {"step": step})

def commit_on_and_on(folder, begun):
    step = checkpoint.latest(folder).step
    commit(folder, step)  # again, as a replay after a resume does
    commit(folder, step + 1)
    os.write(begun, b"!")
    while True:
        step += 1
        commit(folder, step)
        commit(folder, step + 1)

def die_at(number):
    seen = 0
    def hook(event, arguments):
        nonlocal seen
        seen += event == "open" or event.startswith(("os.", "shutil."))
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)

for line in sys.stdin:
    mode, folder, number = line.split()
    begun, begin = os.pipe()
    child = os.fork()
    if child == 0:
        if mode == "seconds":
            commit_on_and_on(Path(folder), begin)
        step = checkpoint.latest(Path(folder)).step + (mode == "operation")
        die_at(int(number))
        commit(Path(folder), step)
        os._exit(0)
    if mode == "seconds":
        os.read(begun, 1)
        time.sleep(float(number))
        os.kill(child, signal.SIGKILL)
    os.close(begun)
    os.close(begin)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def kill() -> Iterator[Callable[[str, Path, float], int]]:
    """Commit in another process and kill it; gives the signal that ended it, 0 for none."""
    process = subprocess.Popen(
        [sys.executable, "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    asked, answered = process.stdin, process.stdout

    def kill(mode: str, folder: Path, number: float) -> int:
        print(mode, folder, number, file=asked, flush=True)
        return int(answered.readline())

    with process:
        yield kill


def test_sigkill_at_random_moments_leaves_a_checkpoint_to_resume_from(tmp_path, kill) -> None:
    commit(tmp_path, 0)
    draw = random.Random(0)
    before = 0
    for _ in range(10):
        assert kill("seconds", tmp_path, draw.uniform(0.0, 0.1)) == signal.SIGKILL
        found = checkpoint.latest(tmp_path)
        assert found is not None and found.step > before
        assert_holds(found, found.step)
        assert found.warnings == ()
        before = found.step
    commit(tmp_path, before + 1)
    assert len(names(tmp_path)) == 3


@pytest.mark.parametrize("mode", ["operation", "operation-of-a-replacement"])
def test_sigkill_at_every_file_operation_leaves_a_checkpoint(tmp_path, kill, mode: str) -> None:
    commit(tmp_path / "before", 1, 2, 3)
    number, ended = 0, signal.SIGKILL
    after = set()
    while ended == signal.SIGKILL:
        number += 1
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "before", folder)
        ended = kill(mode, folder, number)
        found = checkpoint.latest(folder)
        assert found is not None
        assert_holds(found, found.step)
        assert found.warnings == ()
        after.add(found.step)
        if number % 4 == 0:
            commit(folder, 4)
            assert names(folder) == ["LATEST", "step-00000003", "step-00000004"]
        shutil.rmtree(folder)
    assert number > 20
    assert after == ({3, 4} if mode == "operation" else {3})
