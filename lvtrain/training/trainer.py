"""The loop: play, log, validate, commit; until the steps are done or someone asks to stop."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from lvtrain.config import TrainConfig
from lvtrain.errors import NonFiniteLoss, UserError
from lvtrain.randomness import Key
from lvtrain.training.checkpoint import Checkpoint, commit, replace_file
from lvtrain.training.engine import Engine
from lvtrain.training.folder import CHECKPOINTS
from lvtrain.training.game import Playable, Source
from lvtrain.training.log import RunLog
from lvtrain.training.parts import Write
from lvtrain.training.precision import products

if TYPE_CHECKING:
    from torch import Tensor

Validate = Callable[[int], Mapping[str, float]]
"""Figures on the validation split at a step. The first is the one that selects: lower is better."""
Keep = Callable[[int, Write, Mapping[str, Any], int, Collection[int]], object]
"""Commits a checkpoint: its step, what writes its parts, what to say of it, how many of the newest
to keep, and which steps besides."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the step it reached, whether it was asked to stop, its best validation."""

    step: int
    stopped: bool
    best: dict[str, Any] | None


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and the first Ctrl-C into a question asked between steps; a second Ctrl-C
    interrupts at once. Only the main thread is told of signals: in any other, none is asked."""
    asked = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and signum == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Restorable(Protocol):
    """A checkpoint, wherever it is kept."""

    @property
    def path(self) -> Path | str: ...

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of a part, by name."""
        ...


def restore(engines: Mapping[str, Engine], checkpoint: Restorable) -> None:
    """Put every engine back to where a checkpoint left it.

    Raises UserError, naming the file, where the checkpoint is another system's.
    """
    for name, engine in engines.items():
        try:
            engine.load(checkpoint.tensors(name))
        except ValueError as error:
            path = f"{checkpoint.path}/{name}.safetensors"
            raise UserError(f"{path}: not of this configuration: {error}") from None


def train(
    game: Playable,
    batches: Source,
    config: TrainConfig,
    run: Path,
    log: RunLog,
    validate: Validate | None = None,
    resume: Checkpoint | None = None,
    keep: Keep | None = None,
    started: bool = False,
) -> Outcome:
    """Play `game` on `batches` up to `config.steps`; `resume` is where its engines were restored
    from. Checkpoints are committed to the run's folder, or by `keep`. A run that is `started` from
    another has its start validated too, and committed: it may be the best.

    A step is a pure function of the weights and (seed, step), so a run that was killed and resumed
    ends in the same weights, bit for bit, as one that was not. Raises NonFiniteLoss before the
    update that would have been spoilt, after writing which batch it was to `nonfinite.json`; what
    an update spoilt all the same is neither validated nor committed.
    """
    keep = keep or partial(commit, run / CHECKPOINTS)
    step = resume.step if resume else 0
    best: dict[str, Any] | None = resume.meta.get("best") if resume else None
    committed = step if resume else -1

    def stopped_before(error: NonFiniteLoss, now: int) -> NonFiniteLoss:
        met = now if error.step is None else error.step
        path = _report_nonfinite(run, game, batches, met, error)
        where = f" at step {met + 1}: stopped before the update; its batches are in {path}"
        return NonFiniteLoss(error.player, error.quantity, error.value, where)

    def again(every: int) -> int:
        """How often what is done every so many steps, and at the end, is to come yet."""
        return math.ceil((config.steps - step) / every)

    def check() -> None:
        try:
            game.check()
        except NonFiniteLoss as error:
            raise stopped_before(error, step - 1) from None
        try:
            game.check_state()
        except NonFiniteLoss as error:
            path = _report_nonfinite(run, game, batches, max(step - 1, 0), error)
            where = f" after step {step}: not committed; the batches of the step are in {path}"
            raise NonFiniteLoss(error.player, error.quantity, error.value, where) from None

    def save() -> None:
        nonlocal committed
        if committed == step:
            return
        check()
        best_too = [best["step"]] if best else []
        meta = {"step": step, "best": best}
        with log.untimed("commit", again(config.checkpoint_every)):
            keep(step, game.write, meta, config.keep, best_too)
        committed = step

    def judge(validate: Validate) -> None:
        nonlocal best
        with log.untimed("validation", again(config.validate_every)):
            check()
            figures = dict(validate(step))
        name, value = next(iter(figures.items()))
        better = math.isfinite(value) and (best is None or value <= best["value"])
        if better:
            best = {"step": step, "metric": name, "value": value}
        log.validation(step, figures, best=better)
        if better:
            save()

    with stop_requests() as stop:
        if validate and config.validate_every and started and resume is None:
            judge(validate)
        while step < config.steps and not stop():
            key = Key(seed=config.seed, step=step)
            try:
                with products(config.precision, config.device):
                    metrics, words = game.iterate(batches, key)
                if (step + 1) % config.log_every == 0:
                    game.check()
            except NonFiniteLoss as error:
                raise stopped_before(error, step) from None
            step += 1
            log.step(step, words, metrics)
            last = step == config.steps
            if validate and config.validate_every and (step % config.validate_every == 0 or last):
                judge(validate)
            if step % config.checkpoint_every == 0 or last:
                save()
        stopped = step < config.steps
        save()
    if stopped:
        log.message(f"stopped at step {step}; --resume auto goes on from there")
    return Outcome(step, stopped, best)


def _report_nonfinite(
    run: Path, game: Playable, batches: Source, step: int, error: NonFiniteLoss
) -> Path:
    """Write down the step, the player and the batches of an iteration that was not taken."""
    first = step * game.batches_per_iteration
    report = {
        "step": step + 1,  # as the log and the checkpoints count
        "player": error.player,
        "quantity": error.quantity,
        "value": str(error.value),
        "batches": [
            {"index": i, "rows": batches.at(i).rows.tolist()}
            for i in range(first, first + game.batches_per_iteration)
        ],
    }
    path = run / "nonfinite.json"
    replace_file(path, json.dumps(report, indent=2).encode())
    return path
