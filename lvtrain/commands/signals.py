"""Ctrl-C and SIGTERM end a command as an exception does: what it holds is let go, what it had begun
to write is removed."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any


class Terminated(BaseException):
    """SIGTERM, as KeyboardInterrupt is Ctrl-C."""


@contextlib.contextmanager
def signals_raised() -> Iterator[None]:
    """Raise KeyboardInterrupt at Ctrl-C and Terminated at SIGTERM, but within no import.

    Half of a command's first seconds are imports. Libraries catch what is raised in theirs, or are
    left half imported and fail at something else; so it is raised at the first call after them.
    """

    def stop(signum: int, frame: FrameType | None) -> None:
        kind = Terminated if signum == signal.SIGTERM else KeyboardInterrupt
        if not _importing(frame):
            raise kind

        def later(frame: FrameType, event: str, argument: Any) -> None:
            if not _importing(frame):
                sys.setprofile(None)
                raise kind

        sys.setprofile(later)

    watched = [signal.SIGTERM, signal.SIGINT]
    # A shell has its background jobs ignore Ctrl-C.
    before = {s: signal.signal(s, stop) for s in watched if signal.getsignal(s) != signal.SIG_IGN}
    try:
        yield
    finally:
        sys.setprofile(None)
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Raise Ctrl-C and SIGTERM after what is done inside rather than in its midst; a second one at
    once."""
    met: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        met.append(signum)
        if len(met) > 1:
            before[signal.Signals(signum)](signum, frame)

    found = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    before = {s: handler for s, handler in found.items() if callable(handler)}
    for s in before:
        signal.signal(s, note)
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    if met:
        before[signal.Signals(met[0])](met[0], None)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
