"""From the names, folders and globs that a user gives to the files they stand for."""

from __future__ import annotations

import glob
import json
import re
from collections.abc import Sequence
from pathlib import Path

from lvtrain.errors import UserError, nearest


def find(patterns: Sequence[str]) -> tuple[Path, ...]:
    """Return the files that names, folders and globs stand for, in the order given.

    Raises UserError for a name without a file and a glob without a match.
    """
    paths: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            paths += _dataset_files(path)
        elif path.exists():
            paths.append(path)
        elif glob.has_magic(pattern):
            matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
            files = [Path(match) for match in matches if not Path(match).is_dir()]
            if not files:
                raise UserError(f"{pattern}: no file matches" + _similar(path))
            paths += files
        else:
            raise UserError(f"{pattern}: no such file" + _similar(path))
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: not a regular file; it is read more than once")
        if path.stat().st_size == 0:
            raise UserError(f"{path}: empty file, expected sentences")
    return tuple(paths)


def label_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name each file by the parts of its path that the files do not share.

    `train.0.gz` and `train.1.gz` are "0" and "1"; `neg/a.txt` and `pos/a.txt` "neg" and "pos".
    """
    parts = [[part for part in re.split(r"[/\\._-]+", str(path)) if part] for path in paths]
    if len(paths) > 1:
        shared = set.intersection(*map(set, parts))
        parts = [[part for part in own if part not in shared] for own in parts]
    names = {path: ".".join(own) or path.name for path, own in zip(paths, parts, strict=True)}
    if len(set(names.values())) < len(names):
        return {path: str(path) for path in paths}
    return names


def _similar(path: Path) -> str:
    """Name the file most like a missing one, in the folder where it was looked for."""
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        path, folder = folder, folder.parent
    close = nearest(path.name, [entry.name for entry in folder.iterdir()])
    return close or (f" in {folder}" if str(folder) != "." else "")


def _dataset_files(folder: Path) -> list[Path]:
    """Return the Arrow files of a folder that Hugging Face `save_to_disk` wrote, in order."""
    try:
        state = json.loads((folder / "state.json").read_text("utf-8"))
        return [folder / entry["filename"] for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        files = sorted(folder.glob("*.arrow"))
    if not files:
        splits = sorted(path.parent.name for path in folder.glob("*/*.arrow"))
        hint = f": name a split, {' or '.join(dict.fromkeys(splits))}" if splits else ""
        raise UserError(
            f"{folder}: a folder without Arrow files, expected files or a dataset{hint}"
        )
    return files
