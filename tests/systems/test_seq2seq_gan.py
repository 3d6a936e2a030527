"""The games of a translator against its adversaries, piece by piece."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lvtrain.config import OptimizerConfig
from lvtrain.data.batches import Batch, Batches
from lvtrain.data.store import Store
from lvtrain.objectives.policy_gradient import PolicyConfig
from lvtrain.randomness import Key
from lvtrain.systems.seq2seq import Seq2SeqConfig
from lvtrain.systems.seq2seq_gan import Seq2SeqGAN, Seq2SeqGANConfig
from lvtrain.systems.seq2seq_play import PlayConfig
from lvtrain.systems.seq2seq_policy import DiscriminatorConfig, DiscriminatorPlayer, Referee
from lvtrain.systems.seq2seq_wgan import CriticConfig, CriticPlayer, RelaxedPlayer, gumbel_given
from lvtrain.training.engine import TorchEngine
from lvtrain.training.game import Game

ADVERSARIES = ("brcsgan", "wu", "wgan")
SMALL = Seq2SeqGANConfig(
    translator=Seq2SeqConfig(embedding=16, hidden=16, dropout=0.1,
                             optimizer=OptimizerConfig(lr=1e-2, clip=1.0)),
    discriminator=DiscriminatorConfig(
        embedding=16, features=8, layers=(16,), length=16, accuracy=0.0,
        optimizer=OptimizerConfig(lr=1e-2),
    ),
    critic=CriticConfig(embedding=16, hidden=16, rounds=1, pretraining=0),
    policy=PolicyConfig(rollouts=2),
)  # fmt: skip


def made(store: Path, **fields: Any) -> tuple[Seq2SeqGAN, Game, Batches]:
    info = Store.open(store).info
    assert info.target_vocab_size is not None
    torch.manual_seed(0)
    gan = Seq2SeqGAN(replace(SMALL, **fields), info.vocab_size, info.target_vocab_size)

    def engine(name: str, module: nn.Module, optimizer: OptimizerConfig) -> TorchEngine:
        return TorchEngine(name, module, optimizer, 100)

    return gan, gan.game(engine), Batches(Store.open(store).split("train"), batch_size=12, seed=0)


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().clone().flatten() for p in module.parameters()])


class Same:
    """A source that has one batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def at(self, index: int) -> Batch:
        return self.batch


@pytest.mark.parametrize("fields", [{}, {"fresh": 1}, {"lag": 1}], ids=["plain", "fresh", "late"])
@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_both_players_learn(adversary: str, fields: dict[str, Any], store: Path) -> None:
    gan, game, batches = made(store, adversary=adversary, **fields)
    before = [weights(part) for part in gan.parts.values()]
    for step in range(3):
        metrics, words = game.iterate(batches, Key(seed=0, step=step))
        assert words > 0 and all(torch.isfinite(torch.as_tensor(v)) for v in metrics.values())
    for part, old in zip(gan.parts.values(), before, strict=True):
        assert not torch.equal(weights(part), old)


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_an_answer_has_a_part_for_each_row_that_depends_on_it_alone(
    adversary: str, store: Path
) -> None:
    _, game, batches = made(store, adversary=adversary)
    assert game.adversary is not None
    proposal = game.model.propose(batches.at(0), Key(seed=0, step=0))
    assert all(len(t) == 12 and not t.requires_grad for t in proposal.values())
    whole = game.adversary.answer(proposal)
    for rows in (slice(0, 4), slice(1, 12, 3)):
        part = game.adversary.answer({name: t[rows] for name, t in proposal.items()})
        for name in ("final", "values", "fake"):
            if name in whole:
                assert not whole[name].requires_grad
                torch.testing.assert_close(part[name], whole[name][rows])


@pytest.mark.parametrize("meanwhile", ["frozen", "supervised"])
@pytest.mark.parametrize("adversary", ["brcsgan", "wgan"])
def test_the_translator_heeds_its_adversary_once_that_is_good_enough(
    adversary: str, meanwhile: Any, store: Path
) -> None:
    gan, game, batches = made(
        store,
        adversary=adversary,
        play=PlayConfig(meanwhile=meanwhile),
        discriminator=replace(SMALL.discriminator, accuracy=0.45),
        critic=replace(SMALL.critic, pretraining=8),
    )
    heeded = []
    for step in range(20):
        before = weights(gan.translator)
        metrics, _ = game.iterate(batches, Key(seed=0, step=step))
        heeded.append("advantage" in metrics or "relaxed" in metrics)
        moved = not torch.equal(weights(gan.translator), before)
        assert moved == (heeded[-1] or meanwhile == "supervised")
        assert heeded[-1] or "policy" not in metrics
    # Once and for all: however good the translator becomes.
    first = heeded.index(True)
    assert 0 < first < 20 and all(heeded[first:])


@pytest.mark.parametrize("adversary", ["brcsgan", "wu"])
def test_a_discriminators_words_begin_as_those_of_the_translator_it_starts_from(
    adversary: str, store: Path
) -> None:
    discriminator = replace(SMALL.discriminator, embedding=0)
    gan, _, _ = made(store, adversary=adversary, discriminator=discriminator)
    trained, _, _ = made(store)
    for parameter in trained.translator.parameters():
        nn.init.normal_(parameter)
    gan.start_from(trained.translator)
    assert torch.equal(weights(gan.translator), weights(trained.translator))
    assert isinstance(gan.adversary, Referee)
    network, embeddings = trained.translator.network, gan.adversary.discriminator.embeddings
    for embedding, words in zip(embeddings, (network.source, network.target), strict=True):
        assert torch.equal(embedding.weight[1:], words[1:]) and not embedding.weight[0].any()


def test_an_adversary_that_is_not_asked_is_not_waited_for(store: Path) -> None:
    discriminator = replace(SMALL.discriminator, accuracy=1.0)
    policy = replace(SMALL.policy, adversarial=0.0)
    _, game, batches = made(store, discriminator=discriminator, policy=policy)
    assert "advantage" in game.iterate(batches, key := Key(seed=0, step=0))[0]
    # Nor is it shown what it would judge for nothing.
    assert not game.model.propose(batches.at(0), key)["completions"].numel()


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_likelihood_comes_first_and_the_adversary_waits(adversary: str, store: Path) -> None:
    gan, game, batches = made(store, adversary=adversary, play=PlayConfig(likelihood=2), fresh=1)
    alone, alone_game, _ = made(store, adversary=adversary, play=PlayConfig(likelihood=9))
    before = weights(gan.adversary)
    for step in range(2):
        key = Key(seed=0, step=step)
        metrics, _ = game.iterate(batches, key)
        assert set(metrics) == {"cross_entropy", "gradient_norm"}
        alone_game.iterate(Same(batches.at(2 * step)), key)
    assert torch.equal(weights(gan.adversary), before)
    # Whatever the adversary, it is the supervised translator's own training.
    assert torch.equal(weights(gan.translator), weights(alone.translator))
    game.iterate(batches, Key(seed=0, step=2))
    assert not torch.equal(weights(gan.adversary), before)


def test_rollouts_wait_until_they_are_heeded(store: Path) -> None:
    discriminator = replace(SMALL.discriminator, accuracy=0.45)
    _, game, batches = made(store, discriminator=discriminator)
    assert game.adversary is not None
    made_at = {}
    for step in range(20):
        proposal = game.model.propose(batches.at(step), key := Key(seed=0, step=step))
        made_at[step] = proposal["completions"].shape[1] > 0
        game.adversary.criticise(proposal, key)
        answer = game.adversary.answer(proposal)
        game.model.decode()
        game.model.learn(answer)
        # None for nothing, but at the first step, when it is not known yet.
        assert made_at[step] == bool(answer["heeded"].all()) or step == 0
    assert made_at[0] and not made_at[1] and made_at[19]


@pytest.mark.parametrize("adversary", ["brcsgan", "wu"])
def test_references_are_told_from_samples_of_an_untrained_translator_and_not_from_references(
    adversary: str, store: Path
) -> None:
    gan, game, batches = made(store, adversary=adversary)
    assert isinstance(game.adversary, DiscriminatorPlayer)
    right = []
    for step in range(60):
        proposal = game.model.propose(batches.at(step), key := Key(seed=0, step=step))
        right.append(float(game.adversary.criticise(proposal, key)["accuracy"]))
    assert sum(right[-20:]) / 20 > 0.95
    assert isinstance(gan.adversary, Referee)
    # Against themselves: whatever it says of a pair, it is right about one of the two.
    proposal = {**proposal, "sample": proposal["reference"]}
    assert float(game.adversary.criticise(proposal, key)["accuracy"]) == pytest.approx(
        0.5, abs=0.03
    )


def test_reinforcement_by_bleu_alone_raises_the_bleu_of_samples_of_a_batch(store: Path) -> None:
    policy = PolicyConfig(rollouts=4, adversarial=0.0)
    _, game, batches = made(store, policy=policy, play=PlayConfig(teacher=0.0))
    found = []
    for step in range(90):
        metrics, _ = game.iterate(Same(batches.at(0)), Key(seed=0, step=step))
        found.append(float(metrics["sample_bleu"]))
    thirds = [sum(found[i : i + 30]) for i in (0, 30, 60)]
    assert thirds[0] < thirds[1] < thirds[2] and thirds[2] > 1.5 * thirds[0]


def test_the_translators_gradient_is_that_of_the_critics_opinion(store: Path) -> None:
    """Cut at the embeddings, the chain rule is exact: with soft samples it is ∂D(x, e)/∂θ."""
    gan, game, batches = made(
        store, adversary="wgan", play=PlayConfig(teacher=0.0),
        critic=replace(SMALL.critic, forward="soft", answer_scale=1.0),
    )  # fmt: skip
    assert isinstance(game.model, RelaxedPlayer) and isinstance(game.adversary, CriticPlayer)
    proposal = game.model.propose(batches.at(0), Key(seed=0, step=0))
    parameters = [p for n, p in gan.translator.named_parameters() if "readout" in n]
    critic = game.adversary.critic
    scores = critic(critic.read(proposal["source"], proposal["source_lengths"]),
                    game.model._relaxed, proposal["fake_lengths"])  # fmt: skip
    expected = torch.autograd.grad(scores.mean(), parameters, retain_graph=True)
    answer = game.adversary.answer(proposal)
    loss = (game.model._relaxed * answer["fake"]).sum((1, 2)).mean()
    for ours, theirs in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert theirs.abs().max() > 0


def test_noise_given_a_word_is_noise_of_which_it_is_the_largest() -> None:
    log_probs = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(40_000, 1, 4)
    key = Key(seed=0, step=0)
    words = (key.fold("w").uniform(40_000, 1, 1) > torch.tensor([0.5, 0.8, 0.95])).sum(2)
    noise = gumbel_given(log_probs, words, key.fold("g").uniform(40_000, 1, 4))
    assert torch.equal((log_probs + noise).argmax(2), words)
    # Over words drawn by p it is Gumbel noise: mean γ, variance π²/6, of each word.
    torch.testing.assert_close(noise.mean(0)[0], torch.full((4,), 0.5772), atol=0.03, rtol=0)
    torch.testing.assert_close(noise.var(0)[0], torch.full((4,), 1.6449), atol=0.06, rtol=0)
    # And independent from word to word.
    assert (torch.corrcoef(noise[:, 0].T) - torch.eye(4)).abs().max() < 0.03


@pytest.mark.parametrize("adversary", ADVERSARIES)
def test_parts_of_a_batch_propose_what_the_whole_does(adversary: str, store: Path) -> None:
    _, game, batches = made(store, adversary=adversary)
    batch, key = batches.at(0), Key(seed=0, step=0)
    whole = game.model.propose(batch, key)
    for n in range(3):
        part = game.model.propose(batch.part(n, 3), key.part(n, 3))
        for name, tensor in whole.items():
            torch.testing.assert_close(part[name], tensor[n::3])


def test_wu_credits_sentences_and_the_others_prefixes() -> None:
    assert replace(SMALL, adversary="wu").rewards.credit == "sentence"
    assert SMALL.rewards.credit == "prefix"
    policy = replace(SMALL.policy, credit="prefix")
    assert replace(SMALL, adversary="wu", policy=policy).rewards.credit == "prefix"
