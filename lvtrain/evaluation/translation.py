"""How good translations are: BLEU and chrF against references; on the grammar, exactly.

The embedded grammar knows every valid translation of a sentence, so that both sides of what a
translator learns can be measured: of translations drawn from it,

    precision   the share that are valid: the probability mass on valid translations
    coverage    the share of the valid ones that occur, a mean over sources

Likelihood asks for coverage, whatever it costs in precision; a reward or a discriminator asks for
precision, and is content with one translation.

References are read from a store, which does not know the words out of its vocabulary. No
translation can write these, and one that says `<unk>` has not: in references they are UNKNOWN,
which matches nothing. To BLEU a word of a reference is one that matches or one more, so it is
exactly that against the text; to chrF each such word is one character that no translation has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest, Result

from lvtrain.data.batches import Batch, Rows, sequential
from lvtrain.data.tokenizer import SPECIALS, UNK, Tokenizer
from lvtrain.evaluation.sentences import ids, target_ids
from lvtrain.generation.translate import TranslateConfig, Translator, Watch, greedy, limits_of
from lvtrain.grammar.grammar import Grammar
from lvtrain.systems.seq2seq import Seq2Seq

Figures = dict[str, Any]

UNKNOWN: Final = "\udfff"
"""A word of a reference that is out of the vocabulary: half a surrogate pair, of which no text and
no translation can be."""

_BATCH = 256
# What sacrebleu calls the metrics.
_NAMES = {"bleu": "BLEU", "chrf": "chrF2"}


def scores(translations: Sequence[str], references: Sequence[str]) -> Figures:
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015) of a corpus, by sacrebleu (Post 2018).

    The text counts as tokenised: words are what spaces part.
    """
    figures: Figures = {}
    signatures: Figures = {}
    for name, metric in _metrics().items():
        found = metric.corpus_score(list(translations), [list(references)])
        figures[name] = found.score
        signatures[f"{name}_signature"] = str(metric.get_signature())
    return figures | signatures


def compare(
    baseline: Sequence[str], translations: Sequence[str], references: Sequence[str]
) -> Figures:
    """The scores of a baseline beside those of a system, with the p-values of the differences by
    paired bootstrap resampling (Koehn 2004)."""
    named: list[tuple[str, Sequence[str]]] = [("baseline", baseline), ("system", translations)]
    _, found = PairedTest(named, _metrics(), [references], test_type="bs", n_samples=1000)()
    figures: Figures = {}
    for name in _metrics():
        before, now = cast(list[Result], found[_NAMES[name]])
        gain = now.score - before.score
        figures |= {
            f"baseline_{name}": before.score,
            f"{name}_gain": gain,
            # The bootstrap counts differences larger than this one, of which there may be none.
            f"{name}_p": now.p_value if gain else 1.0,
        }
    return figures


def valid_translations(sources: Sequence[str], grammar: Grammar) -> list[frozenset[str]]:
    """All valid translations of each source; none where words are out of the vocabulary, and it is
    not known which are valid."""
    return [grammar.valid_translations(source) for source in sources]


def validity(translations: Sequence[str], valid: Sequence[frozenset[str]]) -> float:
    """Share of the translations that are valid, where it is known which are."""
    known = [(text, of) for text, of in zip(translations, valid, strict=True) if of]
    return sum(text in of for text, of in known) / max(1, len(known))


def mass(drawn: Sequence[Sequence[str]], valid: Sequence[frozenset[str]]) -> dict[str, float]:
    """Precision and coverage of translations drawn for sources whose valid ones are known; and the
    coverage of as many draws from the truth, where all valid ones are equally likely."""
    totals = {"precision": 0.0, "coverage": 0.0, "true_coverage": 0.0}
    for of, texts in zip(valid, drawn, strict=True):
        totals["precision"] += sum(text in of for text in texts) / len(texts)
        totals["coverage"] += len(of.intersection(texts)) / len(of)
        totals["true_coverage"] += 1 - (1 - 1 / len(of)) ** len(texts)
    return {name: total / max(1, len(valid)) for name, total in totals.items()}


def pairs_of(
    split: Rows, source: Tokenizer, target: Tokenizer, limit: int | None = None, seed: int = 0
) -> tuple[list[str], list[str]]:
    """The sentences of a split, or so many of them, and their references, as `references_of`."""
    limit = None if limit is None or limit >= split.rows else limit
    batches = list(sequential(split, _BATCH, limit_rows=limit, seed=seed))
    return source.decode_batch(ids(batches)), references_of(batches, target)


def references_of(batches: Iterable[Batch], target: Tokenizer) -> list[str]:
    """The parallel sides of batches, with UNKNOWN for each word out of the vocabulary."""
    texts = target.decode_batch(target_ids(batches))
    if target.kind != "words":  # pieces spell every word, `<unk>` too
        return texts
    unknown = SPECIALS[UNK]
    return [
        " ".join(UNKNOWN if word == unknown else word for word in text.split()) for text in texts
    ]


def readable(reference: str) -> str:
    """A reference as it is shown, `<unk>` for each word out of the vocabulary."""
    return reference.replace(UNKNOWN, SPECIALS[UNK])


def unknown_words(references: Sequence[str]) -> float:
    """Share of the words of references that are out of the vocabulary."""
    words = sum(len(reference.split()) for reference in references)
    return sum(reference.count(UNKNOWN) for reference in references) / max(1, words)


def validate(
    model: Seq2Seq,
    batches: Sequence[Batch],
    references: Sequence[str],
    target: Tokenizer,
    valid: Sequence[frozenset[str]] | None,
) -> dict[str, float]:
    """The figures of a translator in training, by greedy translations; the first of them selects,
    and lower is better. `valid` are all translations of each source that are, where it is known."""
    written, nll, words = [], 0.0, 0
    for batch in batches:
        assert batch.targets is not None and batch.target_lengths is not None
        memory = model.encode(batch.tokens, batch.lengths)
        nll -= model.log_probs(memory, batch.targets, batch.target_lengths).sum().item()
        words += int(batch.target_lengths.sum())
        written += greedy(model, memory, limits_of(batch.lengths, TranslateConfig()))
    translations = target.decode_batch(written)
    bleu = scores(translations, references)["bleu"]
    figures = {"missing_bleu": 100 - bleu, "bleu": bleu, "nll": nll / words if words else math.nan}
    if valid is None:
        return figures
    return {"invalid": 1 - validity(translations, valid)} | figures


def translated(
    translator: Translator,
    sources: Sequence[str],
    config: TranslateConfig,
    watch: Watch | None = None,
) -> list[str]:
    """The best translation of each source."""
    return [best[0].text for best in translator.translate(sources, config, watch=watch)]


def _metrics() -> dict[str, Any]:
    return {"bleu": BLEU(tokenize="none", force=True), "chrf": CHRF()}
