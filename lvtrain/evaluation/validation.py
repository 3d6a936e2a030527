"""The figures of a system on held-out sentences while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lvtrain.config import RunConfig
from lvtrain.data.batches import Batch, Rows, sequential
from lvtrain.data.tokenizer import Tokenizer
from lvtrain.evaluation import latent, reconstruction, translation
from lvtrain.evaluation.grammar import embedded_grammar
from lvtrain.evaluation.ngram import ngram_perplexity
from lvtrain.evaluation.perplexity import negative_log_likelihood, perplexity
from lvtrain.evaluation.sentences import ids, shuffled
from lvtrain.generation.decode import DecodeConfig, decode
from lvtrain.randomness import Key
from lvtrain.systems import LatentSystem, System
from lvtrain.systems.arae import ARAE
from lvtrain.systems.language_model import LanguageModel
from lvtrain.systems.seq2seq import translator_of
from lvtrain.systems.vae import VAE

# Step of draws that do not belong to a step: the same noise each time, so that figures of different
# steps differ by the weights alone.
ONCE = -1
_BATCH = 256
# Sentences that an n-gram model is trained on.
_SAMPLES = 2_000


@contextmanager
def evaluating(system: System) -> Iterator[None]:
    """Switch every module of a system to evaluation (batch normalisation reads its averages and
    leaves them alone), and back to what each was."""
    modules = [m for part in system.parts.values() for m in part.modules()]
    before = [m.training for m in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training


def validation(
    system: System,
    config: RunConfig,
    split: Rows,
    tokenizer: Tokenizer,
    target: Tokenizer | None = None,
) -> Callable[[int], dict[str, float]]:
    """Make the function that gives the figures of a system on held-out sentences at a step.

    The first figure selects the best checkpoint, and lower is better:

        language model   perplexity
        autoencoders     reconstruction_nll, nats a word
        VAE              negative_elbo, nats a sentence
        ARAE             reverse_ngram, the perplexity of real sentences under a trigram model of
                         generated ones: the figure that falls with both their quality and variety
        translator       missing_bleu, 100 − BLEU of greedy translations; on the embedded grammar,
                         invalid, the share of those of grammatical sources that are not valid

    `target` is the vocabulary of the parallel side, which a translator needs.
    """
    kept = batches_of(split, config.train.validation_sentences, 0, torch.device("cpu"))
    sentences = ids(kept)
    texts = tokenizer.decode_batch(sentences)
    words = sum(len(text.split()) + 1 for text in texts)
    grammar = embedded_grammar(shuffled(texts, 0))
    references, valid = [], None
    if target is not None:
        references = translation.references_of(kept, target)
        valid = None if grammar is None else translation.valid_translations(texts, grammar)
    key = Key(seed=config.train.seed, step=ONCE, path=("validation",))

    def figures(step: int) -> dict[str, float]:
        device = next(cast(nn.Module, system).parameters()).device
        batches = [batch.to(device) for batch in kept]
        with evaluating(system), torch.inference_mode():
            if (translator := translator_of(system)) is not None:
                assert target is not None
                return translation.validate(translator, batches, references, target, valid)
            if isinstance(system, LanguageModel):
                nll = negative_log_likelihood(system, batches)
                return {"perplexity": perplexity(nll / words)}
            if isinstance(system, VAE):
                return _validate_vae(system, batches, key)
            coded = cast(LatentSystem, system)
            nll = reconstruction.reconstruction_nll(coded, batches)
            if not isinstance(system, ARAE):
                return {"reconstruction_nll": nll}
            codes = system.sample_codes(_SAMPLES, key.fold("sample"), device)
            how = DecodeConfig(max_words=config.max_words)
            generated = decode(system.decoder, codes, how, key.fold("decode"))
            found = {
                "reverse_ngram": ngram_perplexity(generated, sentences, system.vocab_size),
                "reconstruction_nll": nll,
                "frechet": latent.frechet_distance(codes_of(coded, batches), codes),
                "unique": len(set(map(tuple, generated))) / len(generated),
            }
            if grammar is not None:
                right = map(grammar.is_grammatical, tokenizer.decode_batch(generated))
                found["grammatical"] = sum(right) / len(generated)
            return found

    return figures


def _validate_vae(vae: VAE, batches: Sequence[Batch], key: Key) -> dict[str, float]:
    bound = latent.bound(vae, batches, key.fold("bound"))
    return {
        "negative_elbo": -bound.elbo,
        "kl": bound.kl,
        "active_units": latent.active_units(latent.posteriors(vae, batches).mu),
    }


@torch.inference_mode()
def codes_of(system: LatentSystem, batches: Sequence[Batch]) -> Float[Tensor, "N C"]:
    """The codes of the sentences of batches."""
    return torch.cat([system.encode(batch.tokens, batch.lengths) for batch in batches])


def batches_of(split: Rows, limit: int, seed: int, device: torch.device) -> list[Batch]:
    """At most `limit` sentences of a split, drawn by the seed."""
    rows = None if limit >= split.rows else limit
    return [b.to(device) for b in sequential(split, _BATCH, limit_rows=rows, seed=seed)]
