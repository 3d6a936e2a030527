"""Configurations are frozen dataclasses: the command line is made from them, a run records them.

`to_json` and `from_json` carry a configuration to and from a run's `config.json`; an unknown or
ill-typed field is a `UserError` that names it.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from lvtrain.errors import UserError, nearest

ConfigT = TypeVar("ConfigT")

# What float32 and int64 hold, with room for twice as much.
_LARGEST = {float: 1e38, int: 2**62}


@dataclass(frozen=True)
class Bounds:
    """Which numbers a field may hold: part of the field's type, read by `check`."""

    said: str
    holds: Callable[[float], bool]


Count = Annotated[int, Bounds("1 or more", lambda n: n >= 1)]
Natural = Annotated[int, Bounds("0 or more", lambda n: n >= 0)]
Positive = Annotated[float, Bounds("more than 0", lambda x: x > 0)]
NotNegative = Annotated[float, Bounds("0 or more", lambda x: x >= 0)]
Share = Annotated[float, Bounds("a share from 0 to 1", lambda x: 0 <= x <= 1)]
Probability = Annotated[float, Bounds("0 or more and less than 1", lambda x: 0 <= x < 1)]
# OpenMP, asked for millions of threads, ends the process without a word.
Threads = Annotated[int, Bounds("0 to 1,024", lambda n: 0 <= n <= 1024)]
Precision = Literal["fp32", "tf32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How one player's parameters are updated."""

    kind: Literal["adam", "sgd"] = "adam"
    """Update rule."""
    lr: Positive = 1e-3
    """Learning rate."""
    betas: tuple[Probability, Probability] = (0.9, 0.999)
    """Adam's averaging coefficients."""
    clip: NotNegative = 0.0
    """Largest gradient norm; 0 leaves the gradient as it is."""
    warmup: Natural = 0
    """Steps over which the rate rises linearly from 0."""
    inverse_sqrt: bool = False
    """After the warm-up the rate falls as 1/√step (Vaswani et al. 2017)."""
    decay: Share = 0.0
    """Share of the run, at its end, over which the rate falls linearly to 0."""

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at `step` of a run of `steps`."""
        now, warmup = step + 1, max(self.warmup, 1)
        rising = min(1.0, now / warmup)
        root = min(1.0, (warmup / now) ** 0.5) if self.inverse_sqrt else 1.0
        falling = min(1.0, (steps - step) / (self.decay * steps)) if self.decay else 1.0
        return self.lr * rising * root * max(0.0, falling)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run does besides its system: how long, on what, and what it leaves behind."""

    steps: Count = 10_000
    """Iterations to train for, in total: a resumed run counts those it has behind it."""
    batch_size: Count = 64
    """Sentences a batch, over all workers together."""
    accumulate: Count = 1
    """Parts of a worker's share of a batch that the model learns from one after the other, in the
    memory of one, before it is updated."""
    seed: Natural = 0
    """Everything random follows from it."""
    by_length: bool = False
    """Fill each batch with sentences of like length instead of drawing from all."""
    locality: bool = False
    """With `by_length`, each worker reads, and of a remote store fetches, a part of the store of
    its own; batches are those of any number of workers, but other ones than without."""
    validate_every: Natural = 500
    """Steps between validations (and at the end); 0 validates never."""
    validation_sentences: Count = 2_000
    """Sentences of the validation split to use."""
    checkpoint_every: Count = 500
    """Steps between checkpoints (and at the end)."""
    keep: Count = 2
    """Newest checkpoints to keep, never fewer than two, besides the best."""
    log_every: Count = 20
    """Steps between lines of metrics."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes a GPU where there is one."""
    precision: Precision = "fp32"
    """Of the products of an iteration: bf16 by autocast, where the device multiplies it,
    or a GPU's tf32; the rest is float32."""
    threads: Threads = 0
    """CPU threads; 0 takes as many as torch does, every core or OMP_NUM_THREADS, and config.json
    records their number."""
    tensorboard: bool = True
    """Write TensorBoard events beside metrics.jsonl."""

    def conflict(self) -> str | None:
        """What is wrong with settings that depend on each other."""
        if self.locality and not self.by_length:
            return "--locality: expected --by-length as well, found batches of all lengths"
        return None


# What may differ between a run and its continuation: nothing here changes a step already taken.
# Device and threads are another machine's: they round the steps to come otherwise, no more.
RESUMABLE_FIELDS = frozenset(
    "steps validate_every validation_sentences checkpoint_every keep log_every tensorboard device "
    "threads accumulate".split()
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All that determines a run: the content of its `config.json`."""

    system: str
    model: Any
    train: TrainConfig = field(default_factory=TrainConfig)
    store: Path
    """The store trained on."""
    store_digest: str
    """Its SHA-256: a run does not continue on other data."""
    tokenizer_digest: str = ""
    """SHA-256 of its tokenizer.json, of which the run has a copy; empty where not recorded."""
    vocab_size: int
    """Words or pieces, the special ones included."""
    max_words: int
    """The longest sentence of the store."""
    target_vocab_size: int = 0
    """The same of the parallel side, for a system that learns from it; else 0 and empty."""
    target_tokenizer_digest: str = ""
    preset: str = "default"


def to_json(config: Any) -> Any:
    """A dataclass as nested dictionaries, lists, numbers and strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {f.name: to_json(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, tuple | list):
        return [to_json(item) for item in config]
    return str(config) if isinstance(config, Path) else config


def from_json(kind: type[ConfigT], data: Any, where: str) -> ConfigT:
    """Rebuild a dataclass of type `kind`; fields left out take their defaults.

    Raises UserError, naming `where` and the field, for a field that `kind` lacks or cannot hold.
    """
    if not isinstance(data, dict):
        raise UserError(f"{where}: expected an object, found {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    for name in data:
        if name not in hints:
            raise UserError(f"{where}: unknown field '{name}'{nearest(name, hints)}")
    values = {n: _value(hints[n], v, f"{where}: {n}") for n, v in data.items()}
    required = [f.name for f in dataclasses.fields(typing.cast(Any, kind))
                if f.default is f.default_factory is dataclasses.MISSING]  # fmt: skip
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where}: expected {', '.join(missing)}, found no such field")
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as a field of type `hint` holds it; raises UserError where it cannot."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is typing.Annotated:
        return _value(arguments[0], value, where)
    if origin is tuple:
        kinds = arguments
        if arguments[-1] is Ellipsis and isinstance(value, list | tuple):
            kinds = arguments[:1] * len(value)
        if not isinstance(value, list | tuple) or len(value) != len(kinds):
            count = "" if arguments[-1] is Ellipsis else f" of {len(kinds)}"
            raise UserError(f"{where}: expected a list{count}, found {value!r}")
        return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            known = [str(choice) for choice in arguments]
            raise UserError(
                f"{where}: expected one of {', '.join(known)}, found {value!r}"
                f"{nearest(str(value), known)}"
            )
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or not isinstance(hint, type):
        return value
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def check(config: Any, where: str = "") -> None:
    """Raise UserError, naming the flag, for what no configuration can have.

    A number is held to the `Bounds` in its field's type. A configuration whose fields depend on
    each other has a method `conflict` that says what is wrong with them, or nothing.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field_ in dataclasses.fields(config):
        value, hint = getattr(config, field_.name), hints[field_.name]
        name = field_.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            # The text side of a composed system has flags without a prefix: tyro is told so.
            unnamed = any(getattr(part, "name", None) == "" for part in typing.get_args(hint))
            check(value, where if unnamed else f"{where}{name}.")
            continue
        flag = f"--{where}{name}"
        _value(hint, value, flag)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_number(number, bounds(hint), flag)
    conflict = getattr(config, "conflict", None)
    if conflict and (said := conflict()):
        # It names the flags of its own fields, which may be a part of others'.
        raise UserError(re.sub(r"--(?=[a-z])", f"--{where}", said))


def bounds(hint: Any) -> Bounds | None:
    """The bounds in a field's type, or in that of its items."""
    for part in typing.get_args(hint):
        if found := part if isinstance(part, Bounds) else bounds(part):
            return found
    return None


def _check_number(number: float, allowed: Bounds | None, flag: str) -> None:
    if isinstance(number, float) and not math.isfinite(number):
        raise UserError(f"{flag}: expected a finite number, found {number}")
    if allowed and not allowed.holds(number):
        raise UserError(f"{flag}: expected {allowed.said}, found {number}")
    if abs(number) > (largest := _LARGEST[type(number)]):
        raise UserError(f"{flag}: expected at most {largest:.1e}, found {number}")


def differences(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    """The dotted names of the fields in which two JSON configurations differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            name
            for key in sorted(ours.keys() | theirs.keys())
            for name in differences(ours.get(key), theirs.get(key), f"{prefix}{key}.")
        ]
    return [] if ours == theirs else [prefix.removesuffix(".")]
