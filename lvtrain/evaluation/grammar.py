"""How well sentences match the embedded corpus, whose truth is known exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lvtrain.data.tokenizer import SPECIALS, UNK
from lvtrain.errors import UserError
from lvtrain.grammar.grammar import Grammar

_PROBE = 100


def grammar_scores(sentences: Sequence[str], grammar: Grammar | None = None) -> dict[str, float]:
    """Scores of generated sentences, over all of them or over the grammatical ones.

    grammatical            share that the grammar derives
    exact_perplexity       per word, the end counted, of the grammatical ones under the true
                           distribution; near `perplexity_floor` if they are as likely as real ones,
                           below it if they keep to the likely ones; infinite if there are none
    perplexity_floor       what real sentences have
    distinct_grammatical   distinct ones as a share of the grammatical; 0 if there are none
    construction_coverage, scene_coverage
                           share of the grammar's constructions, scenes that occur
    construction_distance, scene_distance
                           total variation 1/2 sum_k |frequency_k - probability_k|: 0 equal, 1 apart

    Raises `UserError` if there are no sentences.
    """
    if not sentences:
        raise UserError("grammar scores: expected at least one sentence, found none")
    grammar = grammar or Grammar()
    parsed = [(s, d) for s in sentences for d in grammar.derivations(s)]
    grammatical = [sentence for sentence, _ in parsed]
    count = max(len(parsed), 1)
    scores = {
        "grammatical": len(parsed) / len(sentences),
        "exact_perplexity": grammar.perplexity(grammatical) if parsed else float("inf"),
        "perplexity_floor": grammar.perplexity_floor(),
        "distinct_grammatical": len(set(grammatical)) / count,
    }
    for name, found, probability in (
        ("construction", [d.construction for _, d in parsed], grammar.construction_probability),
        ("scene", [d.scene for _, d in parsed], grammar.scene_probability),
    ):
        counts = Counter(found)
        frequency = np.array([counts[k] / count for k in range(len(probability))])
        scores[f"{name}_coverage"] = float((frequency > 0).mean())
        distance = float(np.abs(frequency - probability).sum() / 2)
        scores[f"{name}_distance"] = distance if parsed else 1.0
    return scores


def embedded_grammar(texts: Sequence[str]) -> Grammar | None:
    """The embedded grammar if the text comes from it, judged by its first hundred sentences.

    Sentences with words out of the vocabulary say nothing and are passed over.
    """
    probe = [text for text in texts[:_PROBE] if SPECIALS[UNK] not in text.split()]
    grammar = Grammar()
    return grammar if probe and all(map(grammar.is_grammatical, probe)) else None
