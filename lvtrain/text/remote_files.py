"""From the names, folders and globs of other storage to the files that they stand for."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pyarrow import fs

from lvtrain.data.location import Uri, file_info, listed, place, read_bytes
from lvtrain.errors import UserError

Found = tuple[Uri, fs.FileInfo]


def remote_files(pattern: str) -> list[Found]:
    """Return the files that the URI of a file, a dataset's folder, or a glob, stands for, by name.

    Raises UserError for one without a file, or that cannot be read.
    """
    # The folders of a web server, where they can be listed, say nothing of their files' sizes.
    return [
        (path, info if info.size is not None else file_info(path))
        for path, info in _matches(pattern)
    ]


def _matches(pattern: str) -> list[Found]:
    parts = place(pattern).parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    if first < 2:
        raise UserError(f"{pattern}: expected a bucket or host, found a pattern")
    folder, rest = Uri(*parts[:first]), parts[first:]
    if not rest:
        return _named(folder)
    recursive = len(rest) > 1 or "**" in rest
    found = [one for one in listed(folder, recursive) if _match(one[0].parts[first:], rest)]
    if not found:
        raise UserError(f"{pattern}: no file matches")
    return found


def data_files(folder: Path | Uri, state: bytes) -> list[str]:
    """Return the names of the Arrow files of a dataset out of its state.json. Raises ValueError,
    KeyError or TypeError for anything else, UserError where there are none."""
    names = [entry["filename"] for entry in json.loads(state)["_data_files"]]
    if not names:
        raise UserError(f"{folder}: a dataset without rows, expected sentences")
    return names


def _named(path: Uri) -> list[Found]:
    """Return a file, or the Arrow files of a folder that Hugging Face `save_to_disk` wrote."""
    info = file_info(path)
    if info.is_file:
        return [(path, info)]
    if info.type == fs.FileType.NotFound:
        raise UserError(f"{path}: no such file")
    there = {file.name: (file, info) for file, info in listed(path)}
    try:
        names = data_files(path, read_bytes(path / "state.json"))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        names = [name for name in there if name.endswith(".arrow")]
    if not names:
        raise UserError(
            f"{path}: a folder without Arrow files, expected files or a dataset: name its files, "
            f"as {path / '*'}"
        )
    for missing in set(names).difference(there):
        raise UserError(f"{path / missing}: no such file, expected as state.json names it")
    return [there[name] for name in names]


def _match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Tell whether parts of a path match those of a glob, as those of this machine do."""
    if not patterns:
        return not parts
    first, *rest = patterns
    if first == "**" and _match(parts, rest):
        return True
    if not parts or (parts[0].startswith(".") and not first.startswith(".")):
        return False
    if first == "**":
        return _match(parts[1:], patterns)
    return fnmatchcase(parts[0], first) and _match(parts[1:], rest)
