"""Output folders are complete or absent."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lvtrain.data.folder import disk_space, new_folder
from lvtrain.errors import UserError


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


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no space left on device"), disk_space(tmp_path, 10):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(UserError, match=r"expected more than 1,0{3}"), disk_space(tmp_path, 10**18):
        pass
    with pytest.raises(PermissionError), disk_space(tmp_path, 10):
        raise PermissionError
