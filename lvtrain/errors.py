"""The one way to tell a user that something they gave cannot be used."""

from __future__ import annotations

import difflib
import errno
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Final


class UserError(Exception):
    """A mistake the user can mend, as one line: what, where, expected, found.

    The command line prints it without a traceback and exits with status 2.
    """


class Passing(UserError):
    """What may be different when the same command is given again, such as a network that fails, a
    full disk or a process killed for its memory: work that is half done is kept for it."""


class Lost(Exception):
    """What work needs is gone through no mistake of the user's: the same command may go on."""


class Notice(UserWarning):
    """What a user should know of work that goes on, as one line."""


def notice(text: str) -> None:
    """Tell it: a Python warning, which the command line prints as `lvtrain: warning: …`."""
    warnings.warn(text, Notice, stacklevel=3)


def nearest(name: str, choices: Iterable[str], prefix: str = "") -> str:
    """Name the choice most like `name`, as a clause to end a `UserError` with, or nothing. That all
    begin with `prefix` makes none like another."""
    others = [choice.removeprefix(prefix) for choice in choices if choice != name]
    close = difflib.get_close_matches(name.removeprefix(prefix), others, n=1, cutoff=0.6)
    return f" (did you mean '{prefix}{close[0]}'?)" if close else ""


def cut(text: str) -> str:
    """Return a word or name as a line has room for it: of a longer one, the beginning."""
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def some_of(names: Sequence[str]) -> str:
    """Name the first of many, and say how many there are."""
    first = ", ".join(map(cut, names[:_MOST_NAMES]))
    return first if len(names) <= _MOST_NAMES else f"{first}, … ({len(names):,} in all)"


def lacks_memory(error: BaseException) -> str | None:
    """What an error says of memory, or threads, that the system has not; None if it is another."""
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return "out of memory"
    # torch raises a bare RuntimeError, or one of its own kinds for a GPU's memory; pyarrow and
    # Python bare errors too where the system gives no memory to a thread.
    tried = _NO_MEMORY.search(str(error))
    return f"out of memory: {tried[0].lower()}" if tried else None


_MOST_CHARACTERS: Final = 40
_MOST_NAMES: Final = 20

_NO_MEMORY: Final = re.compile(
    r"tried to allocate [\d.]+ \w+|storage size calculation overflowed"
    r"|can't start new thread|failed to launch worker thread",
    re.IGNORECASE,
)


class NonFiniteLoss(Exception):
    """A loss or gradient that is NaN or infinite, met before the update it would have ruined."""

    def __init__(
        self,
        player: str,
        quantity: str,
        value: float,
        where: str = "",
        step: int | None = None,
    ) -> None:
        super().__init__(f"{player}: {quantity} is {value}{where}")
        self.player, self.quantity, self.value, self.where = player, quantity, value, where
        self.step = step
        """The step it was met at, where that was some steps ago."""

    def __reduce__(self) -> tuple[Any, ...]:
        """An exception is pickled by its message unless told otherwise: workers raise this one."""
        return type(self), (self.player, self.quantity, self.value, self.where, self.step)
