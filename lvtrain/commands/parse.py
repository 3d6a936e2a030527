"""Command lines from frozen dataclasses; what does not fit is one line, not a page."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from typing import Any, TypeVar

import tyro

from lvtrain.errors import UserError

ArgumentsT = TypeVar("ArgumentsT")


def parse(
    kind: type[ArgumentsT],
    argv: list[str],
    command: str,
    example: str,
    default: ArgumentsT | None = None,
) -> ArgumentsT:
    """Arguments of `lvtrain <command>` as a `kind`, whose fields' docstrings become the help.

    Prints the help and exits 0 when asked for it. Raises UserError with the cause, and the nearest
    flag, in one line.
    """
    prog = f"lvtrain {command}"
    description = f"{(kind.__doc__ or '').strip()}\n\nexample:\n  {example}"
    extra: dict[str, Any] = {} if default is None else {"default": default}
    if {"-h", "--help"} & set(argv):
        return tyro.cli(kind, prog=prog, description=description, args=argv, **extra)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            return tyro.cli(kind, prog=prog, description=description, args=argv, **extra)
    except SystemExit as stop:
        if not stop.code:
            sys.stdout.write(said.getvalue())
            raise
    raise UserError(f"{command}: {_cause(said.getvalue())} (see {prog} --help)") from None


def _cause(page: str) -> str:
    """The one line that matters of tyro's report: its first paragraph, and the flag it suggests."""
    blocks = [b.split() for b in re.split(r"\n\s*-{5,}\s*\n", page)]
    cause = " ".join(blocks[1]) if len(blocks) > 1 else " ".join(page.split())
    cause = cause.replace("Unrecognized options:", "unknown flag:")
    suggested = re.search(r"Perhaps you meant:\s+(--\S+)", page)
    return f"{cause} (did you mean '{suggested[1]}'?)" if suggested else cause
