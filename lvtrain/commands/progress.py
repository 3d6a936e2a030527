"""How far long work on text is: a bar with words a second and the time left, on a terminal; lines
now and then where standard error is a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

LINE_SECONDS: Final = 30.0
LEAST_SECONDS: Final = 0.1
"""What a rate is told from on: of less it says nothing."""


@contextmanager
def shown(first: str = "reading") -> Iterator[Callable[[int, int, str, int], None]]:
    """Give the function that is told what is done, the total, the phase and the words done; it is
    the `first` phase until then."""
    from rich.console import Console

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield _Lines().tell
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns = (TextColumn("{task.description:10}"), BarColumn(), TaskProgressColumn(),
               TextColumn("{task.fields[rate]}"), Left())  # fmt: skip
    # What a command prints is its own, unless it would break the bar.
    redirect = bool(sys.stdout) and sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=redirect) as bar:
        task = bar.add_task(first, rate="")
        clock = _Clock()

        def tell(done: int, total: int, phase: str, words: int) -> None:
            if clock.begins(phase, done):
                bar.reset(task)
            bar.update(task, completed=done, total=total, description=phase, rate=clock.rate(words))

        yield tell


@contextmanager
def watched(phase: str) -> Iterator[Callable[[int, int], None]]:
    """Give the function that is told what words are done, and the total, of one phase."""
    with shown(phase) as tell:
        yield lambda done, total: tell(done, total, phase, done)


class _Clock:
    """The time since a phase began, which is when it is told of first."""

    def __init__(self) -> None:
        self._phase, self._done = "", 0

    def begins(self, phase: str, done: int) -> bool:
        begun = phase != self._phase or done < self._done  # a phase can be repeated
        if begun:
            self._phase, self._start, self._before = phase, time.monotonic(), done
        self._done = done
        return begun

    def rate(self, words: int) -> str:
        seconds = time.monotonic() - self._start
        if not words or seconds <= LEAST_SECONDS:
            return ""
        rate = words / seconds
        return f"{rate / 1e6:.2f}M words/s" if rate >= 1e5 else f"{rate:,.0f} words/s"

    def left(self, total: int) -> str:
        """Time that the rest will take at the rate so far, where there is one."""
        seconds, done = time.monotonic() - self._start, self._done - self._before
        if done <= 0 or seconds <= LEAST_SECONDS:
            return ""
        return f"{seconds * (total - self._done) / done:,.0f} s left"


class _Lines:
    """A line every half a minute."""

    def __init__(self) -> None:
        self._clock = _Clock()
        self._next = time.monotonic() + LINE_SECONDS

    def tell(self, done: int, total: int, phase: str, words: int) -> None:
        self._clock.begins(phase, done)
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + LINE_SECONDS
        share = f"{100 * done / max(1, total):.0f} %"
        figures = filter(None, (share, self._clock.rate(words), self._clock.left(total)))
        print(f"{phase}: {', '.join(figures)}", file=sys.stderr, flush=True)
