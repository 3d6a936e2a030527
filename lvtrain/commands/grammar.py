"""`lvtrain grammar`: sentences of the embedded grammar, as many as asked for."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from lvtrain.commands.parse import parse

WORD_BYTES: Final = 4
"""Fewer than a word takes on average, with what parts it from the next; a sentence has three or
more."""


@dataclass(frozen=True, kw_only=True)
class GrammarArguments:
    """Write sentences of the embedded grammar: text without a download, whose every sentence's
    probability is known."""

    num: int | None = None
    """Sentences to write; 10 unless told."""
    words: float | None = None
    """Words to write instead, such as 1e9: the fewest whole sentences that have so many."""
    start: int = 0
    """Number of the first sentence, so that many processes can each write a part of one text."""
    seed: int = 0
    """The same seed gives the same sentences."""
    out: Path | None = None
    """A file to write, in place of what it held; standard output unless told."""
    translations: Path | None = None
    """A file for a translation of each sentence into the second language, written as --out is."""
    labels: Path | None = None
    """A file for the style of each sentence, written as --out is."""


def run(argv: list[str]) -> int:
    arguments = parse(GrammarArguments, argv, "grammar", "lvtrain grammar --words 1e6 --out text")

    from lvtrain.commands.progress import shown
    from lvtrain.data.folder import disk_space
    from lvtrain.errors import UserError
    from lvtrain.grammar.grammar import Grammar

    num, words = arguments.num, arguments.words
    if num is not None and words is not None:
        raise UserError("grammar: expected one of --num and --words, found both")
    if num is not None and num < 1:
        raise UserError(f"grammar: --num: expected at least 1, found {num}")
    if words is not None and not (words >= 1 and words.is_integer()):
        raise UserError(f"grammar: --words: expected a whole number, 1 or more, found {words:g}")
    if arguments.start < 0:
        raise UserError(f"grammar: --start: expected 0 or more, found {arguments.start}")
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
    if paths:
        from lvtrain.data.location import check_here  # takes long
    for flag, path in paths.items():
        check_here(path, f"grammar: {flag}")
        if path.is_dir():
            raise UserError(f"grammar: {flag} {path}: expected a file, found a folder")
        first = next(name for name, other in paths.items() if other == path)
        if first != flag:
            raise UserError(f"grammar: {flag} {path}: expected a file of its own, found {first}'s")
    with contextlib.ExitStack() as stack:
        total = int(words) if words is not None else num or 10
        for flag, path in paths.items():
            _check_space(flag, path, total, of_words=words is not None)
        files = {flag: stack.enter_context(_new_file(path)) for flag, path in paths.items()}
        progress = stack.enter_context(shown())
        grammar = Grammar()
        done = written = 0
        many = {"sentences": total} if words is None else {"words": total}
        progress(0, total, "writing", 0)
        for block in grammar.blocks(arguments.seed, start=arguments.start, **many):
            text = "\n".join(block)
            lines = {"--out": iter([text])}
            if "--translations" in files:
                seed = arguments.seed + arguments.start + done
                pairs = enumerate(block, seed)
                lines["--translations"] = (grammar.translate(s, i) for i, s in pairs)
            if "--labels" in files:
                lines["--labels"] = (str(grammar.style_of(s)) for s in block)
            for flag, own in lines.items():
                with disk_space(paths.get(flag, Path("standard output"))):
                    files.get(flag, sys.stdout).writelines(f"{line}\n" for line in own)
            done += len(block)
            written += text.count(" ") + len(block)
            progress(done if words is None else written, total, "writing", written)
    return 0


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[TextIO]:
    """Open a hidden file beside `path` and rename it to `path` in the end; what is no regular file,
    such as a pipe, is written as it is, and so is standard output, whatever it leads to."""
    from lvtrain.data.folder import disk_space
    from lvtrain.errors import UserError

    if _is_stdout(path):
        yield sys.stdout
        return
    device = path.exists() and not path.is_file()
    # What a pipe's link below /proc leads to is the name of no file.
    target = path if device else Path(os.path.realpath(path))
    partial = target if device else target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        if not partial.parent.exists():
            partial.parent.mkdir(parents=True)
        file = partial.open("w", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with disk_space(path), file:
            yield file
        if not device:
            partial.replace(target)
    finally:
        if not device:
            partial.unlink(missing_ok=True)


def _is_stdout(path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(1))
    except OSError:
        return False


def _check_space(flag: str, path: Path, total: int, of_words: bool) -> None:
    """Raise UserError if the disk is known to be too small for a file of so many words or
    sentences."""
    from lvtrain.data.folder import check_space

    folder = next(parent for parent in Path(os.path.realpath(path)).parents if parent.is_dir())
    if path.exists() and not path.is_file():
        return  # a device
    if flag == "--labels":
        least = total // 16 if of_words else total
    else:
        least = WORD_BYTES if of_words else 3 * WORD_BYTES
        least *= total
    check_space(folder, least)
