"""Where data is: a folder of this machine, or one on storage that has a URI, such as
`s3://bucket/store`, `gs://`, `hdfs://` or any other scheme of pyarrow or fsspec.

A `Path` folds the two slashes of a URI into one; here such a path is the URI that it was.
"""

from __future__ import annotations

import re
from pathlib import Path

from pyarrow import ArrowException, fs

from lvtrain.errors import UserError


def uri_of(path: Path | str) -> str | None:
    """Return the URI that a path stands for, without a slash at its end; None for a path."""
    match = re.match(r"([a-z][a-z0-9+.-]+):/+(.*)", str(path))
    if match is None:
        return None
    scheme, rest = match.groups()
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest.rstrip('/')}"


def absolute(path: Path) -> Path:
    """Return a path that stands for the same wherever a process works; a URI does."""
    return path.resolve() if uri_of(path) is None else path


def opened(uri: str, flag: str = "") -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI and the path in it; fsspec's where pyarrow knows no such
    scheme. Raises UserError, which names the flag, where neither does."""
    try:
        return fs.FileSystem.from_uri(uri)
    except (OSError, ArrowException, ValueError) as refusal:
        scheme, colon, path = uri.partition("://")
        try:
            import fsspec

            return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme))), path
        except (ImportError, ValueError, OSError):
            pass
        expected = "" if colon else ", expected one such as s3://bucket/folder or file:///folder"
        raise UserError(f"{flag} {uri}: {said(refusal)}{expected}".lstrip()) from None


def is_file(path: Path) -> bool:
    """Tell whether there is a file of that name."""
    uri = uri_of(path)
    if uri is None:
        return path.is_file()
    system, name = opened(uri)
    try:
        return system.get_file_info(name).type == fs.FileType.File
    except (OSError, ArrowException) as error:
        raise UserError(f"{uri}: cannot be read: {said(error)}") from None


def read_bytes(path: Path) -> bytes:
    """Return the content of a file. Raises FileNotFoundError, or UserError for other storage that
    cannot be read."""
    uri = uri_of(path)
    if uri is None:
        return path.read_bytes()
    system, name = opened(uri)
    try:
        with system.open_input_stream(name) as file:
            return file.read()
    except FileNotFoundError:
        raise
    except (OSError, ArrowException) as error:
        raise UserError(f"{uri}: cannot be read: {said(error)}") from None


def said(error: BaseException) -> str:
    """Return the first line of what an error says."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
