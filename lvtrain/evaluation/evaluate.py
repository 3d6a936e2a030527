"""The figures of a trained system."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple, cast

from lvtrain.config import check
from lvtrain.data.batches import Rows
from lvtrain.errors import UserError, notice
from lvtrain.evaluation import latent, overlap, reconstruction, translation
from lvtrain.evaluation.config import EvaluateConfig
from lvtrain.evaluation.generated import generated
from lvtrain.evaluation.grammar import embedded_grammar, grammar_scores
from lvtrain.evaluation.perplexity import Judge, Progress
from lvtrain.evaluation.sentences import part, read, shuffled
from lvtrain.evaluation.validation import ONCE, batches_of, codes_of, evaluating
from lvtrain.generation.beam import BeamConfig
from lvtrain.generation.recorded import tell_of_other_store
from lvtrain.generation.translate import Watch
from lvtrain.model import Model
from lvtrain.randomness import Key
from lvtrain.systems import LatentSystem
from lvtrain.systems.seq2seq import translator_of
from lvtrain.systems.vae import VAE

Figures = dict[str, Any]

Watching = Callable[[str], AbstractContextManager[Watch]]
"""Given the name of long work, watches it as long as the context is open."""

_SHOWN_WALKS, _WALK_STEPS = 5, 7
# Every distance is between as many codes: it depends on their number.
_FRECHET_SENTENCES = 5_000
# Distinct n-grams fall with the size of the text, so they are counted on a fixed one.
_DISTINCT_SAMPLES = 10_000


class Evaluation(NamedTuple):
    """What an evaluation found: figures by name, and sentences to look at."""

    figures: Figures
    samples: list[str]
    """The first of those generated."""
    reconstructions: list[tuple[str, str]]
    """Sentences and what came back from their codes."""
    interpolations: list[list[str]]
    """Sentences on the way from one to another."""
    translations: Sequence[tuple[str, str, str]] = ()
    """Sources, references, translations, in the order of the split."""


def evaluate(
    model: Model,
    config: EvaluateConfig | None = None,
    progress: Progress | None = None,
    baseline: Model | None = None,
    watching: Watching | None = None,
) -> Evaluation:
    """Measure a trained system on its store; a translator also against a `baseline`.

    `progress` is told in a line what is begun or done, and `watching` of how far translation is.

    A figure that a system cannot have is left out: a language model reconstructs nothing. Raises
    UserError, before any work, for a setting that cannot be.
    """
    config = config or EvaluateConfig()
    check(config)
    tell = progress or (lambda text: None)
    store = model.store
    tell_of_other_store(store, model.config)
    name = config.split or ("test" if "test" in store.splits else "valid")
    train, test = store.split("train"), store.split(name)
    if not test.rows:
        raise UserError(f"{store.path}: split '{name}' has no sentences")
    if translator_of(model.system) is not None:
        watching = watching or (lambda _: nullcontext(lambda done, total: None))
        return _evaluate_translator(model, config, name, test, baseline, tell, watching)
    if baseline is not None:
        raise UserError(f"--baseline: expected a translator to compare, found {model.folder}")
    real = part(test, config.sentences, config.seed)
    texts = model.tokenizer.decode_batch(read(real, seed=config.seed))
    count = min(config.samples, train.rows)
    system = model.system

    tell(f"generating {count:,} sentences")
    figures: Figures = {**_parameters(model), "split": name, "samples": count}
    how = {} if config.temperature is None else {"temperature": config.temperature}
    with evaluating(system), generated(model, count, config.seed, tell, **how) as (samples, rows):
        figures |= _perplexities(model, rows, train, real, config, tell)
        tell("comparing")
        figures |= _overlaps(samples, rows, train)
        pairs: list[tuple[str, str]] = []
        walks: list[list[str]] = []
        if hasattr(system, "encode"):
            sources = texts[: config.reconstructions]
            if sources:
                tell("reconstructing")
                pairs = list(zip(sources, model.reconstruct(sources), strict=True))
                figures |= _reconstruction(pairs)
                walks = _walks(model, sources)
            tell("measuring the latent space")
            figures |= _latent(model, test, config)
        grammar = embedded_grammar(texts)
        if grammar is not None:
            tell("parsing")
            figures |= grammar_scores(samples, grammar)
    return Evaluation(_finite(figures), samples, pairs, walks)


def _parameters(model: Model) -> Figures:
    """Whose figures they are: of a step, or of the mean of so many checkpoints up to it."""
    averaged = {"averaged": model.averaged} if model.averaged > 1 else {}
    return {"step": model.step} | averaged


def _finite(figures: Figures) -> Figures:
    """JSON has no infinity: what is not finite is null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v
            for k, v in figures.items()}  # fmt: skip


def _evaluate_translator(
    model: Model,
    config: EvaluateConfig,
    name: str,
    split: Rows,
    baseline: Model | None,
    tell: Progress,
    watching: Watching,
) -> Evaluation:
    translator, how = model.translator, config.translate
    for remark in model.remarks:
        notice(f"{model.folder}: step {model.step}: {remark}")
    if baseline is not None:
        _tell_of_other(baseline, model)
    sources, references = translation.pairs_of(
        split, translator.source, translator.target, config.sentences, config.seed
    )
    tell(f"translating {len(sources):,} sentences")
    with watching("translating") as watch:
        found = translation.translated(translator, sources, how, watch)
    figures: Figures = {**_parameters(model), "split": name, "sentences": len(sources)}
    # Sentences that prepare dropped are not among those; what is left is easier.
    figures["dropped_too_long"] = model.store.info.splits[name].dropped.get("too_long", 0)
    if unknown := translation.unknown_words(references):
        figures["unknown_words"] = unknown
        tell(
            f"{100 * unknown:.3g} % of the words of the references are out of the vocabulary: no "
            "translation matches them"
        )
    figures |= translation.scores(found, references)
    if baseline is not None:
        tell("translating with the baseline")
        with watching("translating") as watch:
            theirs = translation.translated(baseline.translator, sources, how, watch)
        figures |= translation.compare(theirs, found, references)
        figures |= {f"baseline_{name}": of for name, of in _parameters(baseline).items()}
    grammar = embedded_grammar(shuffled(sources, 0))
    if grammar is not None:
        valid = translation.valid_translations(sources, grammar)
        # Words out of the vocabulary leave a sentence without a translation that is known.
        known = [pair for pair in zip(sources, valid, strict=True) if pair[1]]
        if len(known) < len(sources):
            figures["known_sources"] = len(known) / len(sources)
        figures["valid"] = translation.validity(found, valid)
        if config.draws:
            chosen = shuffled(known, config.seed)[: config.sources]
            tell(f"drawing {config.draws} translations of {len(chosen):,} sentences")
            drawing = replace(how, sample=True, search=BeamConfig(nbest=config.draws))
            with watching("drawing") as watch:
                every = translator.translate([s for s, _ in chosen], drawing, watch=watch)
            drawn = [[t.text for t in of] for of in every]
            figures |= translation.mass(drawn, [of for _, of in chosen])
    triples = list(zip(sources, map(translation.readable, references), found, strict=True))
    return Evaluation(_finite(figures), found, [], [], triples)


def _tell_of_other(baseline: Model, model: Model) -> None:
    """Say where a baseline has learnt something else than what it is compared with."""
    for names, what in (
        (("tokenizer_digest", "target_tokenizer_digest"), "has other vocabularies"),
        (("store_digest",), "was trained on another store"),
    ):
        digests = [(getattr(baseline.config, n), getattr(model.config, n)) for n in names]
        if any(theirs and ours and theirs != ours for theirs, ours in digests):
            notice(
                f"--baseline {baseline.folder}: {what} than {model.folder}; both translate the "
                f"sentences of {model.store.path}"
            )
            return


def _perplexities(
    model: Model,
    samples: Rows,
    train: Rows,
    test: Rows,
    config: EvaluateConfig,
    tell: Progress,
) -> Figures:
    figures: Figures = {}

    def judge(text: Rows, what: str) -> Judge:
        said = f"training a judge on {text.rows:,} {what} sentences"
        tell(said)
        return Judge.train(
            text,
            model.tokenizer,
            config.judge,
            model.device,
            lambda progress: tell(f"{said}: {progress}"),
        )

    if config.reverse:
        figures["reverse_perplexity"] = judge(samples, "generated").perplexity(test)
    if config.reverse or config.forward:
        reader = judge(part(train, samples.rows, config.seed), "real")
        figures["real_perplexity"] = reader.perplexity(test)
        if config.forward:
            figures["forward_perplexity"] = reader.perplexity(samples)
    return figures


def _overlaps(first: Sequence[str], samples: Rows, train: Rows) -> Figures:
    duplicates, copied = overlap.repeated(samples, train)
    some = first[:_DISTINCT_SAMPLES]
    return {
        "self_bleu": overlap.self_bleu(first),
        **{f"distinct_{n}": overlap.distinct(some, n) for n in (1, 2, 3)},
        "duplicates": duplicates,
        "copied": copied,
    }


def _reconstruction(pairs: Sequence[tuple[str, str]]) -> Figures:
    found = reconstruction.compare(*zip(*pairs, strict=True))
    return {
        "reconstruction_accuracy": found.accuracy,
        "reconstruction_exact": found.exact,
        "reconstruction_bleu": found.bleu,
        "bleu_signature": found.bleu_signature,
    }


def _latent(model: Model, test: Rows, config: EvaluateConfig) -> Figures:
    system, device = model.system, model.device
    key = Key(seed=config.seed, step=ONCE, path=("evaluate",))
    coded = cast(LatentSystem, system)
    batches = batches_of(test, config.latent_sentences, config.seed, device)
    figures: Figures = {"reconstruction_nll": reconstruction.reconstruction_nll(coded, batches)}
    if isinstance(system, VAE):
        bound = latent.bound(system, batches, key.fold("bound"))
        likelihood = latent.importance_weighted(
            system, batches, config.importance_samples, key.fold("weights")
        )
        q = latent.posteriors(system, batches)
        return figures | {
            "elbo": bound.elbo,
            "kl": bound.kl,
            "iw_nll": likelihood.nll,
            "iw_perplexity": likelihood.perplexity,
            "mutual_information": latent.mutual_information(q, key.fold("information")),
            "active_units": latent.active_units(q.mu),
        }
    real = codes_of(coded, batches_of(test, _FRECHET_SENTENCES, config.seed, device))
    generated = model.sample_codes(len(real), config.seed)
    return figures | {
        "frechet": latent.frechet_distance(real, generated),
        "code_norm": real.norm(dim=1).mean().item(),
        "generated_norm": generated.norm(dim=1).mean().item(),
    }


def _walks(model: Model, sources: Sequence[str]) -> list[list[str]]:
    """Sentences on the way between pairs of sources."""
    pairs = zip(sources[0 : 2 * _SHOWN_WALKS : 2], sources[1 : 2 * _SHOWN_WALKS : 2], strict=False)
    return [model.interpolate(a, b, _WALK_STEPS) for a, b in pairs]
