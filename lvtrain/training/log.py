"""What a run says while it trains: `metrics.jsonl`, TensorBoard events, and the terminal.

`metrics.jsonl` holds one flat object a line. A training line gives the means since the line before:

    {"kind": "train", "step": 200, "seconds": 44.4, "words": 151400, "words_per_second": 3412.1,
     "reconstruction": 3.211, "critic": -0.112}
    {"kind": "validation", "step": 200, "seconds": 45.0, "words": 151400, "reconstruction": 3.3,
     "best": true}

`seconds` and `words` run on over a resume; rate and time left are of this process alone. A number
that is not finite is null: the file stays JSON for every reader.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from lvtrain.errors import UserError
from lvtrain.training.display import RESERVED, DisplayKind, dump, make_display

if TYPE_CHECKING:
    from torch import Tensor

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
# Steps that the time left is told by, or those of a line where it has more: a phase of cheap steps
# says nothing of the next one.
_OF_LATE = 20


class RunLog:
    """The log of one process's steps; a context manager.

    A line is written every `every` steps, at the last step, and at the end for what is pending.
    Lines of steps after `resume_step` belong to steps that are about to be trained again: they are
    cut off, and TensorBoard is told to forget them. None is a run from its beginning: all are.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total_steps: int,
        resume_step: int | None = None,
        every: int = 10,
        display: DisplayKind = "auto",
        tensorboard: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self._path = folder / METRICS
        with _storage(self._path):
            folder.mkdir(parents=True, exist_ok=True)
            kept = _cut(self._path, resume_step)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)
            self._events = _events(folder / TENSORBOARD, resume_step) if tensorboard else None
        last = kept[-1] if kept else {}
        self._seconds_before = float(last.get("seconds") or 0.0)
        self._words_before = int(last.get("words") or 0)
        first = resume_step or 0
        self._display = make_display(display, total_steps, first, stream)
        if best := next((line for line in reversed(kept) if line.get("best")), None):
            self._display.best(best)
        self._total_steps, self._every = total_steps, every
        self._step = self._flushed_step = first
        self._words = self._flushed_words = 0
        self._sums: dict[str, float | Tensor] = {}
        self._counts: dict[str, int] = {}
        self._started = self._flushed_at = time.monotonic()
        self._untimed = 0.0
        self._late: deque[tuple[int, float]] = deque()
        self._aside: dict[str, tuple[float, int]] = {}

    def step(self, step: int, words: int, metrics: Mapping[str, float | Tensor]) -> None:
        """Take in one training step: its words and its figures. Those that are tensors are added
        up where they are, and read when a line is written."""
        self._step = step
        self._words += words
        sums, counts = self._sums, self._counts
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + 1
        if step % self._every == 0 or step == self._total_steps:
            self._flush()
        else:
            self._display.tick(step)

    def validation(self, step: int, metrics: Mapping[str, float], *, best: bool = False) -> None:
        """Record figures on held-out text; `best` marks them as the best of the run so far."""
        line = self._line("validation", step) | _checked(metrics)
        if best:
            line["best"] = True
            self._display.best(line)
        self._record(line)
        self._display.validation(line)

    def message(self, text: str) -> None:
        """Show a line of text, above the bar where there is one."""
        self._display.message(text)

    @contextlib.contextmanager
    def untimed(self, what: str, again: int) -> Iterator[None]:
        """Leave what is done inside (validation, a commit) out of words per second; the time left
        has what it took as often as it is to be done again."""
        start = time.monotonic()
        try:
            yield
        finally:
            seconds = time.monotonic() - start
            self._untimed += seconds
            self._aside[what] = seconds, again

    def close(self) -> None:
        """Write what is pending and leave the terminal as it was found. May be called twice."""
        if self._file.closed:
            return
        try:
            self._flush()
        finally:
            self._display.close()
            # A line that full storage refused would be tried and refused again.
            with contextlib.suppress(OSError):
                self._file.close()
            if self._events is not None:
                with contextlib.suppress(OSError):
                    self._events.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _line(self, kind: str, step: int) -> dict[str, Any]:
        return {
            "kind": kind,
            "step": step,
            "seconds": round(self._seconds_before + time.monotonic() - self._started, 3),
            "words": self._words_before + self._words,
        }

    def _flush(self) -> None:
        """Write and show the means since the line before, if there was a step since."""
        if self._step == self._flushed_step:
            return
        now = time.monotonic()
        seconds = max(now - self._flushed_at - self._untimed, 1e-9)
        line = self._line("train", self._step)
        line["words_per_second"] = round((self._words - self._flushed_words) / seconds, 1)
        line |= _checked({n: float(total) / self._counts[n] for n, total in self._sums.items()})
        self._sums.clear()
        self._counts.clear()
        steps = self._step - self._flushed_step
        self._flushed_at, self._untimed = now, 0.0
        self._flushed_step, self._flushed_words = self._step, self._words
        self._record(line)
        self._display.train(line, self._left(seconds, steps))

    def _left(self, seconds: float, steps: int) -> float:
        """Seconds that are expected to remain, after a line of so many steps: at the pace of the
        last lines that have steps enough between them."""
        late = self._late
        late.append((steps, seconds))
        while sum(steps for steps, _ in late) - late[0][0] >= _OF_LATE:
            late.popleft()
        pace = sum(seconds for _, seconds in late) / sum(steps for steps, _ in late)
        aside = sum(seconds * again for seconds, again in self._aside.values())
        return pace * (self._total_steps - self._step) + aside

    def _record(self, line: Mapping[str, Any]) -> None:
        with _storage(self._path):
            self._file.write(dump(line) + "\n")
            if self._events is not None:
                for name, value in line.items():
                    if name not in RESERVED or name == "words_per_second":
                        self._events.add_scalar(f"{line['kind']}/{name}", value, line["step"])


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, in order; none where there is no such file.

    A last line without its end was cut short by a kill, and is left out.
    Raises UserError with the number of any other line that is not a JSON object with a step.
    """
    path = folder / METRICS
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    lines = []
    for number, raw in enumerate(text.split(b"\n")[:-1], start=1):
        try:
            line = json.loads(raw)
            int(line["step"])
        except (ValueError, TypeError, KeyError):
            found = raw[:40].decode(errors="replace")
            raise UserError(
                f"{path}:{number}: expected a JSON object with a step, found '{found}'"
            ) from None
        lines.append(line)
    return lines


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Say in one line that storage refused."""
    try:
        yield
    except OSError as error:
        what = (error.strerror or str(error)).lower()
        raise UserError(f"{what} while writing {path}") from error


def _cut(path: Path, resume_step: int | None) -> list[dict[str, Any]]:
    """Drop the lines after `resume_step`, atomically; a run from the start keeps none."""
    last = -1 if resume_step is None else resume_step
    kept = [line for line in read_metrics(path.parent) if line["step"] <= last]
    if path.exists():
        temporary = path.with_name(f".{path.name}")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(dump(line) + "\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    return kept


def _events(folder: Path, resume_step: int | None) -> Any:
    """A TensorBoard writer, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=0 if resume_step is None else resume_step + 1)


def _checked(metrics: Mapping[str, float]) -> dict[str, float]:
    if taken := RESERVED & metrics.keys():
        raise ValueError(f"metrics named {sorted(taken)}: the log itself writes these")
    return {name: float(value) for name, value in metrics.items()}
