"""Tables for people: figures in aligned columns."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def show(rows: Sequence[Sequence[str]], header: Sequence[str] = (), title: str = "") -> None:
    """Print rows in columns: on a terminal cells wrap to its width, elsewhere a row is a line."""
    if title:
        print(title)
    if sys.stdout.isatty():
        _wrapped(rows, header)
        return
    lines = [tuple(header), *rows] if header else list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _wrapped(rows: Sequence[Sequence[str]], header: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=bool(header), pad_edge=False, padding=(0, 2, 0, 0))
    for i in range(len(rows[0]) if rows else 0):
        # Names stay whole; what is last wraps.
        table.add_column(header[i] if header else "", no_wrap=i == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
