"""Output folders are complete or absent."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from lvtrain.data.folder import check_space, disk_space, new_folder, resumed_folder, work_folder
from lvtrain.errors import Passing, UserError


def write(out: Path, content: str = "new", overwrite: bool = False) -> None:
    with new_folder(out, known_by="index", overwrite=overwrite) as folder:
        (folder / "index").write_text(content)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_with_all_parents(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b")
    assert names(tmp_path / "a") == ["b"]
    assert (tmp_path / "a" / "b" / "index").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_when_writing_fails(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), new_folder(tmp_path / "out", known_by="index") as folder:
        (folder / "index").write_text("half")
        assert not (tmp_path / "out").exists()
        raise error
    assert names(tmp_path) == []


def test_an_existing_folder_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(UserError, match="exists already"):
        write(out)
    assert (out / "index").read_text() == "old"
    with pytest.raises(RuntimeError), new_folder(out, known_by="index", overwrite=True):
        raise RuntimeError
    assert (out / "index").read_text() == "old"
    write(out, overwrite=True)
    assert (out / "index").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_only_folders_of_its_own_kind_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "file").write_text("text")
    for name in ("thesis", "file"):
        with pytest.raises(UserError, match="not overwritten: expected a folder with index"):
            write(tmp_path / name, overwrite=True)
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "file" / "out")


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys; from lvtrain.data.folder import new_folder\n"
        "with new_folder(pathlib.Path(sys.argv[1]), known_by='index'): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    (left,) = names(tmp_path)
    assert left.startswith(".out.partial-")
    running = tmp_path / left.replace(left.rpartition("-")[2], str(os.getppid()))
    running.mkdir()
    write(tmp_path / "out")
    assert names(tmp_path) == [running.name, "out"]


def leftover(out: Path, process: int, ending: str = "") -> Path:
    """A folder such as a killed process leaves."""
    left = out.with_name(f".{out.name}.partial-{socket.gethostname()}-{process}{ending}")
    left.mkdir()
    (left / "index").write_text("left")
    return left


def test_a_number_that_is_ours_now_was_anothers(tmp_path: Path) -> None:
    # In a container every start may have the number 1.
    leftover(tmp_path / "out", os.getpid())
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["index"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                             check=True, capture_output=True)  # fmt: skip
    dead = int(process.stdout)
    leftover(tmp_path / "out", dead)
    leftover(tmp_path / "out", dead, ".old")
    with pytest.raises(UserError, match="exists already"):
        write(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "index").read_text() == "left"


def test_the_content_behind_a_link_is_replaced_and_the_link_kept(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    write(tmp_path / "elsewhere" / "real", "old")
    link = tmp_path / "out"
    link.symlink_to("elsewhere/real")
    with pytest.raises(UserError, match="exists already"):
        write(link)
    with pytest.raises(RuntimeError), new_folder(link, known_by="index", overwrite=True) as folder:
        assert folder.parent == tmp_path / "elsewhere"  # on the file system of what it replaces
        raise RuntimeError
    assert (link / "index").read_text() == "old"
    write(link, overwrite=True)
    assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "real" / "index").read_text() == "new"
    assert names(tmp_path) == ["elsewhere", "out"]
    assert names(tmp_path / "elsewhere") == ["real"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_links_to_nowhere_are_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name, to in (("dangling", "nowhere"), ("loop", "loop")):
        with pytest.raises(UserError, match=f"{name}: a link to {to}, which does not exist"):
            write(tmp_path / name, overwrite=overwrite)
    assert names(tmp_path) == ["dangling", "loop"]


def test_parents_made_for_nothing_are_removed(tmp_path: Path) -> None:
    (tmp_path / "was_there").mkdir()
    for parent in (tmp_path / "a" / "b", tmp_path / "was_there" / "c"):
        with pytest.raises(RuntimeError), new_folder(parent / "out", known_by="index"):
            raise RuntimeError
    assert names(tmp_path) == ["was_there"]
    assert names(tmp_path / "was_there") == []


def test_a_place_that_cannot_be_written_is_named_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    file = tmp_path / "file"
    with (
        pytest.raises(UserError, match=f"{file}/x/out: cannot be written: {file}/x: Not a direc"),
        new_folder(file / "x" / "out", known_by="index"),
    ):
        pytest.fail("nothing may be done")


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="needs a mount point with a known file")
def test_a_mount_point_is_refused_before_any_work() -> None:
    with (
        pytest.raises(UserError, match="/proc: not overwritten: a mount point"),
        new_folder(Path("/proc"), known_by="version", overwrite=True),
    ):
        pytest.fail("nothing may be done")


def test_overwriting_is_advised_only_where_it_helps(tmp_path: Path) -> None:
    write(tmp_path / "known")
    (tmp_path / "other").mkdir()
    said = {}
    for name, choice in (("known", False), ("known", None), ("other", False)):
        with (
            pytest.raises(UserError) as error,
            new_folder(tmp_path / name, known_by="index", overwrite=choice),
        ):
            pytest.fail("nothing may be done")
        said[name, choice] = "--overwrite" in str(error.value)
    assert said == {("known", False): True, ("known", None): False, ("other", False): False}


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = pytest.raises(Passing, match=f"no space left on device while writing {tmp_path}/.out.")
    with full, new_folder(tmp_path / "out", known_by="index"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(Passing, match="x: file too large"), disk_space(tmp_path):
        raise OSError(errno.EFBIG, "File too large", str(tmp_path / "x"))
    with pytest.raises(PermissionError), disk_space(tmp_path):
        raise PermissionError


def test_a_disk_that_is_too_small_is_told_before_it_is_full(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(Passing, match="no space left on device: .* bytes free, expected more than"):
        check_space(tmp_path, free + 10**10)
    check_space(tmp_path, free // 2)


def test_a_folder_of_the_users_that_has_the_name_of_work_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / ".out.work" / "mine"
    mine.parent.mkdir()
    mine.write_text("precious")
    with (
        pytest.raises(UserError, match=r"expected nothing or a folder of work at .*\.out\.work"),
        resumed_folder(tmp_path / "out", known_by="index", key="k"),
    ):
        pass
    assert mine.read_text() == "precious"


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (UserError("no such column"), False),
        (Passing("no route to host"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (PermissionError("a"), True),
        (MemoryError(), True),
        (KeyError("a"), True),
    ],
    ids=repr,
)
def test_only_a_mistake_of_the_users_ends_work_for_good(
    tmp_path: Path, error: Exception, kept: bool
) -> None:
    with pytest.raises(type(error) if error.__class__ is not OSError else Passing) as caught:  # noqa: SIM117
        with work_folder(tmp_path / "out", "key") as folder:
            folder.parts.mkdir()
            (folder.parts / "half").touch()
            raise error
    assert ("the same command goes on from there" in str(caught.value)) == isinstance(
        caught.value, Passing
    )
    with work_folder(tmp_path / "out", "key") as folder:
        assert (folder.parts / "half").exists() == kept
    assert names(tmp_path) == []


def test_a_lock_that_was_removed_before_it_was_held_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = fcntl.flock, 0

    def ended_meanwhile(file: TextIO, how: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            shutil.rmtree(tmp_path / ".out.work")
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", ended_meanwhile)
    with work_folder(tmp_path / "out", "one") as work:
        assert (work.path / "lock").exists()
        second = work_folder(tmp_path / "out", "two")
        with pytest.raises(UserError, match="another process is writing it"), second:
            pytest.fail("both hold it")
        assert (work.path / "key").read_text() == "one"
    assert calls == 3
    assert names(tmp_path) == []


def test_what_an_interrupted_exchange_moved_away_comes_back_under_the_lock(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with work_folder(out, "other") as work:  # between its two renames
        write(work.path / "result-other.old", "old")
        with pytest.raises(UserError, match="another process"):
            resumed(out)
        assert not out.exists()
        work.path.rename(tmp_path / "left")
    (tmp_path / "left").rename(tmp_path / ".out.work")
    with pytest.raises(UserError, match="exists already"):
        resumed(out)
    assert (out / "index").read_text() == "old"
    assert names(tmp_path / ".out.work") == ["key", "lock"]  # the other may go on
    resumed(out, overwrite=True)
    assert (out / "index").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_work_is_kept_where_another_folder_came_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(Passing, match="exists already"):  # noqa: SIM117
        with resumed_folder(out, known_by="index", key="key", overwrite=False) as work:
            work.parts.mkdir()
            write(work.result, "new")
            write(out, "another's")
    assert (out / "index").read_text() == "another's"
    with resumed_folder(out, known_by="index", key="key", overwrite=True) as work:
        assert (work.result / "index").read_text() == "new"
    assert (out / "index").read_text() == "new"
    assert names(tmp_path) == ["out"]


def resumed(out: Path, overwrite: bool = False) -> None:
    with resumed_folder(out, known_by="index", key="key", overwrite=overwrite) as work:
        work.result.mkdir()
        (work.result / "index").write_text("new")
