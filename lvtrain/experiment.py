"""A run from its configuration: the composition of store, system, game, trainer and log.

>>> import lvtrain
>>> lvtrain.train("arae", data="store", out="runs/first", preset="tiny", steps=500)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import nn

from lvtrain.begin import begin, is_started
from lvtrain.config import OptimizerConfig, RunConfig, TrainConfig, check
from lvtrain.data.batches import Batches
from lvtrain.data.info import TARGET_TOKENIZER, TOKENIZER
from lvtrain.data.location import absolute, foldable, place
from lvtrain.data.store import Store
from lvtrain.errors import UserError, nearest
from lvtrain.evaluation.validation import validation
from lvtrain.generation.recorded import CHECKPOINTS, build, read_config
from lvtrain.presets import preset as named_preset
from lvtrain.systems import System, entry
from lvtrain.systems.seq2seq_gan import Seq2SeqGANConfig, standing
from lvtrain.training.accumulate import accumulating
from lvtrain.training.checkpoint import Checkpoint, latest
from lvtrain.training.engine import Engine, TorchEngine
from lvtrain.training.folder import (
    CONFIG,
    Resume,
    as_begun,
    check_folder,
    find_checkpoint,
    held,
    recorded,
)
from lvtrain.training.game import Game
from lvtrain.training.log import RunLog, read_metrics
from lvtrain.training.memory import keep_freed_memory
from lvtrain.training.replay import on_device
from lvtrain.training.trainer import Outcome, restore, train
from lvtrain.training.watch import Watch


def start(
    system: str,
    data: Path | str,
    out: Path | str,
    *,
    preset: str = "default",
    model: Any = None,
    start: Path | str | None = None,
    resume: Resume = "never",
    **train_fields: Any,
) -> Outcome:
    """Train `system` on the store `data` into the run folder `out`.

    `model` replaces the preset's configuration of the system, `start` is the translator's run that
    a seq2seq-gan starts from; further keywords are fields of TrainConfig. With resume "auto" a run
    that is there already goes on from its last checkpoint.
    """
    entry(system)
    preset_model, preset_train = named_preset(system, preset)
    known = [field.name for field in fields(TrainConfig)]
    for name in train_fields:
        if name not in known:
            raise UserError(
                f"train: unknown setting '{name}'{nearest(name, known)}: expected preset, model, "
                f"start, resume, {', '.join(known)}; a system's own are fields of its model"
            )
    if resume not in get_args(Resume):
        raise UserError(f"resume: expected 'auto' or 'never', found {resume!r}")
    run = None if start is None else Path(start)
    if run is not None or model is None:
        model = starting(system, model or preset_model, run, Path(out), resume)
    store = Path(foldable(str(data)))
    config = configure(system, model, replace(preset_train, **train_fields), store, preset)
    return carry_out(config, Path(out), resume)


def configure(
    system: str, model: Any, train_config: TrainConfig, data: Path, preset: str
) -> RunConfig:
    """The full configuration of a run on the store `data`, with the device and the number of
    threads that will be used.

    Raises UserError for a setting that cannot be, before anything is written.
    """
    kind, _ = entry(system).load()
    if not isinstance(model, kind):
        raise UserError(f"model: expected {kind.__name__}, found {type(model).__name__}")
    if start := getattr(model, "start", None):
        model = replace(cast(Any, model), start=start.resolve())
    check(model)
    check(train_config)
    smallest = getattr(model, "smallest_batch", 1)
    if train_config.batch_size < smallest:
        raise UserError(
            f"--batch-size {train_config.batch_size}: expected {smallest} or more: batch "
            "normalisation has nothing to normalise a single sentence by"
        )
    if train_config.batch_size % train_config.accumulate:
        raise UserError(
            f"--batch-size {train_config.batch_size}: expected a multiple of --accumulate "
            f"{train_config.accumulate}"
        )
    device = choose_device(train_config.device)
    if train_config.precision == "tf32" and device.type != "cuda":
        raise UserError(f"--precision tf32: expected a GPU, whose format it is; found {device}")
    store = Store.open(data)
    if parallel := entry(system).parallel:
        _check_parallel(store, model)
    return RunConfig(
        system=system,
        model=model,
        train=replace(
            train_config,
            device=cast(Any, device.type),
            threads=train_config.threads or torch.get_num_threads(),
        ),
        store=absolute(data),
        store_digest=store.digest,
        tokenizer_digest=store.info.tokenizers[TOKENIZER],
        vocab_size=store.tokenizer.vocab_size,
        max_words=store.split("train").max_length,
        target_vocab_size=(store.info.target_vocab_size or 0) if parallel else 0,
        target_tokenizer_digest=store.info.tokenizers[TARGET_TOKENIZER] if parallel else "",
        preset=preset,
    )


def _check_parallel(store: Store, model: Any) -> None:
    """Raise UserError for a store that a system of pairs cannot learn from."""
    if store.info.target_vocab_size is None:
        raise UserError(
            f"{store.path}: expected a store with a parallel side, found one without: "
            "lvtrain prepare SOURCE --target TARGET makes one"
        )
    kinds = {store.info.tokenizers[name] for name in (TOKENIZER, TARGET_TOKENIZER)}
    if model.one_vocabulary and len(kinds) > 1:
        start = getattr(model, "start", None)
        whose = f", as --from {start} has" if start else ""
        raise UserError(
            f"--tied all{whose}: {store.path}: expected one vocabulary for both sides, found two: "
            "lvtrain prepare --shared-vocabulary makes one"
        )


def starting(system: str, model: Any, run: Path | None, out: Path, resume: Resume) -> Any:
    """The configuration of a system that starts from the translator of `run`, if one is given; or,
    where such a run goes on in `out`, as it is recorded there: `run` may be gone since.

    Raises UserError where there is nothing of the kind.
    """
    if not hasattr(model, "start"):
        if run is not None:
            raise UserError(f"--from: {system} begins anew; seq2seq-gan starts from a translator")
        return model
    if resume == "auto" and (out / CONFIG).is_file():
        begun = read_config(out).model
        if isinstance(begun, type(model)) and begun.start is not None:
            return _with_translator(model, begun.translator, run or begun.start)
    return model if run is None else starting_from(model, run)


def starting_from(model: Any, run: Path) -> Any:
    """The configuration of a system that goes on from the translator of `run`: with its shapes and
    its regularisation, and an optimiser of its own.

    Raises UserError for another system, or a folder without a translator.
    """
    found = read_config(run)
    theirs = getattr(found.model, "translator", found.model)
    if not hasattr(model, "translator") or not isinstance(theirs, type(model.translator)):
        raise UserError(
            f"--from {run}: expected the run of a translator to train one from it, found "
            f"'{found.system}'"
        )
    return _with_translator(model, theirs, run)


def _with_translator(model: Any, theirs: Any, run: Path) -> Any:
    translator = replace(theirs, optimizer=model.translator.optimizer)
    return replace(model, start=run.resolve(), translator=translator)


def carry_out(config: RunConfig, out: Path, resume: Resume = "never") -> Outcome:
    """Train as `config` says, into `out`.

    Raises UserError where `out` holds something else, or a run that is not to be resumed or has
    another configuration.
    """
    check_folder(out, config, resume)
    with held(out):
        # Once more: another process may have trained here until just now.
        new = not check_folder(out, config, resume)
        found = None if new else find_checkpoint(out, config)
        if found:
            config = as_begun(config, read_config(out))
        return _carry_out(config, out, found, new)


def _carry_out(config: RunConfig, out: Path, found: Checkpoint | None, new: bool) -> Outcome:
    settings = config.train
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    if device.type == "cpu":
        keep_freed_memory()
    store = Store.open(config.store)
    batches = Batches(
        store.split("train"),
        batch_size=settings.batch_size,
        seed=settings.seed,
        by_length=settings.by_length,
        locality=settings.locality,
        device=device,
        prefetch=True,
    )
    system = build(config)
    cast(nn.Module, system).to(device)
    game = _game(system, settings)
    judge = None
    if settings.validate_every and "valid" in store.splits:
        judge = validation(
            system, config, store.split("valid"), store.tokenizer, store.target_tokenizer
        )
    if found:
        restore(game.engines, found)
    else:
        begin(system, config)
    with logged(config, out, found, new, store) as log:
        played, started = on_device(game, device), is_started(config)
        return train(played, batches, settings, out, log, judge, found, started=started)


@contextmanager
def logged(
    config: RunConfig, out: Path, found: Checkpoint | None, new: bool, store: Store
) -> Iterator[RunLog]:
    """The log of a run that starts or goes on, in a folder where its configuration stands."""
    settings = config.train
    complete = found is not None and found.step == settings.steps
    with (
        nullcontext() if complete else recorded(out, config, new=new),
        RunLog(
            out,
            total_steps=settings.steps,
            resume_step=found.step if found else None,
            every=settings.log_every,
            tensorboard=settings.tensorboard,
        ) as log,
    ):
        for warning in (*(found.warnings if found else ()), *_warnings(config, store)):
            log.message(f"warning: {warning}")
        if found and complete:
            log.message(f"{out} is complete at step {found.step}; --steps makes a run longer")
        elif found:
            log.message(f"resuming {out} at step {found.step}")
        yield log
        for remark in _remarks(config, out):
            log.message(f"warning: {remark}")


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes a GPU where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: expected a CUDA device, found none")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _game(system: System, settings: TrainConfig) -> Game:
    watch = Watch(next(cast(nn.Module, system).parameters()).device)

    def engine(name: str, module: nn.Module, optimizer: OptimizerConfig) -> Engine:
        return TorchEngine(name, module, optimizer, settings.steps, watch)

    return accumulating(system.game(engine), settings.accumulate)


def _remarks(config: RunConfig, out: Path) -> Iterator[str]:
    """What is odd about a run that has come to its end, and was not known at its start."""
    lines = read_metrics(out)
    trained = [line for line in lines if line["kind"] == "train"]
    judged = [line for line in lines if line["kind"] == "validation"]
    best = [line["step"] for line in judged if line.get("best")]
    if best[-1:] == [0] and judged[-1]["step"]:
        yield (
            "no step was better than the start of the run: what reads it takes step 0, unless "
            "--step says another"
        )
    model, steps = config.model, config.train.steps
    if isinstance(model, Seq2SeqGANConfig) and trained and not model.foreseen(steps):
        last = trained[-1]
        if last.get("heeded") == 0:
            # Of how often it was right the log has a mean over some steps.
            with suppress(OSError, UserError):
                found = latest(out / CHECKPOINTS)
                if found and found.step == last["step"]:
                    last |= {"judged": standing(found.module("adversary"))["judged"]}
        yield from model.remarks(last["step"], steps, last)


def _warnings(config: RunConfig, store: Store) -> Iterator[str]:
    """What is odd about a store for a run, or its configuration, and no mistake."""
    if hasattr(config.model, "warnings"):
        usual, _ = named_preset(config.system, config.preset)
        yield from config.model.warnings(config.train.steps, usual)
    settings, rows = config.train, store.split("train").rows
    if settings.validate_every and "valid" not in store.splits:
        yield (
            f"{place(config.store)} has no validation split: no checkpoint can be chosen as the "
            "best, and the last one is used"
        )
    if (draws := _draws(config.model)) >= config.vocab_size:
        yield (
            f"--sampled-softmax {draws}: expected fewer draws than the {config.vocab_size:,} words "
            "of the vocabulary: the whole softmax (--sampled-softmax 0) costs less and is exact"
        )
    if settings.batch_size > rows:
        yield (
            f"--batch-size {settings.batch_size}: the store has {rows:,} sentences, so every batch "
            "holds some more than once"
        )


def _draws(model: Any) -> int:
    """The draws of a sampled softmax, of a system or of what it is composed of."""
    parts = [getattr(model, field.name) for field in fields(model)]
    return max(
        getattr(model, "sampled_softmax", 0),
        *(_draws(part) for part in parts if is_dataclass(part)),
        0,
    )
