"""Word overlap: BLEU to references and among samples, distinct n-grams, copies of training text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from lvtrain.data.batches import Rows
from lvtrain.data.feistel import mix

ORDER = 4
# Sentences hashed at a time.
CHUNK = 1 << 16


class Bleu(NamedTuple):
    """A score in 0..100 and sacrebleu's description of how it was made."""

    score: float
    signature: str


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str]) -> Bleu:
    """BLEU of a corpus against one reference a sentence (Papineni et al. 2002), by sacrebleu (Post
    2018). The text counts as tokenised: words are what spaces part."""
    metric = BLEU(tokenize="none", force=True)
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return Bleu(score, str(metric.get_signature()))


def self_bleu(sentences: Sequence[str], limit: int = 1_000) -> float:
    """Mean sentence BLEU-4 of each of the first `limit` sentences against the others as references
    (Zhu et al. 2018): high where samples repeat one another.

    Equal to sacrebleu's sentence score with effective order. It takes time linear in the sentences:
    for each n-gram the two largest counts tell the largest count among the *other* sentences.
    """
    rows = [sentence.split() for sentence in sentences[:limit]]
    if len(rows) < 2:
        return 0.0
    counts = [_ngrams(row) for row in rows]
    largest: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, grams in enumerate(counts):
        for gram, count in grams.items():
            best, owner, second = largest.get(gram, (0, -1, 0))
            if count > best:
                largest[gram] = count, i, best
            elif count > second:
                largest[gram] = best, owner, count
    lengths = Counter(map(len, rows))
    total = 0.0
    for i, (row, grams) in enumerate(zip(rows, counts, strict=True)):
        matched, present = [0] * ORDER, [max(0, len(row) - n) for n in range(ORDER)]
        for gram, count in grams.items():
            best, owner, second = largest[gram]
            matched[len(gram) - 1] += min(count, second if owner == i else best)
        lengths[len(row)] -= 1
        reference = min((n for n, many in lengths.items() if many),
                        key=lambda n: (abs(n - len(row)), n))  # fmt: skip
        lengths[len(row)] += 1
        total += BLEU.compute_bleu(
            matched, present, len(row), reference, smooth_method="exp", effective_order=True
        ).score
    return total / len(rows)


def distinct(sentences: Iterable[str], order: int) -> float:
    """Different n-grams over all n-grams (Li et al. 2016). Falls as the text grows, so compare
    texts of one size."""
    total, seen = 0, set()
    for sentence in sentences:
        words = sentence.split()
        grams = list(zip(*(words[i:] for i in range(order)), strict=False))
        total += len(grams)
        seen.update(grams)
    return len(seen) / total if total else 0.0


def repeated(sentences: Rows, training: Rows) -> tuple[float, float]:
    """Shares of the sentences that have been there before, and that stand in the training text word
    for word.

    Compares 64-bit hashes, a chunk at a time: memory grows by 8 bytes a sentence, and not with the
    training text.
    """
    if not sentences.rows:
        return 0.0, 0.0
    own = np.concatenate(list(_hashes(sentences)))
    distinct, counts = np.unique(own, return_counts=True)
    found = np.zeros(len(distinct), dtype=bool)
    for hashes in _hashes(training):
        found |= np.isin(distinct, hashes)
    return 1.0 - len(distinct) / len(own), float(counts[found].sum() / len(own))


def _hashes(split: Rows) -> Iterator[np.ndarray]:
    """A multilinear hash of rows, chunk by chunk: Σ_t a_t x_t mod 2⁶⁴. Padding is 0 and adds
    nothing."""
    for start in range(0, split.rows, CHUNK):
        tokens, _ = split.padded(np.arange(start, min(start + CHUNK, split.rows)))
        factors = np.array([mix(t) | 1 for t in range(tokens.shape[1])], dtype=np.uint64)
        yield tokens.astype(np.uint64) @ factors


def _ngrams(words: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(words[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(words) - n + 1)
    )
