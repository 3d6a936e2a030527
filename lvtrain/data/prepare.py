"""Text to store: `lvtrain prepare`.

Two passes over the input in bounded memory: one counts words and makes the vocabulary, one encodes
each sentence and appends it to the rows of its length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import tyro

from lvtrain.data.folder import disk_space, new_folder
from lvtrain.data.info import INDEX, TARGET_TOKENIZER, TOKENIZER, VERSION, StoreInfo
from lvtrain.data.passes import HASH_RANGE, Progress, Readable, Sorter, count, encode
from lvtrain.data.shards import Layout, sha256, smallest_dtype
from lvtrain.data.sources import CHUNK_ROWS, LINE_LIMIT, Chunk, Source
from lvtrain.data.tokenizer import Tokenizer
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


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Sentences in memory, with their labels and parallel sides."""

    texts: Sequence[str]
    labels: Sequence[str] | None = None
    targets: Sequence[str] | None = None

    @property
    def bytes(self) -> int:
        """A measure of progress: the number of sentences."""
        return len(self.texts)

    def chunks(self) -> Iterator[Chunk]:
        """Read everything once, in order."""
        for start in range(0, len(self.texts), CHUNK_ROWS):
            part = slice(start, start + CHUNK_ROWS)
            yield Chunk(
                "sentences",
                start + 1,
                list(self.texts[part]),
                None if self.labels is None else list(self.labels[part]),
                None if self.targets is None else list(self.targets[part]),
                min(start + CHUNK_ROWS, len(self.texts)),
            )


def prepare(config: PrepareConfig, out: Path | str, progress: Progress | None = None) -> StoreInfo:
    """Turn files into a store at `out`. Raises UserError for anything wrong with them."""
    _check(config)
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
    given = {"train": train, "valid": valid, "test": test}
    sources = {
        split: texts if isinstance(texts, Sentences) else Sentences(texts=list(texts))
        for split, texts in given.items()
        if texts is not None
    }
    return _build(sources, config, Path(out), progress, ())


def _check(config: PrepareConfig) -> None:
    """Raise UserError for settings that contradict each other."""
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
        seen = count(sources["train"], sorter, report)
        tokenizers = {TOKENIZER: _train_tokenizer(seen.words, config, config.vocab_size, "")}
        if seen.parallel:
            size = config.target_vocab_size or config.vocab_size
            tokenizers[TARGET_TOKENIZER] = _train_tokenizer(
                seen.target_words, config, size, "parallel side: "
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
            (folder / INDEX).write_text(info.to_json(), encoding="utf-8")
    return info


def _train_tokenizer(
    counts: Mapping[str, int], config: PrepareConfig, vocab_size: int | None, which: str
) -> Tokenizer:
    if not counts:
        raise UserError(f"{which}no sentences to make a vocabulary of")
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
        raise UserError(f"{which}{error}") from None
