"""What an evaluation measures, and on how much."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from lvtrain.config import Bounds, Count, Natural, NotNegative
from lvtrain.evaluation.perplexity import JudgeConfig
from lvtrain.generation.beam import MOST
from lvtrain.generation.translate import TranslateConfig

Draws = Annotated[int, Bounds(f"0 to {MOST:,}", lambda n: 0 <= n <= MOST)]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is measured, and on how much."""

    samples: Count = 100_000
    """Sentences to generate; at most those of the training split, so that as many real ones can be
    compared."""
    temperature: NotNegative | None = None
    """Of the decoding: 0 takes the likeliest word, 1 samples; a language model samples unasked."""
    reverse: bool = True
    """Train judges on generated and on real text, and read real text: the costliest part."""
    forward: bool = True
    """Train a judge on real text and read generated text."""
    reconstructions: Natural = 5_000
    """Sentences to reconstruct; 0 for none."""
    latent_sentences: Annotated[int, Bounds("2 or more", lambda n: n >= 2)] = 1_000
    """Sentences for the figures of a VAE's latent space."""
    importance_samples: Count = 100
    """Draws of z a sentence for a VAE's likelihood."""
    split: str = ""
    """Split to measure on; by default test, or valid if there is no test."""
    sentences: Count = 100_000
    """Most sentences of that split to read, drawn by the seed: the same for every system."""
    seed: Natural = 0
    """Of samples and choices of sentences."""
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """The language model that judges."""
    translate: TranslateConfig = field(default_factory=TranslateConfig)
    """Of a translator: how it translates."""
    draws: Draws = 20
    """Of a translator of the embedded grammar: translations drawn for each of so many sources as
    `sources`, to see how many are valid and how many of the valid ones occur; 0 for none."""
    sources: Count = 200
    """Sentences that those are drawn for."""

    def conflict(self) -> str | None:
        """What is wrong with the fields together."""
        if (nbest := self.translate.search.nbest) != 1:
            return f"--translate.nbest {nbest}: expected 1, the best translation, which is measured"
        return None
