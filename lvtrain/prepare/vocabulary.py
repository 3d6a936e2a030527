"""The vocabulary of `prepare`: a tokeniser from the counts of a corpus's words."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from lvtrain.data.tokenizer import SPECIALS, Tokenizer
from lvtrain.errors import UserError
from lvtrain.prepare.config import PrepareConfig
from lvtrain.prepare.counts import most_frequent, scaled

BPE_WORDS: Final = 20_000_000
"""Words that pieces are learnt of: counts of a longer text are scaled down to so many."""


def vocabulary(counts: pa.Table, config: PrepareConfig, size: int | None, where: str) -> Tokenizer:
    """Make a tokeniser of so many words or pieces. Raises UserError, which names where the words
    are from, if they are too few."""
    try:
        if config.tokenizer == "bpe":
            return Tokenizer.bpe_from_counts(
                most_frequent(scaled(counts, BPE_WORDS), None),
                vocab_size=size,
                lowercase=config.lowercase,
            )
        # Specials among the words are passed over.
        most = None if size is None else size + len(SPECIALS)
        return Tokenizer.words_from_counts(
            most_frequent(counts, most, config.min_count),
            vocab_size=size,
            min_count=config.min_count,
            lowercase=config.lowercase,
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
