"""Files of a web server, which fsspec takes for absent whatever hinders it from asking for them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
import pyarrow as pa
from pyarrow import fs

ABSENT: Final = (404, 410)
"""What a server answers for a file that it has not."""


class Http(fs.FSSpecHandler):
    """fsspec's web servers for pyarrow: where one cannot be reached, or refuses, that is an
    OSError, and where it cannot send a part of a file, io.UnsupportedOperation."""

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        infos = super().get_file_info(paths)
        for info in infos:
            if info.type == fs.FileType.NotFound:
                self._check_absent(info.path)
        return infos

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        with _told():
            infos: list[fs.FileInfo] = super().get_file_info_selector(selector)
        if not infos:
            self._check_absent(selector.base_dir)
        return infos

    def open_input_stream(self, path: str) -> pa.PythonFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pa.PythonFile:
        with _told():
            return pa.PythonFile(_Told(self.fs.open(path, mode="rb")), mode="r")

    def open_output_stream(self, path: str, metadata: Any) -> pa.PythonFile:
        raise io.UnsupportedOperation("a web server takes no files")

    def _check_absent(self, path: str) -> None:
        """Raise OSError if a file is not absent, but could not be asked for."""
        try:
            with _told():
                self.fs.info(path)
        except FileNotFoundError:
            return


class _Told:
    """A file whose errors are told as those of asking for it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, *size: int) -> bytes:
        with _told():
            return bytes(self._file.read(*size))

    def seek(self, *place: int) -> int:
        with _told():
            return int(self._file.seek(*place))


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        if error.__cause__ is None or getattr(error.__cause__, "status", None) in ABSENT:
            raise
        raise OSError(_reason(error.__cause__)) from None
    except (aiohttp.ClientError, OSError) as error:
        raise OSError(_reason(error)) from None
    except ValueError:
        raise io.UnsupportedOperation(
            "no file, or the server sends no part of one by itself: expected one that answers "
            "range requests"
        ) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the server answers {error.status} {error.message}".rstrip()
    if isinstance(error, aiohttp.ClientConnectorError):
        # asyncio says where that was, not why.
        number = error.errno if isinstance(error.os_error, ConnectionError) else None
        reason = os.strerror(number) if number else error.strerror
        return f"the server cannot be reached: {reason or error}"
    return str(error) or type(error).__name__
