"""What the figures of a run are called on a page, and what they mean."""

from __future__ import annotations

import math
from typing import Any

# name: (label, what it says, whether more is better)
_KNOWN: dict[str, tuple[str, str, bool | None]] = {
    "grammatical": ("Grammatical", "share of samples that the grammar derives", True),
    "reverse_perplexity": (
        "Reverse perplexity",
        "of real text, to a language model trained on samples",
        False,
    ),
    "real_perplexity": (
        "Real perplexity",
        "of real text, to the same language model trained on real text",
        None,
    ),
    "forward_perplexity": (
        "Forward perplexity",
        "of samples, to a language model trained on real text",
        False,
    ),
    "reverse_ngram": (
        "Reverse trigram perplexity",
        "of real text, to a trigram model of samples",
        False,
    ),
    "perplexity": ("Perplexity", "of held-out text", False),
    "exact_perplexity": ("Exact perplexity", "of grammatical samples, to the grammar itself", None),
    "perplexity_floor": ("Perplexity floor", "of real sentences, to the grammar itself", None),
    "distinct_grammatical": ("Distinct grammatical", "share of grammatical samples", True),
    "reconstruction_accuracy": ("Reconstructed words", "share of words back in place", True),
    "reconstruction_exact": ("Reconstructed sentences", "share that came back whole", True),
    "reconstruction_bleu": ("Reconstruction BLEU", "against what was encoded", True),
    "reconstruction_nll": ("Reconstruction NLL", "of a word given its code, in nats", False),
    "reconstruction": ("Reconstruction", "cross-entropy of a word, in nats", False),
    "cross_entropy": ("Cross-entropy", "of a word, in nats", False),
    "self_bleu": ("Self-BLEU", "of each sample against the others: less is more diverse", False),
    "distinct_1": ("Distinct words", "share of the words of samples", True),
    "distinct_2": ("Distinct bigrams", "share of the bigrams of samples", True),
    "distinct_3": ("Distinct trigrams", "share of the trigrams of samples", True),
    "duplicates": ("Duplicates", "share of samples that came before", False),
    "unique": ("Unique", "share of samples that are alone", True),
    "copied": ("Copied", "share of samples that stand in the training text", None),
    "frechet": ("Fréchet distance", "between real and generated codes", False),
    "elbo": ("ELBO", "evidence lower bound, in nats a sentence", True),
    "negative_elbo": ("Negative ELBO", "in nats a sentence", False),
    "kl": ("KL", "from posterior to prior, in nats a sentence", None),
    "iw_nll": ("IW NLL", "importance-weighted, in nats a sentence", False),
    "iw_perplexity": ("IW perplexity", "importance-weighted, of held-out text", False),
    "mutual_information": ("Mutual information", "of sentence and code, in nats", True),
    "active_units": ("Active units", "dimensions of the code that vary with the sentence", True),
    "unknown_words": (
        "Unknown words",
        "share of the references' words that are out of the vocabulary, and match nothing",
        False,
    ),
    "known_sources": (
        "Known sources",
        "share without words out of the vocabulary, which valid, precision and coverage are of",
        None,
    ),
    "wasserstein": ("Wasserstein", "the critic's estimate, real against generated codes", None),
    "gradient_norm": ("Gradient norm", "before clipping", None),
    "code_norm": ("Norm of real codes", "mean", None),
    "generated_norm": ("Norm of generated codes", "mean", None),
    "answer_norm": ("Norm of the adversary's answer", "", None),
}

# Not figures, but how figures were made.
CONTEXT = (
    *("step", "averaged", "baseline_step", "baseline_averaged"),
    *("split", "samples", "sentences", "bleu_signature", "chrf_signature"),
)

_NO_LOSSES = frozenset(
    ["second", "norm", "gradient", "lr", "rate", "beta", "temperature", "noise", "weight", "std"]
)
_UPPER = {
    "oov": "OOV",
    "lr": "LR",
    "kl": "KL",
    "bleu": "BLEU",
    "nll": "NLL",
    "elbo": "ELBO",
    "iw": "IW",
    "vocab": "vocabulary",
}

# What a reader looks for first, each with what may stand for it; the first four that a run has are
# set large.
HEADLINES = (
    ("grammatical",),
    ("reverse_perplexity",),
    ("reconstruction_accuracy", "reconstruction_exact", "reconstruction_bleu"),
    ("iw_perplexity", "perplexity", "elbo"),
    ("forward_perplexity", "exact_perplexity"),
    ("self_bleu",),
    ("active_units",),
)


def label(name: str) -> str:
    """ "Reverse perplexity" for "reverse_perplexity", with the words that a dot sets apart."""
    *path, leaf = name.split(".")
    if leaf in _KNOWN:
        leaf = _KNOWN[leaf][0]
    else:
        words = [_UPPER.get(word, word) for word in leaf.replace("/", " ").split("_")]
        leaf = " ".join(words)
        leaf = leaf[:1].upper() + leaf[1:]
    return " · ".join([*(part.replace("_", " ") for part in path), leaf])


def note(name: str) -> str:
    """What a figure says, where it is known."""
    return _KNOWN.get(name.rsplit(".", 1)[-1], ("", "", None))[1]


def direction(name: str) -> str:
    """An arrow toward better, where there is one."""
    better = _KNOWN.get(name.rsplit(".", 1)[-1], ("", "", None))[2]
    return {True: "↑", False: "↓", None: ""}[better]


def is_loss(name: str) -> bool:
    """Whether a metric is a loss or a score, and not a norm, a setting that moves, or the speed."""
    words = set(name.lower().replace("/", "_").split("_"))
    return not words & _NO_LOSSES


def value(number: Any) -> str:
    """A figure with as many decimals as it deserves; other values as they are."""
    if number is None:
        return "—"
    if isinstance(number, bool) or not isinstance(number, int | float):
        return str(number)
    if isinstance(number, int):
        return f"{number:,}"
    if not math.isfinite(number):
        return "—"
    size = abs(number)
    if number == 0 or 0.001 <= size < 10:
        return f"{number:.3f}"
    if size < 0.001 or size >= 1e7:
        return f"{number:.3g}"
    return f"{number:,.2f}" if size < 1_000 else f"{number:,.0f}"
