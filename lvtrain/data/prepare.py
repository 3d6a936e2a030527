"""Text to store: `lvtrain prepare`.

Two passes over the input in bounded memory: one counts words and makes the vocabulary, one encodes
each sentence and appends it to the rows of its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import tyro

from lvtrain.data.folder import disk_space, new_folder
from lvtrain.data.info import INDEX, TARGET_TOKENIZER, TOKENIZER, VERSION, StoreInfo, reasons
from lvtrain.data.lines import LINE_LIMIT
from lvtrain.data.passes import HASH_RANGE, Progress, Readable, Sorter, count, encode
from lvtrain.data.shards import Layout, sha256, smallest_dtype
from lvtrain.data.sources import Sentences, Source
from lvtrain.data.tokenizer import BYTES, Tokenizer
from lvtrain.errors import UserError

FREQUENT: Final = 100


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
    """Words or pieces in the vocabulary, specials not counted; every word if not given."""
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
    seed: int = 0
    """Chooses the sentences for validation."""
    overwrite: bool = False
    """Replace the store if there is one."""


def prepare(config: PrepareConfig, out: Path | str, progress: Progress | None = None) -> StoreInfo:
    """Turn files into a store at `out`. Raises UserError for anything wrong with them."""
    _check_files(config)
    _check_settings(config)
    sources = {"train": _source(config, config.files, config.labels, config.target)}
    if config.valid:
        sources["valid"] = _source(config, config.valid, config.valid_labels, config.valid_target)
    if config.test:
        sources["test"] = _source(config, config.test, config.test_labels, config.test_target)
    names = tuple(
        {"split": split, "file": str(path), "bytes": path.stat().st_size}
        for split, source in sources.items()
        for path in source.paths
    )
    return _build(sources, config, Path(out), progress, names)


def prepare_sentences(
    train: Sentences | Sequence[str],
    valid: Sentences | Sequence[str] | None = None,
    test: Sentences | Sequence[str] | None = None,
    *,
    config: PrepareConfig,
    out: Path | str,
    progress: Progress | None = None,
) -> StoreInfo:
    """Turn sentences in memory into a store at `out`; the files of `config` are not read."""
    _check_settings(config)
    given = {"train": train, "valid": valid, "test": test}
    sources = {
        split: texts if isinstance(texts, Sentences) else Sentences(texts=list(texts))
        for split, texts in given.items()
        if texts is not None
    }
    return _build(sources, config, Path(out), progress, ())


def _check_files(config: PrepareConfig) -> None:
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
        for flag, given_ in (
            ("--target-vocab-size", config.target_vocab_size is not None),
            ("--shared-vocabulary", config.shared_vocabulary),
        ):
            if given_:
                raise UserError(f"{flag}: expected with --target or --target-column, found neither")


def _check_settings(config: PrepareConfig) -> None:
    """Raise UserError for settings out of range or without effect."""
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
    if config.tokenizer == "bpe":
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


def _source(
    config: PrepareConfig, files: Sequence[str], labels: Sequence[str], target: Sequence[str]
) -> Source:
    return Source(
        files=files,
        column=config.column,
        label_column=config.label_column,
        labels=labels,
        label_by_file=config.label_by_file,
        target=target,
        target_column=config.target_column,
        line_limit=config.line_limit,
    )


def _build(
    sources: Mapping[str, Readable],
    config: PrepareConfig,
    out: Path,
    progress: Progress | None,
    names: tuple[Mapping[str, Any], ...],
) -> StoreInfo:
    report = progress or (lambda done, total, phase: None)
    with new_folder(out, known_by=INDEX, overwrite=config.overwrite) as folder:
        sorter = Sorter(
            lowercase=config.lowercase,
            max_words=config.max_words,
            seed=config.seed % HASH_RANGE,
            threshold=0 if "valid" in sources else round(config.valid_fraction * HASH_RANGE),
        )
        _check_alike(sources)
        seen = count(sources["train"], sorter, report)
        where = sources["train"].name
        if not seen.words:
            said = reasons(seen.dropped, config.max_words)
            raise UserError(f"{where}: no sentences to make a vocabulary of: dropped {said}")
        words = seen.words + seen.target_words if config.shared_vocabulary else seen.words
        tokenizers = {TOKENIZER: _train_tokenizer(words, config, config.vocab_size, where)}
        if seen.parallel and config.shared_vocabulary:
            tokenizers[TARGET_TOKENIZER] = tokenizers[TOKENIZER]
        elif seen.parallel:
            size = config.target_vocab_size or config.vocab_size
            tokenizers[TARGET_TOKENIZER] = _train_tokenizer(
                seen.target_words, config, size, f"{where}: parallel side"
            )
        sizes = {name: tokenizer.vocab_size for name, tokenizer in tokenizers.items()}
        targets = smallest_dtype(sizes[TARGET_TOKENIZER]) if seen.parallel else None
        layout = Layout(
            tokens=smallest_dtype(sizes[TOKENIZER]),
            labels=seen.labels is not None,
            targets=targets,
        )
        needs = seen.words.total() * layout.tokens.itemsize
        if targets is not None:
            needs += seen.target_words.total() * targets.itemsize
        with disk_space(folder, needs):
            splits = encode(sources, seen, folder, layout, tokenizers, report)
            for name, tokenizer in tokenizers.items():
                tokenizer.save(folder / name)
            info = StoreInfo(
                version=VERSION,
                vocab_size=sizes[TOKENIZER],
                target_vocab_size=sizes.get(TARGET_TOKENIZER),
                labels=seen.labels,
                splits=splits,
                frequent=tuple(
                    sorted(seen.words.items(), key=lambda item: (-item[1], item[0]))[:FREQUENT]
                ),
                tokenizers={name: sha256(folder / name) for name in tokenizers},
                sources=names,
                settings={
                    name: list(value) if isinstance(value, tuple) else value
                    for name, value in asdict(config).items()
                    if name != "overwrite"
                },
            )
            # Names of files need not be UTF-8: what is not becomes an escape of JSON's.
            (folder / INDEX).write_text(info.to_json(), "utf-8", errors="backslashreplace")
    return info


def _check_alike(sources: Mapping[str, Readable]) -> None:
    """Read the beginning of every split, so that what is wrong with its files as such, or that it
    has not what the training data have, is told before the passes. Raises UserError."""
    first = {split: next(source.chunks(), None) for split, source in sources.items()}
    train = first["train"]
    for split, chunk in first.items():
        if chunk is None or train is None:
            continue
        for what, own, expected in (
            ("labels", chunk.labels, train.labels),
            ("a parallel side", chunk.targets, train.targets),
        ):
            if (own is None) != (expected is None):
                raise UserError(
                    f"{sources[split].name}: expected the same columns as in the training data, "
                    f"found {'no ' + what.removeprefix('a ') if own is None else what}"
                )


def _train_tokenizer(
    counts: Mapping[str, int], config: PrepareConfig, vocab_size: int | None, where: str
) -> Tokenizer:
    try:
        if config.tokenizer == "bpe":
            return Tokenizer.bpe_from_counts(
                counts, vocab_size=vocab_size, lowercase=config.lowercase
            )
        return Tokenizer.words_from_counts(
            counts,
            vocab_size=vocab_size,
            min_count=config.min_count,
            lowercase=config.lowercase,
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
