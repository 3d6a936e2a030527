"""How much of a sentence its code keeps: the likelihood of its words, and greedy reconstruction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from lvtrain.data.batches import Batch
from lvtrain.evaluation.overlap import corpus_bleu
from lvtrain.systems import LatentSystem


class Reconstruction(NamedTuple):
    """How sentences compare with what came back from their codes, both as the store has them: to a
    code, `<unk>` is a word like any other, and has come back where `<unk>` did."""

    accuracy: float
    """Words equal in place over the longer of the two lengths."""
    exact: float
    """Share of the sentences that came back whole."""
    bleu: float
    bleu_signature: str


@torch.inference_mode()
def reconstruction_nll(system: LatentSystem, batches: Iterable[Batch]) -> float:
    """−log p(x | c) in nats a word, ends counted, the words before each given, free of noise; a
    VAE's c is the posterior mean."""
    total, words = 0.0, 0
    for batch in batches:
        codes = system.encode(batch.tokens, batch.lengths)
        loss = system.decoder.cross_entropy(codes, batch.tokens, batch.lengths, reduction="sum")
        total += loss.item()
        words += batch.words
    return total / words if words else math.nan


def compare(sources: Sequence[str], reconstructions: Sequence[str]) -> Reconstruction:
    """Compare sentences with their reconstructions, word by word in place."""
    equal = longer = exact = 0
    for source, reconstruction in zip(sources, reconstructions, strict=True):
        a, b = source.split(), reconstruction.split()
        equal += sum(x == y for x, y in zip(a, b, strict=False))
        longer += max(len(a), len(b))
        exact += a == b
    bleu = corpus_bleu(reconstructions, sources)
    return Reconstruction(
        accuracy=equal / max(1, longer),
        exact=exact / max(1, len(sources)),
        bleu=bleu.score,
        bleu_signature=bleu.signature,
    )
