"""What a model is made from: the configuration, the vocabulary and the store of its run.

The files may be anybody's: whatever does not fit is a UserError that names the file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from lvtrain.config import RunConfig, check, from_json
from lvtrain.data.checksums import sha256
from lvtrain.data.info import TARGET_TOKENIZER, TOKENIZER
from lvtrain.data.location import uri_of
from lvtrain.data.store import Store
from lvtrain.data.tokenizer import Tokenizer
from lvtrain.errors import UserError, nearest, notice
from lvtrain.generation.limits import check_number
from lvtrain.randomness import Key
from lvtrain.systems import System, entry

CONFIG, CHECKPOINTS = "config.json", "checkpoints"
# Step of draws that are made once a run rather than once a step.
_ONCE = -1


def build(config: RunConfig) -> System:
    """The system of a run with the parameters it starts from."""
    found = entry(config.system)
    _, system = found.load()
    sizes = (config.vocab_size, config.target_vocab_size)[: 1 + found.parallel]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key(seed=config.train.seed, step=_ONCE, path=("init",)).value())
        return cast(System, system(config.model, *sizes))


def read_config(folder: Path) -> RunConfig:
    """The configuration of a run; raises UserError where the folder holds none that fits."""
    path = folder / CONFIG
    if folder.is_file():
        raise UserError(f"{folder}: expected the folder of a run, found a file")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such run{nearest(folder.name, _names(folder.parent))}")
    if not path.is_file():
        raise UserError(f"{folder}: not a run: there is no {CONFIG}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected an object, found {type(data).__name__}")
    try:
        kind, _ = entry(str(data.get("system", ""))).load()
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    model: Any = from_json(kind, data.pop("model", {}), f"{path}: model")
    config = replace(from_json(RunConfig, {**data, "model": None}, str(path)), model=model)
    try:
        check(model)
        check_number("vocab_size", config.vocab_size, 1)
        check_number("max_words", config.max_words, 1)
        if entry(config.system).parallel:
            check_number("target_vocab_size", config.target_vocab_size, 1)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return config


def _names(folder: Path) -> list[str]:
    """What is in a folder, if it is one."""
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def read_tokenizer(folder: Path, config: RunConfig) -> Tokenizer:
    """The vocabulary of a run, which must be the one that its configuration records."""
    return _read_tokenizer(folder / TOKENIZER, config.vocab_size, config.tokenizer_digest)


def read_target_tokenizer(folder: Path, config: RunConfig) -> Tokenizer | None:
    """The vocabulary of the parallel side, where the system has one."""
    if not config.target_vocab_size:
        return None
    path = folder / TARGET_TOKENIZER
    return _read_tokenizer(path, config.target_vocab_size, config.target_tokenizer_digest)


def _read_tokenizer(path: Path, size: int, expected: str) -> Tokenizer:
    tokenizer = Tokenizer.load(path)
    if tokenizer.vocab_size != size:
        raise UserError(
            f"{path}: expected {size:,} ids, as {CONFIG} says, found {tokenizer.vocab_size:,}"
        )
    if expected and (found := sha256(path)) != expected:
        raise UserError(
            f"{path}: expected SHA-256 {expected[:16]}…, as {CONFIG} says, found {found[:16]}…"
        )
    return tokenizer


def build_read(folder: Path, config: RunConfig) -> System:
    """The system of a configuration that was read from a folder."""
    try:
        return build(config)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder / CONFIG}: model: cannot be built: {reason}") from error


def open_store(
    config: RunConfig,
    data: Path | None = None,
    tokenizer: Tokenizer | None = None,
    target: Tokenizer | None = None,
) -> Store:
    """The store that a run was trained on or, where `data` is given, that one.

    Raises UserError where it is not there, or has not the vocabulary of `tokenizer`, or of `target`
    for its parallel side.
    """
    if data is None and uri_of(config.store) is None and not config.store.is_dir():
        raise UserError(
            f"{config.store}: the store that the run was trained on is not there; --data STORE "
            "says where one is"
        )
    store = Store.open(data or config.store)
    if target and store.target_tokenizer is None:
        raise UserError(f"{store.path}: expected a store with a parallel side, found one without")
    for ours, theirs, of in (
        (tokenizer, store.tokenizer, "the run"),
        (target, store.target_tokenizer, "the run's parallel side"),
    ):
        if ours and theirs and (theirs.kind, theirs.words) != (ours.kind, ours.words):
            raise UserError(
                f"{store.path}: expected the vocabulary of {of}, {ours.vocab_size:,} ids, found "
                f"another, {theirs.vocab_size:,} ids: the store was prepared anew or is another"
            )
    return store


def tell_of_other_store(store: Store, config: RunConfig) -> None:
    """Say where a store is not as the run was trained on it."""
    if store.digest != config.store_digest:
        notice(f"{store.path}: other contents than those that the run was trained on")
