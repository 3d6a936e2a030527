"""`lvtrain grammar`: sentences of the embedded grammar, as many as asked for."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from lvtrain.commands.parse import parse


@dataclass(frozen=True, kw_only=True)
class GrammarArguments:
    """Write sentences of the embedded grammar: text without a download, whose every sentence's
    probability is known."""

    num: int = 10
    """Sentences to write."""
    seed: int = 0
    """The same seed gives the same sentences."""
    out: Path | None = None
    """A file to write; standard output unless told."""
    translations: Path | None = None
    """A file for a translation of each sentence into the second language."""
    labels: Path | None = None
    """A file for the style of each sentence."""


def run(argv: list[str]) -> int:
    arguments = parse(GrammarArguments, argv, "grammar", "lvtrain grammar --num 50000 --out text")

    from lvtrain.data.grammar import Grammar
    from lvtrain.errors import UserError

    if arguments.num < 1:
        raise UserError(f"grammar: --num: expected at least 1, found {arguments.num}")
    if arguments.seed < 0:
        raise UserError(f"grammar: --seed: expected 0 or more, found {arguments.seed}")
    paths = {
        flag: path
        for flag, path in (
            ("--out", arguments.out),
            ("--translations", arguments.translations),
            ("--labels", arguments.labels),
        )
        if path
    }
    for flag, path in paths.items():
        if path.is_dir():
            raise UserError(f"grammar: {flag} {path}: expected a file, found a folder")
        first = next(name for name, other in paths.items() if other == path)
        if first != flag:
            raise UserError(f"grammar: {flag} {path}: expected a file of its own, found {first}'s")
    with contextlib.ExitStack() as stack:
        files = {flag: stack.enter_context(_new_file(path)) for flag, path in paths.items()}
        grammar = Grammar()
        sentences = grammar.sample(arguments.num, arguments.seed)
        _write(files.get("--out", sys.stdout), sentences)
        if file := files.get("--translations"):
            _write(
                file, (grammar.translate(s, arguments.seed + i) for i, s in enumerate(sentences))
            )
        if file := files.get("--labels"):
            _write(file, (str(grammar.style_of(s)) for s in sentences))
    return 0


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """Open a hidden file beside `path` and rename it to `path` in the end; what is no regular file,
    such as a pipe, is written as it is."""
    from lvtrain.errors import UserError

    target = Path(os.path.realpath(path))
    device = target.exists() and not target.is_file()
    partial = target if device else target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        if not partial.parent.exists():
            partial.parent.mkdir(parents=True)
        file = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with file:
            yield file
        if not device:
            partial.replace(target)
    finally:
        if not device:
            partial.unlink(missing_ok=True)


def _write(file: TextIO, lines: Iterable[str]) -> None:
    file.writelines(f"{line}\n" for line in lines)
