"""Lines of UTF-8 out of plain and compressed files, in bounded memory."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from lvtrain.data.location import Uri, open_file, unread
from lvtrain.errors import UserError

BLOCK_BYTES: Final = 1 << 20
LINE_LIMIT: Final = 1_000_000
_SEARCHED_BYTES: Final = 1 << 16
READ_AHEAD: Final = 4 << 20
"""Bytes that are asked for at a time of storage that takes long to answer."""
UTF16: Final = (b"\xff\xfe", b"\xfe\xff")


def read_lines(
    path: Path | Uri, codec: str | None, limit: int, piece: int = 0, pieces: int = 1
) -> Iterator[tuple[int, list[str], int]]:
    """Read lines of UTF-8: the number of the first, the lines, the bytes of the file read.

    Of `pieces` pieces of a file that is not compressed, each as long, one has the lines that begin
    in it; lines and bytes are then counted from its start.
    """
    line = 1
    rest: list[bytes] = []
    rest_bytes = read = 0
    for block, read in _blocks(path, codec, piece, pieces):
        zero = block.find(b"\0")
        end = block.rfind(b"\n") + 1
        if zero >= 0:
            found = line + block.count(b"\n", 0, zero)
            utf16 = " (UTF-16?)" if line == 1 and not rest and block.startswith(UTF16) else ""
            raise UserError(
                f"{path}: binary file: line {found} holds a zero byte, expected text{utf16}"
            )
        if not end:
            rest_bytes += len(block)
            if rest_bytes <= limit:
                rest.append(block)  # beyond the limit, only its length is of interest
            continue
        first_end = block.find(b"\n")
        if rest_bytes + first_end > limit:
            raise _too_long(path, line, rest_bytes + first_end, limit)
        texts = _decode(path, line, b"".join([*rest, block[: end - 1]]), limit)
        yield line, texts, read
        line += len(texts)
        rest, rest_bytes = [block[end:]], len(block) - end
    if rest_bytes > limit:
        raise _too_long(path, line, rest_bytes, limit)
    if rest_bytes:
        yield line, _decode(path, line, b"".join(rest), limit), read


def _blocks(
    path: Path | Uri, codec: str | None, piece: int, pieces: int
) -> Iterator[tuple[bytes, int]]:
    """Read a file in blocks, decompressed, with the bytes of it read so far."""
    try:
        with open_file(path) as file:
            size = file.size()
            begin, end = (_line_start(file, size * i // pieces) for i in (piece, piece + 1))
            file.seek(begin)
            stream = file if isinstance(path, Path) else io.BufferedReader(file, READ_AHEAD)
            if codec:
                stream = pa.CompressedInputStream(stream, codec)
            left, start = end - begin, begin == 0
            while block := stream.read(BLOCK_BYTES if codec else min(BLOCK_BYTES, left)):
                left -= len(block)
                if start:
                    block = block.removeprefix(b"\xef\xbb\xbf")
                start = False
                yield block, min(file.tell(), end) - begin
    except OSError as error:
        reason = " ".join(str(error).split())
        if codec and (told := re.search("truncated|inflate|decompress", reason, re.IGNORECASE)):
            broken = "truncated" if told[0].lower() == "truncated" else "corrupt"
            raise UserError(f"{path}: {broken} {codec} file: {reason}") from None
        raise unread(path, error) from None


def _line_start(file: pa.NativeFile, at: int) -> int:
    """Return where the first line begins that begins at a place of a file or after it."""
    if at == 0:
        return 0
    at -= 1
    file.seek(at)
    while block := file.read(_SEARCHED_BYTES):
        if (found := block.find(b"\n")) >= 0:
            return at + found + 1
        at += len(block)
    return at


def _decode(path: Path | Uri, line: int, block: bytes, limit: int) -> list[str]:
    """Decode whole lines at once; look for the line only where something is wrong."""
    try:
        texts = block.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        before = block[: error.start]
        number = line + before.count(b"\n")
        column = error.start - (before.rfind(b"\n") + 1) + 1
        utf16 = line == number == column == 1 and block.startswith(UTF16)
        raise UserError(
            f"{path}: not UTF-8: line {number}, byte {column} is 0x{block[error.start]:02x}"
            + (" (UTF-16?)" if utf16 else "")
        ) from None
    if 4 * max(map(len, texts)) > limit:  # a character has at most four bytes
        for number, text in enumerate(texts, line):
            if (size := len(text.encode())) > limit:
                raise _too_long(path, number, size, limit)
    return texts


def _too_long(path: Path | Uri, line: int, size: int, limit: int) -> UserError:
    return UserError(
        f"{path}: line {line} is {size:,} bytes long, expected at most {limit:,}: "
        "is there a sentence a line?"
    )
