"""What a run starts from: with `--from`, the translator of another run."""

from __future__ import annotations

from lvtrain.config import RunConfig
from lvtrain.data.location import place
from lvtrain.errors import UserError
from lvtrain.model import Model
from lvtrain.systems import System
from lvtrain.systems.seq2seq import translator_of
from lvtrain.systems.seq2seq_gan import Seq2SeqGAN


def is_started(config: RunConfig) -> bool:
    """Whether a run starts from another."""
    return getattr(config.model, "start", None) is not None


def begin(system: System, config: RunConfig) -> None:
    """Put the system of a new run to where the run ended that it starts from, if it says one.

    Raises UserError where that has no translator, of the same words and sizes.
    """
    if not isinstance(system, Seq2SeqGAN) or system.config.start is None:
        return
    run, ours = system.config.start, system.translator
    found = Model.load(run)
    theirs = translator_of(found.system)
    if theirs is None:
        raise UserError(f"--from {run}: expected a translator, found '{found.config.system}'")
    for name in ("tokenizer_digest", "target_tokenizer_digest"):
        if getattr(found.config, name) != getattr(config, name):
            raise UserError(
                f"--from {run}: expected the vocabularies of {place(config.store)}, found others"
            )
    for name, expected in theirs.config.shapes.items():
        if (given := getattr(ours.config, name)) != expected:
            raise UserError(f"--{name}: expected {expected}, as --from {run} has, found {given}")
    system.start_from(theirs)
