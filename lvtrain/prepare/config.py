"""What `lvtrain prepare` is told."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import tyro

from lvtrain.data.tokenizer import BYTES
from lvtrain.errors import UserError
from lvtrain.text.lines import LINE_LIMIT


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """What to read and how to turn it into a store."""

    files: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Text (a sentence a line; .gz, .zst), .jsonl, .parquet or .arrow files, datasets, globs."""
    column: str | None = None
    """Column of the sentences in Parquet, Arrow and JSON files; by default the only text column."""
    label_column: str | None = None
    """Column of the labels."""
    labels: tuple[str, ...] = ()
    """Files with the label of each sentence, a line each."""
    label_by_file: bool = False
    """Make each input file a label of its own."""
    target: tuple[str, ...] = ()
    """Files of the parallel side, line by line."""
    target_column: str | None = None
    """Column of the parallel side, in its own files or in those of the sentences."""
    valid: tuple[str, ...] = ()
    """Files of the validation split; without them a share of the training files."""
    valid_labels: tuple[str, ...] = ()
    """Labels of the validation files."""
    valid_target: tuple[str, ...] = ()
    """Parallel side of the validation files."""
    valid_fraction: float = 0.01
    """Share of the sentences for validation, chosen by hash: equal sentences stay together."""
    test: tuple[str, ...] = ()
    """Files of the test split."""
    test_labels: tuple[str, ...] = ()
    """Labels of the test files."""
    test_target: tuple[str, ...] = ()
    """Parallel side of the test files."""
    tokenizer: Literal["words", "bpe"] = "words"
    """Whole words between whitespace, or byte-level byte-pair pieces."""
    vocab_size: int | None = None
    """Words or pieces in the vocabulary, specials not counted; every word if not given. With
    --tokenizer bpe it must be given, at least 256."""
    target_vocab_size: int | None = None
    """The same for the parallel side; as many as the first side if not given."""
    shared_vocabulary: bool = False
    """Make one vocabulary of both sides together, so that a translator can share embeddings."""
    min_count: int = 1
    """Least number of times that a word of the vocabulary occurs."""
    lowercase: bool = False
    """Lower-case the text."""
    max_words: int = 50
    """Longest sentence kept, in tokens; longer ones are dropped and counted."""
    line_limit: int = LINE_LIMIT
    """Longest line taken for a sentence, in bytes; a longer one is an error."""
    deduplicate: Literal["none", "exact", "near"] = "none"
    """Leave out sentences of the training files, those chosen for validation by hash among them,
    that are there already: word for word with the same label and parallel side; or nearly, by
    MinHash of the text alone: 99 of 100 that have 0.9 of their pairs of words in common with an
    earlier one, 84 at 0.8, 9 at 0.5, and more with many such. With --append those of the files
    added are compared, not those of the store."""
    seed: int = 0
    """Chooses the sentences for validation."""
    processes: int = 0
    """Processes that work at once; one for each core if 0. The store is the same."""
    work: str | None = None
    """Folder for work on a store at a URI, gone on with after a kill; by default one below
    ~/.cache/lvtrain, or $XDG_CACHE_HOME/lvtrain. It takes twice the store's bytes, and with
    --deduplicate first 12 or 72 a sentence; with --ray, every node must reach it."""
    append: bool = False
    """Add the sentences to the store that is there, with its vocabulary and its settings."""
    overwrite: bool = False
    """Replace the store if there is one."""

    @property
    def settings(self) -> dict[str, Any]:
        """What the store follows from, as JSON can say it."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in ("append", "overwrite", "processes", "work")
        }


def check_files(config: PrepareConfig) -> None:
    """Raise UserError for files that do not go together."""
    if not config.files:
        raise UserError("no input files: expected at least one")
    given = [bool(config.label_column), bool(config.labels), config.label_by_file]
    if sum(given) > 1:
        raise UserError("expected one of --label-column, --labels and --label-by-file, found more")
    for flag, of_train, split, files in (
        ("labels", config.labels, "valid", config.valid),
        ("labels", config.labels, "test", config.test),
        ("target", config.target, "valid", config.valid),
        ("target", config.target, "test", config.test),
    ):
        name = f"{split}_{flag}"
        if bool(getattr(config, name)) != bool(of_train and files):
            found = (
                "found none" if files and of_train else f"found one without --{flag} or --{split}"
            )
            raise UserError(
                f"--{name.replace('_', '-')}: expected with --{flag} and --{split}, {found}"
            )
    if not (config.target or config.target_column):
        for flag, asked_for in (
            ("--target-vocab-size", config.target_vocab_size is not None),
            ("--shared-vocabulary", config.shared_vocabulary),
        ):
            if asked_for:
                raise UserError(f"{flag}: expected with --target or --target-column, found neither")


def check_settings(config: PrepareConfig) -> None:
    """Raise UserError for settings out of range or without effect."""
    if config.append and config.overwrite:
        raise UserError("expected one of --append and --overwrite, found both")
    if config.processes < 0:
        raise UserError(f"--processes: expected 0 or more, found {config.processes}")
    limits = {
        "--vocab-size": config.vocab_size,
        "--target-vocab-size": config.target_vocab_size,
        "--min-count": config.min_count,
        "--max-words": config.max_words,
        "--line-limit": config.line_limit,
    }
    for flag, value in limits.items():
        if value is not None and value < 1:
            raise UserError(f"{flag}: expected at least 1, found {value}")
    if not 0 <= config.valid_fraction < 1:
        raise UserError(
            f"--valid-fraction: expected 0 or more and less than 1, found {config.valid_fraction}"
        )
    if config.shared_vocabulary and config.target_vocab_size is not None:
        raise UserError(
            "--target-vocab-size: expected none with --shared-vocabulary, whose size is "
            f"--vocab-size; found {config.target_vocab_size}"
        )
    if config.tokenizer == "bpe" and not config.append:  # which has a vocabulary
        if config.min_count > 1:
            raise UserError(
                "--min-count: expected 1 with --tokenizer bpe, which counts pieces, "
                f"found {config.min_count}"
            )
        sizes = {"--vocab-size": config.vocab_size or 0}
        if config.target_vocab_size is not None:
            sizes["--target-vocab-size"] = config.target_vocab_size
        for flag, size in sizes.items():
            if size < BYTES:
                raise UserError(
                    f"{flag}: a BPE vocabulary holds the {BYTES} bytes: expected at least {BYTES}, "
                    f"found {size or 'none'}"
                )
