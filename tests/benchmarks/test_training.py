"""The training benchmark compares one algorithm with itself, and counts what it claims to count."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.arithmetic import iteration_flops, lstm_flops, mlp_flops
from benchmarks.contest import Spread, race
from benchmarks.eager_arae import EagerARAE
from benchmarks.synthetic import SyntheticSplit
from benchmarks.training import main, resized
from lvtrain.data.batches import Batch, Batches
from lvtrain.kernels import reference
from lvtrain.objectives.adversarial import critic_loss, penalty
from lvtrain.presets import ARAE_SNLI, REFERENCE
from lvtrain.systems.arae import ARAE, ARAEConfig

VOCABULARY = 40


@pytest.fixture
def float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def batch() -> Batch:
    split = SyntheticSplit(sentences=50, vocab_size=VOCABULARY, seed=0)
    return Batches(split, batch_size=6, seed=0).at(0)


def pair(config: ARAEConfig) -> tuple[ARAE, EagerARAE]:
    """lvtrain's system and the baseline with the same weights."""
    torch.manual_seed(0)
    ours = ARAE(config, VOCABULARY)
    theirs = EagerARAE(config, VOCABULARY, torch.device("cpu"))
    model, encoder, decoder = theirs.autoencoder, ours.autoencoder.encoder, ours.decoder
    layer, reader = encoder.layers[0], decoder.layers[0]
    with torch.no_grad():
        model.encoder_embedding.weight.copy_(encoder.embedding)
        model.encoder.weight_ih_l0.copy_(layer.w_ih)
        model.encoder.weight_hh_l0.copy_(layer.w_hh)
        model.encoder.bias_ih_l0.copy_(layer.bias)
        model.encoder.bias_hh_l0.zero_()
        model.decoder_embedding.weight.copy_(decoder.embedding)
        model.decoder.weight_ih_l0.copy_(torch.cat([reader.w_ih, reader.w_code], dim=1))
        model.decoder.weight_hh_l0.copy_(reader.w_hh)
        model.decoder.bias_ih_l0.copy_(reader.bias)
        model.decoder.bias_hh_l0.zero_()
        model.output.weight.copy_(decoder.output)
        model.output.bias.copy_(decoder.output_bias)
    theirs.critic.load_state_dict(ours.critic.state_dict())
    theirs.generator.load_state_dict(ours.generator.state_dict())
    return ours, theirs


def dense(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.to_dense() if gradient.is_sparse else gradient


def test_the_baseline_has_the_same_reconstruction_loss_and_gradients(
    float64: None, batch: Batch
) -> None:
    ours, theirs = pair(resized(ARAE_SNLI, 5))
    codes = ours.encode(batch.tokens, batch.lengths)
    loss = ours.decoder.cross_entropy(codes, batch.tokens, batch.lengths)
    expected = theirs.autoencoder.loss(batch.tokens, batch.lengths)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    encoder, decoder, model = ours.autoencoder.encoder, ours.decoder, theirs.autoencoder
    for mine, other in (
        (encoder.embedding, model.encoder_embedding.weight),
        (encoder.layers[0].w_hh, model.encoder.weight_hh_l0),
        (decoder.embedding, model.decoder_embedding.weight),
        (decoder.layers[0].w_hh, model.decoder.weight_hh_l0),
        (decoder.output, model.output.weight),
    ):
        torch.testing.assert_close(dense(mine.grad), dense(other.grad))


@pytest.mark.parametrize("config", [ARAE_SNLI, REFERENCE], ids=["arae-snli", "reference"])
def test_the_baseline_has_the_same_critic_loss_and_penalty(
    float64: None, config: ARAEConfig
) -> None:
    config = resized(config, 5)
    ours, theirs = pair(config)
    real, fake = torch.randn(6, 5), torch.randn(6, 5)
    torch.testing.assert_close(
        critic_loss(ours.critic, real, fake),
        theirs.critic(real).mean() - theirs.critic(fake).mean(),
    )
    # Between a point and itself lies only the point, whatever the weights drawn.
    mine = penalty(ours.critic, real, real, torch.rand(6, 1), config.critic.lipschitz)
    torch.testing.assert_close(mine, theirs.gradient_penalty(real, real))


def test_an_iteration_of_the_baseline_updates_every_part(batch: Batch) -> None:
    theirs = EagerARAE(resized(ARAE_SNLI, 5), VOCABULARY, torch.device("cpu"))
    parts = (theirs.autoencoder, theirs.generator, theirs.critic)
    before = [[p.detach().clone() for p in part.parameters()] for part in parts]
    batches = Batches(
        SyntheticSplit(sentences=50, vocab_size=VOCABULARY, seed=0), batch_size=6, seed=0
    )
    assert theirs.iterate(batches, 0) == batch.words
    for part, old in zip(parts, before, strict=True):
        assert any(not torch.equal(p, o) for p, o in zip(part.parameters(), old, strict=True))


def test_flops_of_an_lstm_are_those_of_its_definition_but_the_product_with_zero() -> None:
    rows, time, inputs, hidden = 3, 7, 5, 4
    with FlopCounterMode(display=False) as counter:
        reference.lstm(
            torch.randn(rows, time, inputs),
            torch.randn(4 * hidden, inputs),
            torch.randn(4 * hidden, hidden),
            torch.zeros(4 * hidden),
        )
    zero = 2 * rows * 4 * hidden * hidden
    assert lstm_flops(rows * time, rows, inputs, hidden) == counter.get_total_flops() - zero


def test_flops_of_an_mlp_are_those_that_torch_counts() -> None:
    with FlopCounterMode(display=False) as counter:
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))(torch.randn(3, 5))
    assert mlp_flops(3, [5, 4, 1]) == counter.get_total_flops()


def test_the_overlapped_schedule_does_less_where_it_encodes_less() -> None:
    count = partial(iteration_flops, ARAE_SNLI, 11_004, 64, 757.0)
    alternating, overlapped = count("alternating"), count("overlapped")
    assert overlapped["critic encodings"] < alternating["critic encodings"]
    assert overlapped["encoder adversarial"] < alternating["encoder adversarial"]
    same = ("encoder", "decoder", "vocabulary cross-entropy", "critic updates", "generator")
    assert all(overlapped[part] == alternating[part] for part in same)
    # facts: about 15 GFLOP in the projection onto the vocabulary, 30-odd in all.
    assert alternating["vocabulary cross-entropy"] == pytest.approx(15.0e9, rel=0.01)
    assert sum(alternating.values()) == pytest.approx(31e9, rel=0.05)


def test_made_up_sentences_have_the_lengths_of_captions_and_end_where_they_end() -> None:
    split = SyntheticSplit(sentences=20_000, vocab_size=VOCABULARY, seed=1)
    tokens, lengths = split.padded(np.arange(split.rows))
    assert lengths.mean() == pytest.approx(11.83, abs=0.05)
    assert lengths.max() <= 16
    assert (tokens[np.arange(split.rows), lengths - 1] == 2).all()
    assert ((tokens > 3).sum(1) == lengths - 1).all()
    assert tokens.max() < VOCABULARY


def test_contestants_in_processes_of_their_own_take_turns() -> None:
    # partial(partial, abs)() is a step: what a child process builds must be importable there.
    laps = race({"a": partial(partial, abs), "b": partial(partial, float)}, repeats=2, warmup=1)
    assert [lap.result for lap in laps["a"]] == [1, 2]
    assert [lap.result for lap in laps["b"]] == [1.0, 2.0]
    assert all(lap.seconds >= 0 for own in laps.values() for lap in own)


def test_quartiles_of_one_measurement_are_itself() -> None:
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(2.0, 1.5, 2.5)


def test_the_benchmark_runs_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    toy = "--hidden 6 --vocab-size 40 --batch-size 6 --sentences 60 --matrix 32 --threads 1"
    main([*toy.split(), "--repeats", "1", "--warmup", "1", "--no-apart", "--json"])
    figures = json.loads(capsys.readouterr().out)
    assert {
        "words_per_second",
        "baseline_words_per_second",
        "ratio_alternating",
        "ratio_overlapped",
        "sgemm_share",
        "parts",
    } <= figures.keys()
    assert figures["ratio_overlapped"] == pytest.approx(
        figures["words_per_second"] / figures["baseline_words_per_second"], rel=0.01
    )
    for parts in (figures["parts"], figures["parts_alternating"]):
        assert sum(part["share"] for part in parts.values()) == pytest.approx(1, abs=0.01)
        assert {"encoder", "decoder", "penalty", "other"} <= parts.keys()


def test_a_configuration_that_the_baseline_lacks_is_refused() -> None:
    config = replace(ARAE_SNLI, autoencoder=replace(ARAE_SNLI.autoencoder, layers=2))
    with pytest.raises(ValueError, match="layers"):
        EagerARAE(config, VOCABULARY, torch.device("cpu"))
