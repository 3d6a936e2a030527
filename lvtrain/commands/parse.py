"""Command lines from frozen dataclasses; what does not fit is one line, not a page."""

from __future__ import annotations

import contextlib
import inspect
import io
import os
import re
import sys
import typing
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeVar

import tyro

from lvtrain.errors import UserError, nearest

ArgumentsT = TypeVar("ArgumentsT")

PATHS = {"--out", "--data", "--work"}
_RULE = re.compile(r"\n\s*-{5,}\s*\n")
# What tyro calls the kinds of values, in words.
_KINDS = {"INT": "an integer", "FLOAT": "a number", "PATH": "a path", "STR": "a text"}


def parse(
    kind: type[ArgumentsT],
    argv: list[str],
    command: str,
    example: str,
    default: ArgumentsT | None = None,
    more: str = "",
    program: str = "lvtrain",
) -> ArgumentsT:
    """Arguments of `<program> <command>` as a `kind`, whose fields' docstrings become the help.

    Prints the help, with `more` before the example, and exits 0 when asked for it. Raises UserError
    with the cause, and the nearest flag, in one line.
    """
    prog = f"{program} {command}"
    about = inspect.cleandoc((typing.get_origin(kind) or kind).__doc__ or "")
    parts = [about, more, f"example:\n  {example}"]
    description = "\n\n".join(part for part in parts if part)
    extra: dict[str, Any] = {} if default is None else {"default": default}

    def read(argv: list[str]) -> ArgumentsT:
        return tyro.cli(kind, prog=prog, description=description, args=argv, **extra)

    argv = [_foldable(token) for token in argv]
    if {"-h", "--help"} & set(argv):
        return read(argv)
    for flag, value in pairwise((*argv, "-")):
        if (flag in PATHS and value == "") or (flag.endswith("=") and flag[:-1] in PATHS):
            # Which would be a path too: that of the current folder.
            raise UserError(f"{command}: {flag.rstrip('=')}: expected a path, found none")
    said = io.StringIO()
    try:
        with _wide(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return read(argv)
    except SystemExit as stop:
        if not stop.code:
            sys.stdout.write(said.getvalue())
            raise
    helped = io.StringIO()
    with _wide(), contextlib.redirect_stdout(helped), contextlib.suppress(SystemExit):
        read(["--help"])
    flags = re.findall(r"(?<!\S)--[a-z][\w.-]*", helped.getvalue())
    raise UserError(f"{command}: {_cause(said.getvalue(), flags)} (see {prog} --help)") from None


def _foldable(token: str) -> str:
    """A token whose value is a URI as paths keep it."""
    if ":///" not in token:
        return token  # nothing that takes long to import
    from lvtrain.data.location import foldable

    flag, equals, value = token.partition("=") if token.startswith("--") else ("", "", token)
    return f"{flag}{equals}{foldable(value)}"


def given_flags(argv: list[str]) -> set[str]:
    """The fields that a command line has flags of, whatever their values."""
    flags = {token.partition("=")[0][2:] for token in argv if token.startswith("--")}
    return {flag.removeprefix(no).replace("-", "_") for flag in flags for no in ("", "no-")}


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """Have tyro break no line of what is read here rather than shown."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "4096"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _cause(page: str, flags: list[str]) -> str:
    """The one line that matters of tyro's report."""
    blocks = _RULE.split(page)
    block = blocks[1] if len(blocks) > 1 else page
    if unknown := re.search(r"Unrecognized options:((?:.|\n)*?)(?:\n\s*-{5,}|\Z)", page):
        return _unknown(re.split(r",?\s+", unknown[1].strip()), flags)
    if "Missing from" in block:
        return f"missing {', '.join(_missing(block))}"
    if found := re.search(r"Missing value for argument '(.+?)'. Expected (\d+)", block):
        count = "a value" if found[2] == "1" else f"{found[2]} values"
        return f"{found[1]}: expected {count}, found {'none' if found[2] == '1' else 'fewer'}"
    if found := re.search(r"invalid choice '(.*)' for argument '(.+?)'. .* \((.*)\)", block):
        choices = re.findall(r"'(.*?)'", found[3])
        known = f"expected one of {', '.join(choices)}"
        return f"{found[2]}: {known}, found '{found[1]}'{nearest(found[1], choices)}"
    if found := re.search(r"Error parsing (\S+):(?:.|\n)*'(.*?)'", block):
        flag, value = found[1], found[2]
        kind = re.search(rf"\n\s+{re.escape(flag)} (.+)", page)
        return f"{flag}: expected {_expected(kind[1] if kind else '')}, found '{value}'"
    return " ".join(block.split())


def _unknown(tokens: list[str], flags: list[str]) -> str:
    """Name the first of the tokens that is a flag, and the flag it may stand for."""
    for token in tokens:
        if re.match(r"--?[A-Za-z]", token):
            flag = token.partition("=")[0].replace("_", "-")
            ends = [f for f in flags if f.endswith(f".{flag.lstrip('-')}")]
            # The flag of the same name with the shortest way to it, else one spelt like it.
            meant = min(ends, key=lambda f: f.count("."), default="")
            near = f" (did you mean '{meant}'?)" if meant else nearest(flag, flags, "--")
            return f"unknown flag '{token.partition('=')[0]}'{near}"
    return f"unexpected argument '{tokens[0]}'"


def _missing(block: str) -> Iterator[str]:
    """What is required and not there; what has no flag, in the words of its help."""
    lines = [line for line in block.splitlines()[1:] if line.strip()]
    indents = [len(line) - len(line.lstrip()) for line in lines]
    for line, indent, help_ in zip(lines, indents, [*lines[1:], ""], strict=True):
        if indent == min(indents):
            name = line.strip()
            about = help_.replace("(required)", "").strip().rstrip(".")
            flagged = name.startswith("-")
            yield name.split()[0] if flagged else f"{name} ({about[:1].lower()}{about[1:]})"


def _expected(metavar: str) -> str:
    """What a value should be, from tyro's sign for it: "{None}|INT" is an integer."""
    kind = metavar.strip(" │").removeprefix("{None}|").split(" ")[0].strip("[]")
    return _KINDS.get(kind, kind or "another value")
