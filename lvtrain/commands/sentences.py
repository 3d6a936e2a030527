"""Sentences that a command is given: as arguments, in files, on standard input."""

from __future__ import annotations

import io
import select
import sys
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO, cast

from lvtrain.errors import UserError

# Seconds without a line after which those that have come are not kept waiting.
_PAUSE = 0.05
# Seconds that a line waits at most for others that come one by one.
_LONGEST = 1.0
# Lines of the first part of a stream; each further one has twice as many.
_FIRST = 64
_BLOCK = 1 << 16


def from_stdin() -> list[str]:
    """The lines of standard input, empty ones included."""
    return [line for part in stdin_parts() for line in part]


def stdin_parts(most: int = sys.maxsize, pauses: bool = False) -> Iterator[list[str]]:
    """The lines of standard input, empty ones included, in parts of `most`; with `pauses`, also
    whatever has come when it pauses, and the first parts of a stream that does not are smaller.

    Of a line that is no text UserError is raised after the lines before it were given.
    """
    size, number = min(_FIRST, most) if pauses else most, 0
    part: list[str] = []
    begun = time.monotonic()
    try:
        for raw in _arriving(pauses):
            if raw is not None:
                number += 1
                part.append(_text(raw, number))
                begun = begun if len(part) > 1 else time.monotonic()
            late = pauses and time.monotonic() - begun > _LONGEST
            if part and (raw is None or late or len(part) == size):
                yield part
                size, part = min(2 * size, most), []
    except (UserError, OSError) as error:
        if part:
            yield part
        if isinstance(error, UserError):
            raise
        raise UserError(f"standard input: {error.strerror}") from None
    if part:
        yield part


def _arriving(pauses: bool) -> Iterator[bytes | None]:
    """The lines of standard input as bytes; with `pauses`, None whenever no more come for now."""
    # Python has no standard input where the shell closed it.
    if not sys.stdin:
        return
    stream, rest, more = cast(io.BufferedReader, sys.stdin.buffer), b"", True
    while more:
        if pauses and not _ready(stream):
            yield None
        # This leaves nothing in Python's own buffer, where the question above would not see it.
        block = stream.read1(_BLOCK)
        more = bool(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _ready(stream: BinaryIO) -> bool:
    """Whether there is something to read, or its end, within a moment."""
    try:
        return bool(select.select([stream], [], [], _PAUSE)[0])
    except (OSError, ValueError):  # nothing that can be waited for: it is read instead
        return True


def _text(raw: bytes, number: int) -> str:
    """A line as text, without the mark that some systems put before the first."""
    if number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    where = f"standard input: line {number}"
    if b"\0" in raw:
        raise UserError(f"{where} holds a zero byte, expected text")
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8: {error.reason}") from None


def group(flag: str, given: Sequence[str]) -> list[str]:
    """The sentences of a flag; `@file` stands for the file's lines, of which empty ones are none.

    Raises UserError where there are none.
    """
    from lvtrain.text.sources import read

    sentences: list[str] = []
    for item in given:
        if item.startswith("@"):
            sentences += [line.text for line in read([item[1:]]) if line.text.split()]
        else:
            sentences.append(item)
    if not sentences:
        raise UserError(f"{flag}: expected at least one sentence, found none")
    return with_words(flag, sentences)


def with_words(where: str, sentences: Sequence[str]) -> list[str]:
    """The sentences; raises UserError where one has no words."""
    if not all(sentence.split() for sentence in sentences):
        raise UserError(f"{where}: expected sentences, found an empty one")
    return list(sentences)
