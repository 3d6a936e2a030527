"""What a training run shows while it runs: a live bar, plain lines, JSON, or nothing.

A display is handed the lines of the log (`log.RunLog`), and decides nothing but how they look.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

DisplayKind = Literal["auto", "bar", "lines", "json", "none"]

Line = Mapping[str, Any]

# The keys of a line that are not metrics.
RESERVED = frozenset({"kind", "step", "seconds", "words", "words_per_second", "best"})

_REFRESH_SECONDS = 0.25


def make_display(kind: DisplayKind, total: int, step: int, stream: TextIO | None = None) -> Display:
    """The display of a run of `total` steps that begins after `step`.

    Text goes to standard error, so that a command's own output stays clean; JSON to standard
    output. "auto" is the bar on a terminal and lines elsewhere.
    """
    out = stream or (sys.stdout if kind == "json" else sys.stderr)
    if kind == "auto":
        kind = "bar" if out.isatty() and os.environ.get("TERM") != "dumb" else "lines"
    if kind == "bar":
        return Bar(out, total, step)
    if kind == "lines":
        return Lines(out, total)
    return JsonLines(out) if kind == "json" else Display()


def dump(line: Line) -> str:
    """One line of JSON, null for each number that is not finite."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in line.items()
    }
    return json.dumps(finite, ensure_ascii=False, allow_nan=False)


def figure(value: float | None) -> str:
    """A number as people read it: three decimals, or three digits where these say nothing."""
    if value is None or not math.isfinite(value):
        return "not finite"
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:,.3f}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as 1:40 or 2:03:20."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def shown(line: Line) -> list[tuple[str, str]]:
    """The metrics of a line as text."""
    return [(name, figure(value)) for name, value in line.items() if name not in RESERVED]


class Display:
    """Shows nothing."""

    def tick(self, step: int) -> None:
        """A step was taken that has no line of its own."""

    def train(self, line: Line, left: float) -> None:
        """A training line; `left` seconds are expected to remain."""

    def validation(self, line: Line) -> None:
        """A validation line."""

    def best(self, line: Line) -> None:
        """The best validation line so far."""

    def message(self, text: str) -> None:
        """A line of text."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class JsonLines(Display):
    """The lines of the log, and messages, as JSON."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def train(self, line: Line, left: float) -> None:
        print(dump(line), file=self._stream, flush=True)

    def validation(self, line: Line) -> None:
        print(dump(line), file=self._stream, flush=True)

    def message(self, text: str) -> None:
        print(dump({"kind": "message", "text": text}), file=self._stream, flush=True)


class Lines(Display):
    """step 200/2000  words/s 3,412  eta 1:40  reconstruction 3.211  critic -0.112"""

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream, self._total = stream, total

    def train(self, line: Line, left: float) -> None:
        self._print(
            f"step {line['step']}/{self._total}",
            f"words/s {line['words_per_second']:,.0f}",
            f"eta {duration(left)}",
            *(" ".join(metric) for metric in shown(line)),
        )

    def validation(self, line: Line) -> None:
        best = ["best so far"] if line.get("best") else []
        metrics = (" ".join(metric) for metric in shown(line))
        self._print(f"validation {line['step']}", *metrics, *best)

    def message(self, text: str) -> None:
        self._print(text)

    def _print(self, *fields: str) -> None:
        print("  ".join(fields), file=self._stream, flush=True)


class Bar(Display):
    """A live bar with the rate, the time left, the metrics and the best validation under it.

    It is redrawn from within the training loop, at most a few times a second: there is no thread to
    take time from the arithmetic or to be lost in a fork.
    """

    def __init__(self, stream: TextIO, total: int, step: int) -> None:
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        # What a command prints is its own, unless it would break the bar.
        redirect = sys.stdout.isatty()
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=redirect)
        self._bar = ProgressBar(
            total=total, completed=step, complete_style="cyan", finished_style="green"
        )
        self._total, self._step = total, step
        self._rate, self._ends_at = "", 0.0
        self._metrics = self._best = Text()
        self._drawn_at = 0.0
        self._live.start()
        self._draw()

    def tick(self, step: int) -> None:
        self._step = step
        if time.monotonic() - self._drawn_at >= _REFRESH_SECONDS:
            self._draw()

    def train(self, line: Line, left: float) -> None:
        self._rate = f"{line['words_per_second']:,.0f} words/s"
        self._ends_at = time.monotonic() + left
        self._metrics = self._text(line)
        self.tick(line["step"])

    def validation(self, line: Line) -> None:
        text = Text.assemble(("validation ", "bold"), f"{line['step']:,}  ", self._text(line))
        if line.get("best"):
            text.append(" best so far", style="green")
        self._console.print(text)

    def best(self, line: Line) -> None:
        metric = " ".join(next(iter(shown(line)), ()))
        self._best = Text.assemble(("best validation ", "dim"), (metric, "green"))
        self._best.append(f" at step {line['step']:,}", style="dim")

    def message(self, text: str) -> None:
        self._console.print(Text(text))

    def close(self) -> None:
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        self._bar.update(completed=self._step, total=self._total)
        fields = [Text.assemble((f"{self._step:,}", "bold"), (f"/{self._total:,}", "dim"))]
        if self._rate:
            left = max(self._ends_at - self._drawn_at, 0.0)
            fields += [Text(self._rate), Text(f"eta {duration(left)}", style="dim")]
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(ratio=1)
        for _ in fields:
            head.add_column(no_wrap=True, justify="right")
        head.add_row(self._bar, *fields)
        under = (text for text in (self._metrics, self._best) if text)
        self._live.update(Group(head, *under), refresh=True)

    @staticmethod
    def _text(line: Line) -> Text:
        text = Text()
        for name, value in shown(line):
            text.append(f"{name} ", style="dim").append(f"{value}  ")
        return text
