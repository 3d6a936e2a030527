"""Configurations are frozen dataclasses: the command line is made from them, a run records them.

`to_json` and `from_json` carry a configuration to and from a run's `config.json`; an unknown or
ill-typed field is a `UserError` that names it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from lvtrain.errors import UserError, nearest

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How one player's parameters are updated."""

    kind: Literal["adam", "sgd"] = "adam"
    """Update rule."""
    lr: float = 1e-3
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's averaging coefficients."""
    clip: float = 0.0
    """Largest gradient norm; 0 leaves the gradient as it is."""
    warmup: int = 0
    """Steps over which the rate rises linearly from 0."""
    decay: float = 0.0
    """Share of the run, at its end, over which the rate falls linearly to 0."""

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at `step` of a run of `steps`."""
        rising = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        falling = min(1.0, (steps - step) / (self.decay * steps)) if self.decay else 1.0
        return self.lr * rising * max(0.0, falling)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a run does besides its system: how long, on what, and what it leaves behind."""

    steps: int = 10_000
    """Iterations to train for, in total: a resumed run counts those it has behind it."""
    batch_size: int = 64
    """Sentences a batch, over all workers together."""
    seed: int = 0
    """Everything random follows from it."""
    by_length: bool = False
    """Fill each batch with sentences of like length instead of drawing from all."""
    validate_every: int = 500
    """Steps between validations (and at the end); 0 validates never."""
    validation_sentences: int = 2_000
    """Sentences of the validation split to use."""
    checkpoint_every: int = 500
    """Steps between checkpoints (and at the end)."""
    keep: int = 2
    """Checkpoints to keep, besides the best."""
    log_every: int = 20
    """Steps between lines of metrics."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    threads: int = 0
    """CPU threads; 0 takes as many as torch does: every core, or OMP_NUM_THREADS."""
    tensorboard: bool = True
    """Write TensorBoard events beside metrics.jsonl."""


# What may differ between a run and its continuation: nothing here changes a step already taken.
RESUMABLE_FIELDS = frozenset(
    "steps validate_every validation_sentences checkpoint_every keep log_every tensorboard".split()
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
    vocab_size: int
    """Words or pieces, the special ones included."""
    max_words: int
    """The longest sentence of the store."""
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
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_json(typing.cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is typing.Annotated:
        return _value(arguments[0], value, where)
    if origin is tuple and isinstance(value, list):
        return tuple(value)
    if origin is Literal:
        if value not in arguments:
            known = [str(choice) for choice in arguments]
            raise UserError(
                f"{where}: expected one of {', '.join(known)}, found {value!r}"
                f"{nearest(str(value), known)}"
            )
        return value
    if hint is Path:
        return Path(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is not Any and isinstance(hint, type) and not isinstance(value, hint):
        raise UserError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


# What a field may hold, by its name, wherever it stands in a configuration.
_POSITIVE = frozenset(
    "steps batch_size checkpoint_every keep log_every validation_sentences embedding hidden layers "
    "latent components lr rounds radius".split()
)
_NOT_NEGATIVE = frozenset(
    "seed threads validate_every code noise clip init warmup forget_bias answer_scale fresh "
    "weight beta anneal_steps free_bits shuffle".split()
)
_SHARES = frozenset("dropout word_dropout drop blank swap decay noise_decay".split())


def check(config: Any, where: str = "") -> None:
    """Raise UserError, naming the flag, for a number that no configuration can have."""
    for field_ in dataclasses.fields(config):
        name, value = field_.name, getattr(config, field_.name)
        flag = f"{where}{name}"
        if dataclasses.is_dataclass(value):
            # The text side of a composed system has flags without a prefix.
            check(value, where if name == "autoencoder" else f"{flag}.")
            continue
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            expected = _expected(name, number)
            if expected:
                raise UserError(f"--{flag.replace('_', '-')}: expected {expected}, found {number}")


def _expected(name: str, number: float) -> str:
    """What a field should hold where `number` is not it, else nothing."""
    if not math.isfinite(number):
        return "a finite number"
    if name == "betas" and not 0 <= number < 1:
        return "0 or more and less than 1"
    if name in _SHARES:
        highest = number <= 1 if name in ("decay", "noise_decay") else number < 1
        return "" if number >= 0 and highest else "a share between 0 and 1"
    if name in _POSITIVE and number <= 0:
        return "more than 0"
    return "0 or more" if name in _NOT_NEGATIVE and number < 0 else ""


def differences(ours: Any, theirs: Any, prefix: str = "") -> list[str]:
    """The dotted names of the fields in which two JSON configurations differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            name
            for key in sorted(ours.keys() | theirs.keys())
            for name in differences(ours.get(key), theirs.get(key), f"{prefix}{key}.")
        ]
    return [] if ours == theirs else [prefix.removesuffix(".")]
