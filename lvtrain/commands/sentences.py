"""Sentences that a command is given: as arguments, in files, on standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from lvtrain.errors import UserError


def from_stdin() -> list[str]:
    """The lines of standard input, empty ones included."""
    return list(stdin_lines())


def stdin_lines() -> Iterator[str]:
    """The lines of standard input, empty ones included, as they come."""
    # Python has no standard input where the shell closed it.
    stream = sys.stdin.buffer if sys.stdin else ()
    read = 0
    try:
        for line in stream:
            read += 1
            yield line.decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: line {read}: not UTF-8: {error.reason}") from None
    except OSError as error:
        raise UserError(f"standard input: {error.strerror}") from None


def group(flag: str, given: Sequence[str]) -> list[str]:
    """The sentences of a flag; `@file` stands for the file's lines, of which empty ones are none.

    Raises UserError where there are none.
    """
    from lvtrain.data.sources import read

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
