"""REINFORCE on sentences (Williams 1992), with the credit of each word by Monte-Carlo roll-outs.

    ∇J = E_y Σ_t (Q_t − b_t) ∇ log G(y_t | y_{<t}, x)
    R(y) = λ (D(x, y) − b) + (1 − λ) BLEU(y, y*)

Q_t is what y_{1..t} is worth: the mean reward of its roll-outs, or R(y) itself where y ends at t
(Yu et al. 2017; Yang et al. 2018). With one number for the sentence, Q_t = R(y) (Wu et al. 2017).
Any b_t that y_t has no part in leaves the expectation as it is and changes the variance alone; the
roll-outs of y_{<t} give the best that is to be had for nothing, the value of the state before y_t.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from lvtrain.config import Natural, Positive, Share
from lvtrain.data.tokenizer import PAD


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """What a sampled translation is worth, and to which of its words that is due."""

    adversarial: Share = 0.7
    """λ: the share of the discriminator's opinion in the reward; the rest is sentence BLEU."""
    rollouts: Natural = 20
    """N: completions of each prefix."""
    credit: Literal["auto", "prefix", "sentence"] = "auto"
    """Rewards of words: of each prefix, by its roll-outs (auto), or that of the sentence for all
    (auto, for wu's discriminator)."""
    baseline: Literal["value", "constant"] = "value"
    """Taken from a word's reward: the value of the prefix before it, or nothing but `offset`."""
    offset: Share = 0.5
    """b: taken from the discriminator's opinion."""
    temperature: Positive = 1.0
    """τ: the policy that is sampled from, and learns, is softmax(z/τ) of the translator's logits z.
    Label smoothing has left a share to words that fit nowhere; less than 1 is without them, and
    nearer to the likeliest words, of which translations are made."""

    def conflict(self) -> str | None:
        """What is wrong with the fields together."""
        if not self.rollouts and (self.credit != "sentence" or self.baseline == "value"):
            return (
                "--rollouts 0: expected 1 or more, or --credit sentence --baseline constant, which "
                "need none"
            )
        return None

    def prefixes(self, width: int) -> range:
        """Which prefixes of translations of at most `width` words are completed, by their words."""
        start = 0 if self.baseline == "value" else 1
        stop = 1 if self.credit == "sentence" else width
        return range(start, max(start, stop))

    def reward(self, opinion: Tensor, bleu: Tensor) -> Tensor:
        """R from D(x, y) and BLEU(y, y*); where λ is 0, no D is needed."""
        if not self.adversarial:
            return bleu
        return self.adversarial * (opinion - self.offset) + (1 - self.adversarial) * bleu


Score = Callable[[Int64[Tensor, "M W"], Int64[Tensor, " M"]], Float[Tensor, " M"]]
"""What translations are worth, each of the source whose number is given."""


def mean_scores(
    completions: Int[Tensor, "B P N W"], score: Score, at_once: int = 2048
) -> Float[Tensor, "B P"]:
    """The mean score of each prefix's roll-outs; 0 for a prefix without any.

    Roll-outs of a source that came to the same translation are scored once, `at_once` at a time.
    """
    real = completions.ne(PAD).any(-1)
    own = real.nonzero()[:, :1]
    targets = torch.cat([own, completions[real]], dim=1)
    different, inverse = targets.unique(dim=0, return_inverse=True)
    parts = different.split(at_once)
    scores = torch.cat([score(part[:, 1:], part[:, 0]) for part in parts if len(part)] or
                       [torch.zeros(0, device=real.device)])  # fmt: skip
    means = torch.zeros(real.shape, dtype=scores.dtype, device=real.device)
    return means.masked_scatter(real, scores[inverse]).mean(2)


def advantages(
    values: Float[Tensor, "B P"],
    prefixes: range,
    final: Float[Tensor, " B"],
    lengths: Int[Tensor, " B"],
    width: int,
    config: PolicyConfig,
) -> Float[Tensor, "B W"]:
    """Q_t − b_t of each word t of translations of `lengths` words; 0 beyond their end.

    `values` are the mean rewards of the roll-outs of `prefixes`, `final` those of the translations.
    """
    place = torch.arange(width + 1, device=lengths.device)
    worth = final.new_zeros(len(final), width + 1)
    worth[:, prefixes.start : prefixes.stop] = values
    worth = torch.where(place == lengths[:, None], final[:, None], worth)
    whole = config.credit == "sentence"
    after, before = (final[:, None], worth[:, :1]) if whole else (worth[:, 1:], worth[:, :-1])
    if config.baseline == "constant":
        before = torch.zeros_like(before)
    return (after - before).expand(-1, width).masked_fill(place[:-1] >= lengths[:, None], 0.0)


def policy_loss(nll: Float[Tensor, "B W"], advantage: Float[Tensor, "B W"]) -> Float[Tensor, ""]:
    """Σ_t (Q_t − b_t) · −log G(y_t | y_{<t}, x), a mean over sentences: its gradient is −∇J.

    `nll` must be finite beyond the end of a sentence, where the advantage is 0.
    """
    return (nll * advantage).sum(1).mean()
