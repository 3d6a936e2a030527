"""`lvtrain grammar`: sentences of the embedded grammar, as many as asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

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
    grammar = Grammar()
    sentences = grammar.sample(arguments.num, arguments.seed)
    if arguments.translations:
        translated = (grammar.translate(s, arguments.seed + i) for i, s in enumerate(sentences))
        _write(arguments.translations, translated)
    if arguments.labels:
        _write(arguments.labels, (str(grammar.style_of(s)) for s in sentences))
    if arguments.out:
        _write(arguments.out, sentences)
    else:
        sys.stdout.writelines(f"{sentence}\n" for sentence in sentences)
    return 0


def _write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
    partial.replace(path)
