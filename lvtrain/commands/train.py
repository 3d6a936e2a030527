"""`lvtrain train SYSTEM`: flags are the fields of the system's and the trainer's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, cast

import tyro

from lvtrain.commands.parse import parse
from lvtrain.config import TrainConfig
from lvtrain.errors import UserError
from lvtrain.systems import SYSTEMS, entry

if TYPE_CHECKING:
    from lvtrain.presets import Preset

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True)
class TrainArguments(Generic[ConfigT]):
    """Train a system on a store.

    Ctrl-C and SIGTERM commit a checkpoint and end the run with status 0; before the first step they
    leave nothing behind, and the status is 130 or 143.
    """

    data: Path
    """The store, made by `lvtrain prepare`."""
    out: Path
    """The run folder."""
    preset: str = "default"
    """The named configuration to start from: the defaults below are its values."""
    resume: Literal["auto", "never"] = "never"
    """auto goes on with the run in the folder, if there is one; never wants a new folder."""
    model: Annotated[ConfigT, tyro.conf.arg(name="")]
    train: Annotated[TrainConfig, tyro.conf.arg(name="")]


def run(argv: list[str]) -> int:
    """Train; a run that was asked to stop has committed, and exits 0 like one that finished."""
    parsed = arguments(argv, TrainArguments)
    if parsed is None:
        return 0
    system, given = parsed

    from lvtrain.experiment import carry_out, configure

    config = configure(system, given.model, given.train, given.data, given.preset)
    carry_out(config, given.out, given.resume)
    return 0


def arguments(
    argv: list[str], kind: Any, program: str = "lvtrain", command: str = "train", **defaults: Any
) -> tuple[str, Any] | None:
    """The system and the arguments of a command that trains, as a `kind` of TrainArguments, whose
    further fields have `defaults`; None where the help was asked for, which is printed."""
    words = f"{program} {command}".strip()
    if not argv or argv[0] in ("-h", "--help"):
        width = max(map(len, SYSTEMS))
        systems = "\n".join(f"  {name:{width}}  {e.summary}" for name, e in SYSTEMS.items())
        print(
            f"usage: {words} SYSTEM --data STORE --out RUN [OPTIONS]\n\n"
            f"systems:\n{systems}\n\n"
            f"example:\n  {words} arae --data store --out runs/first --preset tiny\n\n"
            f"{words} SYSTEM --help lists the options of one."
        )
        return None
    system, rest = argv[0], argv[1:]
    if system.startswith("-"):
        raise UserError(
            f"train: expected a system before the flags, one of {', '.join(SYSTEMS)}, found "
            f"'{system}' (see {words} --help)"
        )
    config, _ = entry(system).load()
    # These must be known before the flags, whose defaults they set.
    name = _given(rest, "preset") or "default"

    from lvtrain.presets import PRESETS, preset

    model, train = preset(system, name)
    start, out = _given(rest, "from"), _given(rest, "out")
    resume = cast(Any, _given(rest, "resume"))
    if start or (resume == "auto" and hasattr(model, "start")):
        from lvtrain.experiment import starting

        model = starting(system, model, Path(start) if start else None, Path(out), resume)
    # MISSING keeps --data and --out required although the rest has defaults.
    missing: Any = tyro.MISSING
    default = kind(data=missing, out=missing, preset=name, model=model, train=train, **defaults)
    given = parse(
        kind[config],
        rest,
        f"{command} {system}".strip(),
        f"{words} {system} --data store --out runs/first --preset {name} --steps 1000",
        default,
        f"{system}: {SYSTEMS[system].summary}\n\npresets:\n{_table(PRESETS[system])}",
        program,
    )
    return system, given


def _table(presets: Mapping[str, Preset]) -> str:
    width = max(map(len, presets))
    return "\n".join(f"  {name:{width}}  {preset.about}" for name, preset in presets.items())


def _given(argv: list[str], flag: str) -> str:
    """What a command line says to a flag: the last of them, as of any other."""
    found = ""
    for i, argument in enumerate(argv):
        if argument == f"--{flag}" and i + 1 < len(argv):
            found = argv[i + 1]
        elif argument.startswith(f"--{flag}="):
            found = argument.removeprefix(f"--{flag}=")
    return found
