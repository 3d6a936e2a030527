"""What does not fit a command line is one line that names the flag."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tyro

from lvtrain.commands.parse import parse
from lvtrain.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 1.0
    """Rate."""


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner."""

    size: int = 1
    """Size."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """Its optimiser."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Do something.

    And say more of it.
    """

    run: tyro.conf.Positional[Path]
    """The run folder."""
    out: Path
    """Where to write what was asked for in so many words that no line of a terminal holds them,
    lest (required) and the rest run into the message."""
    kind: Literal["auto", "never"] = "auto"
    """Kind."""
    steps: int = 3
    """Steps."""
    betas: tuple[float, float] = (0.1, 0.2)
    """Pair."""
    temperature: float | None = None
    """Number, or none."""
    inner: Inner = field(default_factory=Inner)
    """Inner."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """Optimiser."""


def cause(arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(Arguments, arguments.split(), "do it", "lvtrain do it")
    said = str(caught.value)
    assert "\n" not in said and said.startswith("do it: ")
    assert said.endswith(" (see lvtrain do it --help)")
    return said.removeprefix("do it: ").removesuffix(" (see lvtrain do it --help)")


@pytest.mark.parametrize("columns", ["30", "80", "300"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "missing PATH (the run folder), --out"),
        ("run", "missing --out"),
        ("run --ot x", "unknown flag '--ot' (did you mean '--out'?)"),
        ("run --out x --stepz 3 --kid 4", "unknown flag '--stepz' (did you mean '--steps'?)"),
        ("run --out x --stepz=3", "unknown flag '--stepz' (did you mean '--steps'?)"),
        ("run --out x --lr 3", "unknown flag '--lr' (did you mean '--optimizer.lr'?)"),
        ("run --out x --size 3", "unknown flag '--size' (did you mean '--inner.size'?)"),
        ("run --out x --xyzzy", "unknown flag '--xyzzy'"),
        ("run --out x extra more", "unexpected argument 'extra'"),
        ("run --out x --betas 1 2 3", "unexpected argument '3'"),
        ("run --out x --betas 1", "--betas: expected 2 values, found fewer"),
        ("run --out", "--out: expected a value, found none"),
        ("run --out x --steps 1.5", "--steps: expected an integer, found '1.5'"),
        ("run --out x --optimizer.lr q", "--optimizer.lr: expected a number, found 'q'"),
        ("run --out x --temperature q", "--temperature: expected a number, found 'q'"),
        (
            "run --out x --kind neve",
            "--kind: expected one of auto, never, found 'neve' (did you mean 'never'?)",
        ),
    ],
)
def test_the_cause_is_one_line_that_names_the_flag(
    monkeypatch: pytest.MonkeyPatch, columns: str, arguments: str, said: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert cause(arguments) == said


def test_what_fits_is_what_was_said() -> None:
    found = parse(Arguments, ["run", "--out", "x", "--inner.size", "4"], "do it", "lvtrain do it")
    assert found == Arguments(run=Path("run"), out=Path("x"), inner=Inner(size=4))


def test_help_says_what_the_command_does_and_shows_an_example(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(Arguments, ["--help"], "do it", "lvtrain do it run", more="kinds:\n  a  b")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for said in ("Do something.", "And say more of it.", "kinds:\n  a  b", "  lvtrain do it run"):
        assert said in out
