"""`lvtrain prepare FILE… --out STORE`: text to a store."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final

import tyro

from lvtrain.commands.parse import given_flags, parse
from lvtrain.data.location import place, uri_of
from lvtrain.errors import UserError
from lvtrain.prepare.config import PrepareConfig

SIZES: Final = {"--vocab-size", "--target-vocab-size"}


@dataclass(frozen=True, kw_only=True)
class PrepareArguments:
    """Turn text (plain, .gz, .zst, .jsonl, Parquet, Arrow, Hugging Face datasets) into a store."""

    files: tyro.conf.Positional[tuple[str, ...]]
    """Files, folders of a dataset, or globs, such as s3://bucket/texts/*.txt.gz; a sentence a line
    or row."""
    out: Path
    """The store to write; like the files, a path or a URI, such as s3://bucket/store."""
    config: Annotated[PrepareConfig, tyro.conf.arg(name="")] = field(default_factory=PrepareConfig)
    ray: str = ""
    """Have a Ray cluster do the work: its HOST:PORT, auto or local. Files and store must be where
    every node finds them, at a URI or a path; with a store at a URI, so must --work."""
    json: bool = False
    """Print the store's figures as one JSON object."""


def run(argv: list[str]) -> int:
    argv = [*_whole_numbers(argv)]
    arguments = parse(
        PrepareArguments, argv, "prepare", "lvtrain prepare corpus/*.txt --out store --max-words 15"
    )

    from lvtrain.commands.progress import shown
    from lvtrain.prepare.prepare import check_shared, prepare

    given = given_flags(argv)
    _check_given(arguments.config, given)
    config = replace(arguments.config, files=arguments.files)
    check_shared(place(arguments.out))
    if arguments.ray and uri_of(arguments.out) is not None and config.work is None:
        raise UserError("--work: with --ray, expected a folder that every node reaches, found none")
    with ExitStack() as stack:
        workers = None
        if arguments.ray:
            config = _absolute(config)
            for package in ("ray", "pandas"):  # which Ray Data wants
                if find_spec(package) is None:
                    raise UserError(f"{package} is not installed: pip install 'lvtrain[cluster]'")
            cluster = import_module("lvtrain.cluster.prepare")
            workers = stack.enter_context(cluster.ray_data(arguments.ray))
        info = prepare(config, arguments.out, stack.enter_context(shown()), workers, given)
    print(json.dumps(info.figures(), indent=2) if arguments.json else info.summary())
    return 0


def _absolute(config: PrepareConfig) -> PrepareConfig:
    """Name files as they are named from any folder: a node's workers are in another one."""
    named: dict[str, Any] = {
        field_.name: tuple(
            os.path.abspath(file) if file and uri_of(file) is None else file  # noqa: PTH100
            for file in getattr(config, field_.name)
        )
        for field_ in fields(config)
        if isinstance(getattr(config, field_.name), tuple)
    }
    return replace(config, **named)


def _whole_numbers(argv: list[str]) -> Iterator[str]:
    """Yield a command line whose sizes of vocabularies, such as 1e6, are integers."""
    for before, token in zip(["", *argv], argv, strict=False):
        flag, is_flag, value = token.rpartition("=")
        if (flag or before) in SIZES and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d\d?", value):
            number = float(value)
            value = str(int(number)) if number.is_integer() else value
        yield f"{flag}{is_flag}{value}"


def _check_given(config: PrepareConfig, given: Collection[str]) -> None:
    """Raise UserError for a flag of files without any, which would count as not given."""
    for field_ in fields(config):
        if field_.name in given and getattr(config, field_.name) == ():
            flag = f"--{field_.name.replace('_', '-')}"
            raise UserError(f"prepare: {flag}: expected at least one file, found none")
