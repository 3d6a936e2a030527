"""Which parameters of a run are used: those of one of its checkpoints, or a mean of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from lvtrain.errors import UserError, notice
from lvtrain.generation.limits import check_number
from lvtrain.generation.recorded import CHECKPOINTS
from lvtrain.generation.weights import check_shapes
from lvtrain.systems import System
from lvtrain.training import checkpoint
from lvtrain.training.checkpoint import Checkpoint, name_of


def chosen(folder: Path, which: str | int, average: int) -> list[Checkpoint]:
    """The checkpoints of a run whose mean is asked for, the last at the step that is asked for.

    `which` is "best", as validated, "latest" or a step. Where the newest or the best is damaged or
    missing, the newest whole one is taken, with a notice. Raises UserError where there are too few.
    """
    newest = checkpoint.latest(folder / CHECKPOINTS)
    if newest is None:
        raise UserError(f"{folder}: the run has no checkpoint yet")
    found, best = newest, newest.meta.get("best")
    # The best of single steps is no better a last step of a mean than the newest is.
    if which == "best" and best and average == 1:
        found = _best(folder, best["step"], newest)
    elif isinstance(which, int) and which != newest.step:
        found = checkpoint.at(folder / CHECKPOINTS, which)
    of_those = "" if found is newest else f", the best up to there is {name_of(found.step)}"
    for warning in newest.warnings if isinstance(which, str) else ():
        notice(f"{folder}: {warning}{of_those}")
    return _averaged(folder, found, average)


def load_mean(system: System, checkpoints: Sequence[Checkpoint]) -> None:
    """Give a system the mean of the parameters of checkpoints, summed in float64 (Vaswani et al.
    2017, §6.1). Raises UserError, naming the file, for parameters of other shapes."""
    for name, part in system.parts.items():
        shapes = {n: tuple(t.shape) for n, t in part.state_dict().items()}
        mean: dict[str, Tensor] = {}
        for one in checkpoints:
            tensors = one.module(name)
            check_shapes(one.path / f"{name}.safetensors", tensors, shapes)
            for n, t in tensors.items():
                mean[n] = mean[n] + t.double() if n in mean else t.double()
        part.load_state_dict({n: t / len(checkpoints) for n, t in mean.items()})


def _best(folder: Path, step: int, newest: Checkpoint) -> Checkpoint:
    """The checkpoint of the best step, or the newest where that one cannot be had."""
    if step == newest.step:
        return newest
    try:
        return checkpoint.at(folder / CHECKPOINTS, step)
    except UserError as error:
        notice(f"the best validated step is {step}; {error}; using step {newest.step}")
        return newest


def _averaged(folder: Path, last: Checkpoint, count: int) -> list[Checkpoint]:
    """The newest `count` whole checkpoints up to `last`; raises UserError where there are fewer."""
    check_number("average", count, 1)
    found = [last]
    for step in reversed(checkpoint.steps(folder / CHECKPOINTS)):
        if step >= last.step or len(found) == count:
            continue
        try:
            found.append(checkpoint.at(folder / CHECKPOINTS, step))
        except UserError as error:
            notice(f"{error}; the mean is without it")
    if len(found) < count:
        raise UserError(
            f"--average {count}: expected as many checkpoints up to step {last.step} in {folder}, "
            f"found {len(found)}; a run keeps as many as its --keep says"
        )
    return found[::-1]
