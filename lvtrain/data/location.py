"""Where data is: a folder of this machine, or one on storage that has a URI, such as
`s3://bucket/store`, `gs://`, `hdfs://` or any other scheme of pyarrow or fsspec.

A `Path` folds the two slashes of a URI into one; here such a path is the URI that it was, and a
`Uri` one that says so.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import suppress
from functools import lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Final

import pyarrow as pa
from pyarrow import ArrowException, fs

from lvtrain.errors import Passing, UserError

OBJECT_STORES: Final = ("s3", "gcs", "abfs")
"""File systems where a file is written whole or not at all, and there are no folders to make."""
_CHUNK: Final = 4 << 20
_URI: Final = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_ROOTED: Final = ("file", "local")
"""Schemes without a host: what follows is a path from the root of this machine."""


class Uri(PurePosixPath):
    """A path that is a URI: files are found and named below it as below a folder."""

    def __str__(self) -> str:
        return uri_of(super().__str__()) or super().__str__()


def place(path: PurePath | str) -> Path | Uri:
    """Return what a path stands for: a path of this machine, or a URI."""
    uri = uri_of(path)
    return Path(path) if uri is None else Uri(foldable(uri))


def uri_of(path: PurePath | str) -> str | None:
    """Return the URI that a path stands for, without a slash at its end; None for a path."""
    match = _URI.match(foldable(str(path)))
    if match is None:
        return None
    scheme, rest = match.groups()
    host, _, below = (rest := rest.rstrip("/")).partition("/")
    if host == ":":
        return f"{scheme}:///{below}"
    return f"{scheme}://{'/' if scheme in _ROOTED else ''}{rest}"


def check_here(path: Path, flag: str = "--out") -> None:
    """Raise UserError for a URI where a path of this machine is wanted, which would have become a
    folder called `s3:` in the current one."""
    if uri_of(path) is not None:
        raise UserError(f"{flag} {place(path)}: expected a path of this machine, found a URI")


def foldable(uri: str) -> str:
    """Return a URI as a `Path` keeps it, which folds slashes: the empty host of `hdfs:///folder`,
    for the name node that is configured, is a colon."""
    return re.sub("^(hdfs|viewfs):///(?=[^/:])", r"\1://:/", uri)


def absolute(path: Path) -> Path:
    """Return a path that stands for the same wherever a process works; a URI does."""
    return path.resolve() if uri_of(path) is None else path


def opened(uri: str, flag: str = "") -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI and the path in it; fsspec's where pyarrow knows no such
    scheme. Raises UserError, which names the flag, where neither does."""
    scheme, colon, path = uri.partition("://")
    try:
        if not colon or "?" in path:  # options, which are for pyarrow to take apart
            return fs.FileSystem.from_uri(uri)
        # What follows the bucket or host is no longer a URI: a space or a % is one.
        host, _, path = path.partition("/")
        system, root = _system(f"{'file' if scheme in _ROOTED else scheme}://{host}/")
        return system, f"{root.rstrip('/')}/{path}".rstrip("/") or "/"
    except (OSError, ArrowException, ValueError) as refusal:
        expected = "" if colon else ", expected one such as s3://bucket/folder or file:///folder"
        raise Passing(f"{flag} {uri}: {said(refusal)}{expected}".lstrip()) from None


@lru_cache(maxsize=16)
def _system(root: str) -> tuple[fs.FileSystem, str]:
    """Return a file system, which keeps its connections, and the path of its root."""
    try:
        return fs.FileSystem.from_uri(root)
    except (OSError, ArrowException, ValueError) as refusal:
        with suppress(ImportError, ValueError, OSError):
            import fsspec

            system, path = fsspec.core.url_to_fs(root)
            handler = fs.FSSpecHandler
            if root.startswith(("http:", "https:")):
                from lvtrain.data.http import Http as handler
            return fs.PyFileSystem(handler(system)), path
        raise refusal


def listed(folder: Uri, recursive: bool = False) -> list[tuple[Uri, fs.FileInfo]]:
    """Return the files below a folder, by name; none where there is no such folder. Raises
    UserError where it cannot be read."""
    system, name = opened(str(folder))
    try:
        chosen = fs.FileSelector(name, recursive=recursive, allow_not_found=True)
        found = [info for info in system.get_file_info(chosen) if info.is_file]
    except (OSError, ArrowException) as error:
        raise unread(folder, error) from None
    start = len(name.strip("/")) + 1
    return sorted((folder / info.path.strip("/")[start:], info) for info in found)


def file_info(path: Uri) -> fs.FileInfo:
    """Return what is known of the file at a URI. Raises UserError where it cannot be read."""
    system, name = opened(str(path))
    try:
        return system.get_file_info(name)
    except (OSError, ArrowException) as error:
        raise unread(path, error) from None


def open_file(path: Path | Uri) -> pa.NativeFile:
    """Open a file to read anywhere in it. Raises OSError."""
    if isinstance(path, Path):
        return pa.OSFile(os.fsencode(path))  # as a text it would have to be UTF-8
    system, name = opened(str(path))
    return system.open_input_file(name)


def put(path: Uri, content: Path | bytes) -> None:
    """Write a file, complete or absent, out of one of this machine or out of memory. Raises OSError
    or ArrowException."""
    system, name = opened(str(path))
    whole = system.type_name in OBJECT_STORES
    folder, _, base = name.rpartition("/")
    if not whole:
        system.create_dir(folder)
    partial = name if whole else f"{folder}/.{base}.partial"
    with (
        pa.BufferReader(content) if isinstance(content, bytes) else open_file(content) as source,
        system.open_output_stream(partial) as file,
    ):
        while block := source.read(_CHUNK):
            file.write(block)
    if not whole:
        if system.type_name != "local":  # not all rename a file to one that is there
            with suppress(FileNotFoundError):
                system.delete_file(name)
        system.move(partial, name)


def is_file(path: Path | Uri) -> bool:
    """Tell whether there is a file of that name."""
    path = place(path)
    if isinstance(path, Path):
        return path.is_file()
    return bool(file_info(path).type == fs.FileType.File)


def read_bytes(path: Path | Uri) -> bytes:
    """Return the content of a file. Raises FileNotFoundError, or UserError for other storage that
    cannot be read."""
    path = place(path)
    if isinstance(path, Path):
        return path.read_bytes()
    system, name = opened(str(path))
    try:
        with system.open_input_stream(name) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except (OSError, ArrowException) as error:
        raise unread(path, error) from None


def unread(path: Path | Uri, error: BaseException) -> UserError:
    """Return the error of a file that cannot be read; the next time it may be, on other storage,
    unless that has no way to."""
    lasting = isinstance(path, Path) or isinstance(error, io.UnsupportedOperation)
    kind = UserError if lasting else Passing
    return kind(f"{path}: cannot be read: {getattr(error, 'strerror', None) or said(error)}")


def said(error: BaseException) -> str:
    """Return the first line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
