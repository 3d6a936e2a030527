"""From the names, folders and globs that a user gives to the files they stand for."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final, NamedTuple

from pyarrow import fs

from lvtrain.data.location import Uri, file_info, listed, uri_of
from lvtrain.errors import UserError, nearest
from lvtrain.text.remote_files import data_files, remote_files

_UNLISTED: Final = ("http:", "https:")
"""Storage whose folders, where they can be listed, say nothing of their files' sizes."""


class Input(NamedTuple):
    """A file as it was found."""

    path: Path | Uri
    bytes: int
    modified: int | None
    """When, in nanoseconds, where that is known."""


def find(patterns: Sequence[str]) -> tuple[Input, ...]:
    """Return the files that names, folders and globs stand for, in the order given.

    Raises UserError for a name without a file and a glob without a match.
    """
    inputs: list[Input] = []
    for pattern in patterns:
        uri = uri_of(pattern)
        if uri is not None:
            inputs += [
                Input(path, _size(path, info), info.mtime_ns) for path, info in remote_files(uri)
            ]
            continue
        try:
            inputs += map(_found, _matches(pattern))
        except OSError as error:
            raise UserError(f"{pattern}: cannot be read: {error.strerror}") from None
    for one in inputs:
        if not one.bytes:
            raise UserError(f"{one.path}: empty file, expected sentences")
    return tuple(inputs)


def check_unchanged(inputs: Sequence[Input]) -> None:
    """Raise UserError for a file that is no longer as it was found."""
    folders: dict[Uri, dict[Uri, fs.FileInfo]] = {}
    for path, size, modified in inputs:
        if isinstance(path, Path):
            try:
                now = path.stat()
            except OSError as error:
                raise UserError(f"{path}: cannot be read any more: {error.strerror}") from None
            found = (now.st_size, now.st_mtime_ns)
        else:
            parent = path.parent
            if path.parts[0] in _UNLISTED:
                info = file_info(path)
            else:
                if parent not in folders:
                    folders[parent] = dict(listed(parent))
                info = folders[parent].get(path)
            if info is None or not info.is_file:
                raise UserError(f"{path}: cannot be read any more: no such file")
            found = (_size(path, info), info.mtime_ns)
        if found != (size, modified):
            raise UserError(
                f"{path}: changed while it was read, from {size:,} bytes to {found[0]:,}: "
                "expected a file that nothing writes to"
            )


def _size(path: Uri, info: fs.FileInfo) -> int:
    if info.size is None:
        raise UserError(f"{path}: cannot be read: the server does not tell its size")
    return int(info.size)


def _found(path: Path) -> Input:
    if not path.is_file():
        raise UserError(f"{path}: not a regular file; it is read more than once")
    found = path.stat()
    return Input(path, found.st_size, found.st_mtime_ns)


def _matches(pattern: str) -> list[Path]:
    """Return the files that one name, folder or glob stands for."""
    if not pattern:
        raise UserError("expected the name of a file, found an empty one")
    path = Path(pattern)
    if path.is_dir():
        return _dataset_files(path)
    if path.exists():
        return [path]
    if path.is_symlink():
        raise UserError(f"{pattern}: a link to {path.readlink()}, which is no file")
    if not glob.has_magic(pattern):
        raise UserError(f"{pattern}: no such file" + _similar(path))
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    files = [match for match in matches if not match.is_dir()]
    if matches and not files:
        raise UserError(f"{pattern}: expected files, only folders match, such as {matches[0]}")
    if not files:
        raise UserError(f"{pattern}: no file matches" + _similar(path))
    return files


def label_names(paths: Sequence[Path | Uri]) -> dict[Path | Uri, str]:
    """Name each file by the parts of its path that the files do not share.

    `train.0.gz` and `train.1.gz` are "0" and "1"; `neg/a.txt` and `pos/a.txt` "neg" and "pos".
    """
    parts = [[part for part in re.split(r"[/\\._-]+", str(path)) if part] for path in paths]
    if len(paths) > 1:
        # Beginnings and ends first: a folder called 0 that all lie in is not the label 0 of one.
        parts = [own[::-1] for own in _unlike(parts)]
        parts = [own[::-1] for own in _unlike(parts)]
        shared = set.intersection(*map(set, parts))
        parts = [[part for part in own if part not in shared] for own in parts]
    names = {path: ".".join(own) or path.name for path, own in zip(paths, parts, strict=True)}
    if len(set(names.values())) < len(names):
        names = {path: str(path) for path in paths}
    # Names of files are bytes; what of them is not UTF-8 is spelt out.
    return {path: name.encode(errors="backslashreplace").decode() for path, name in names.items()}


def _unlike(parts: list[list[str]]) -> list[list[str]]:
    """Leave out what all begin with."""
    alike = sum(1 for _ in takewhile(lambda at: len(set(at)) == 1, zip(*parts, strict=False)))
    return [own[alike:] for own in parts]


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
        state = (folder / "state.json").read_bytes()
        files = [folder / name for name in data_files(folder, state)]
    except (OSError, ValueError, KeyError, TypeError):
        files = sorted(folder.glob("*.arrow"))
    if not files:
        splits = sorted(path.parent.name for path in folder.glob("*/*.arrow"))
        hint = f": name a split, {' or '.join(dict.fromkeys(splits))}" if splits else ""
        if not hint and any(folder.iterdir()):
            hint = f": name its files, as {folder / '*'}"
        raise UserError(
            f"{folder}: a folder without Arrow files, expected files or a dataset{hint}"
        )
    for file in files:
        if not file.exists():
            raise UserError(f"{file}: no such file, expected as state.json names it")
    return files
