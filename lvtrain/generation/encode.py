"""Sentences to codes, in batches of like lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from lvtrain.data.tokenizer import EOS, PAD, Tokenizer
from lvtrain.errors import UserError
from lvtrain.systems import LatentSystem

# Sentences, and padded words, of a batch.
BATCH, BATCH_WORDS = 1024, 65_536


@torch.inference_mode()
def encode(
    system: LatentSystem, sentences: Sequence[Sequence[int]], device: torch.device
) -> Float[Tensor, "N C"]:
    """The codes of sentences of ids, each ended, in the order given."""
    parts = by_length([len(ids) for ids in sentences])
    codes = []
    for part in parts:
        tokens, lengths = padded([sentences[place] for place in part])
        codes.append(system.encode(tokens.to(device), lengths.to(device)))
    order = torch.tensor([place for part in parts for place in part], device=device)
    found = torch.cat(codes)
    return torch.empty_like(found).index_copy_(0, order, found)


def rows(tokenizer: Tokenizer, sentences: Sequence[str]) -> list[list[int]]:
    """Sentences as ids, each ended. Raises UserError where there are none, or one is no text."""
    if not (given := texts(sentences)):
        raise UserError("expected at least one sentence, found none")
    return [[*ids, EOS] for ids in tokenizer.encode_batch(given)]


def texts(sentences: Sequence[str]) -> list[str]:
    """The sentences; raises UserError for a single one, whose letters would be taken for sentences,
    and where one is no text, as bytes of a command line may be."""
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise UserError(f"expected a list of sentences, found {sentences!r:.60}")
    given = list(sentences)
    for sentence in given:
        if not isinstance(sentence, str):
            raise UserError(f"expected sentences, found {sentence!r:.60}")
        try:
            sentence.encode()
        except UnicodeEncodeError:
            said = ascii(sentence[:40])
            raise UserError(f"expected sentences in UTF-8, found {said}") from None
    return given


def padded(
    sentences: Sequence[Sequence[int]],
) -> tuple[Int64[Tensor, "N T"], Int64[Tensor, " N"]]:
    """Sentences of ids side by side, padded to the longest, and their lengths."""
    lengths = torch.tensor([len(ids) for ids in sentences])
    tokens = torch.full((len(sentences), int(lengths.max())), PAD)
    for row, ids in zip(tokens, sentences, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return tokens, lengths


def by_length(
    lengths: Sequence[int], batch: int = BATCH, words: int = BATCH_WORDS
) -> list[list[int]]:
    """The places of sentences in batches, the short ones first.

    One long sentence must not pad a thousand short ones: a batch holds at most `batch` sentences
    and so many words with their padding, or a single longer sentence.
    """
    parts: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        rows = len(parts[-1]) + 1 if parts else batch + 1
        if rows > batch or rows * lengths[place] > words:
            parts.append([])
        parts[-1].append(place)
    return parts
