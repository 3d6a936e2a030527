"""Sentences that a model generates, kept on a disk: memory does not grow with their number."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np

from lvtrain.data.batches import Rows
from lvtrain.data.feistel import mix
from lvtrain.data.layout import smallest_dtype
from lvtrain.evaluation.perplexity import Progress
from lvtrain.evaluation.sentences import FlatSplit, flattened
from lvtrain.model import Model

CHUNK: Final = 100_000
"""Sentences generated at a time, and the most that are held as text."""


class Generated(NamedTuple):
    """Sentences of a model."""

    first: list[str]
    """The first of them, CHUNK at most."""
    rows: Rows
    """All of them as ids of the model's vocabulary."""


@contextmanager
def generated(
    model: Model, count: int, seed: int, progress: Progress, **how: Any
) -> Iterator[Generated]:
    """Generate sentences, a function of the seed, for as long as they are wanted; `how` holds
    fields of DecodeConfig."""
    tokenizer = model.tokenizer
    first: list[str] = []
    lengths: list[np.ndarray] = []
    with tempfile.TemporaryFile(prefix="lvtrain-") as file:
        for start in range(0, count, CHUNK):
            of_chunk = seed if not start else mix(seed, start) >> 1
            texts = model.generate(min(CHUNK, count - start), of_chunk, **how)
            first = first or texts
            ids, of_texts = flattened(tokenizer.encode_batch(texts))
            file.write(ids.astype(smallest_dtype(tokenizer.vocab_size)).tobytes())
            lengths.append(of_texts.astype(np.int32))
            progress(f"generating {count:,} sentences: {start + len(texts):,}")
        file.write(bytes(8))
        file.flush()
        flat = np.memmap(file, smallest_dtype(tokenizer.vocab_size), mode="r")
        yield Generated(first, FlatSplit(flat, np.concatenate(lengths)))
