"""REINFORCE's gradient is that of the expected reward, whatever the credit and the baseline."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lvtrain.config import check
from lvtrain.data.tokenizer import EOS, PAD
from lvtrain.errors import UserError
from lvtrain.modules.discriminator import ConvolutionalDiscriminator
from lvtrain.objectives.policy_gradient import (
    PolicyConfig,
    advantages,
    mean_scores,
    policy_loss,
)
from lvtrain.objectives.rollouts import real_lengths, sample
from lvtrain.objectives.sentence_bleu import sentence_bleu
from lvtrain.randomness import Key
from tests.objectives.small_translator import SmallTranslator

WORDS, WIDTH = (3, 4, 5, 6), 3
SOURCE, REFERENCE = torch.tensor([[4, 5, EOS]]), torch.tensor([[4, 6, EOS]])


@pytest.fixture
def translator() -> SmallTranslator:
    torch.manual_seed(0)
    return SmallTranslator(len(WORDS) + 3)


@pytest.fixture
def discriminator() -> ConvolutionalDiscriminator:
    torch.manual_seed(1)
    # Far from 1/2, so that what is said of translations differs.
    found = ConvolutionalDiscriminator(len(WORDS) + 3, len(WORDS) + 3, 8, (1, 2), 8).eval()
    with torch.no_grad():
        found.output[-1].weight.mul_(8)
    return found


def rewarded(
    discriminator: ConvolutionalDiscriminator, targets: Tensor, config: PolicyConfig
) -> Tensor:
    """R of translations of the source."""
    lengths, many = real_lengths(targets), len(targets)
    with torch.no_grad():
        of = torch.zeros(many, dtype=torch.long)
        logits = discriminator(SOURCE, torch.tensor([3]), targets, lengths, of)
    ended = (targets == EOS).sum(1)
    bleu = sentence_bleu(
        targets, lengths - ended, REFERENCE.expand(many, -1), torch.full((many,), 2)
    )
    return config.reward(logits.sigmoid(), bleu)


def translations() -> Tensor:
    """All that can be said in at most three words, the end counted."""
    found = [
        (*words, EOS) if len(words) < WIDTH else words
        for many in range(WIDTH + 1)
        for words in itertools.product(WORDS, repeat=many)
    ]
    return torch.tensor([[*row, *[PAD] * (WIDTH - len(row))] for row in found])


def played(
    translator: SmallTranslator,
    discriminator: ConvolutionalDiscriminator,
    config: PolicyConfig,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """Samples of the source, and what is due to their words."""
    memory = translator.encode(SOURCE, torch.tensor([3]))
    memory = memory.select(torch.zeros(rows, dtype=torch.long))
    prefixes = config.prefixes(WIDTH)
    found = sample(translator, memory, rows, WIDTH, prefixes, config.rollouts, Key(seed=0, step=0))
    values = mean_scores(found.completions, lambda t, of: rewarded(discriminator, t, config))
    final = rewarded(discriminator, found.tokens, config)
    due = advantages(values, prefixes, final, found.lengths, WIDTH, config)
    return translator.nll(memory, found.tokens), due


def gradient(loss: Tensor, translator: SmallTranslator) -> Tensor:
    parameters = list(translator.parameters())
    found = torch.autograd.grad(loss, parameters)
    return torch.cat([part.flatten() for part in found])


@pytest.mark.parametrize(
    "config",
    [
        PolicyConfig(rollouts=8),
        PolicyConfig(rollouts=8, baseline="constant"),
        PolicyConfig(rollouts=8, credit="sentence"),
        PolicyConfig(rollouts=0, credit="sentence", baseline="constant"),
        PolicyConfig(rollouts=8, adversarial=0.0),
    ],
    ids=["prefix-value", "prefix-constant", "sentence-value", "sentence-constant", "bleu"],
)
def test_the_gradient_agrees_with_the_exact_one(
    config: PolicyConfig,
    translator: SmallTranslator,
    discriminator: ConvolutionalDiscriminator,
) -> None:
    everything = translations()
    lengths = torch.tensor([3])
    memory = translator.encode(SOURCE, lengths)
    same = torch.zeros(len(everything), dtype=torch.long)
    probability = (-translator.nll(memory.select(same), everything).sum(1)).exp()
    assert probability.sum().item() == pytest.approx(1.0, abs=1e-5)
    exact = gradient(-(probability * rewarded(discriminator, everything, config)).sum(), translator)

    estimate = gradient(policy_loss(*played(translator, discriminator, config, 8192)), translator)
    assert torch.cosine_similarity(estimate, exact, dim=0) > 0.99
    assert 0.9 < estimate.norm() / exact.norm() < 1.1


def test_the_value_of_the_prefix_before_takes_away_most_of_the_variance(
    translator: SmallTranslator, discriminator: ConvolutionalDiscriminator
) -> None:
    spread = {}
    for baseline in ("value", "constant"):
        config = PolicyConfig(rollouts=16, baseline=baseline, adversarial=0.5)
        _, due = played(translator, discriminator, config, 4096)
        spread[baseline] = due.square().mean().item()
    assert spread["value"] < 0.5 * spread["constant"]


def test_words_are_due_what_their_prefix_adds() -> None:
    config = PolicyConfig(rollouts=2)
    prefixes = config.prefixes(4)
    values = torch.tensor([[0.1, 0.3, 0.6, 0.0], [0.2, 0.0, 0.0, 0.0]])
    final, lengths = torch.tensor([1.0, 0.5]), torch.tensor([3, 1])
    found = advantages(values, prefixes, final, lengths, 4, config)
    expected = torch.tensor([[0.2, 0.3, 0.4, 0.0], [0.3, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected)
    # Whatever the shares, they add up to what the sentence is worth beyond what was expected.
    torch.testing.assert_close(found.sum(1), final - values[:, 0])


def test_rollouts_are_scored_by_the_source_they_are_of() -> None:
    completions = torch.tensor(
        [[[[5, 2], [5, 2]], [[0, 0], [0, 0]]], [[[5, 2], [6, 2]], [[6, 5], [6, 2]]]]
    )
    seen = []

    def score(targets: Tensor, of: Tensor) -> Tensor:
        seen.extend(zip(of.tolist(), targets[:, 0].tolist(), strict=True))
        return 100.0 * of + targets[:, 0]

    found = mean_scores(completions, score, at_once=2)
    assert found.tolist() == [[5.0, 0.0], [105.5, 106.0]]
    # Once each, though some came twice: [6, 5] and [6, 2] are two.
    assert sorted(seen) == [(0, 5), (1, 5), (1, 6), (1, 6)]
    assert mean_scores(completions[:, :0], score).shape == (2, 0)


def test_rollouts_that_are_needed_cannot_be_none() -> None:
    check(PolicyConfig(rollouts=0, credit="sentence", baseline="constant"))
    with pytest.raises(UserError, match="--rollouts 0: expected 1 or more"):
        check(PolicyConfig(rollouts=0))
