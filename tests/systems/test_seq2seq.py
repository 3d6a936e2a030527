"""The supervised translator's loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lvtrain.data.batches import Batches
from lvtrain.data.store import Store
from lvtrain.errors import UserError
from lvtrain.experiment import configure
from lvtrain.modules.decoder import shifted
from lvtrain.presets import preset
from lvtrain.randomness import Key
from lvtrain.systems.seq2seq import ScheduledSamplingConfig, Seq2Seq, Seq2SeqConfig

SMALL = Seq2SeqConfig(embedding=8, hidden=12, heads=2, dropout=0.0)
BOTH = pytest.mark.parametrize("architecture", ["rnnsearch", "transformer"])


def made(store: Path, **fields: object) -> tuple[Seq2Seq, Batches]:
    info = Store.open(store).info
    assert info.target_vocab_size is not None
    torch.manual_seed(0)
    model = Seq2Seq(replace(SMALL, **fields), info.vocab_size, info.target_vocab_size)
    return model, Batches(Store.open(store).split("train"), batch_size=12, seed=0)


@BOTH
def test_the_loss_is_the_smoothed_cross_entropy_of_the_real_words(
    store: Path, architecture: str
) -> None:
    model, batches = made(store, architecture=architecture, label_smoothing=0.2)
    batch = batches.at(0)
    loss, _ = model.loss(batch, Key(seed=0, step=0))
    memory = model.encode(batch.tokens, batch.lengths)
    y = model.states(memory, shifted(batch.targets))
    logits = F.linear(y, model.network.output, model.network.output_bias)
    real = torch.arange(batch.targets.shape[1]) < batch.target_lengths[:, None]
    expected = F.cross_entropy(logits[real], batch.targets[real], label_smoothing=0.2)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


@BOTH
def test_shares_of_the_ranks_make_the_loss_of_the_whole(store: Path, architecture: str) -> None:
    model, batches = made(store, architecture=architecture, dropout=0.3)
    key, batch = Key(seed=0, step=2), batches.at(2)
    whole, _ = model.loss(batch, key)
    split = Store.open(store).split("train")
    ranks = [Batches(split, batch_size=12, seed=0, rank=r, world=3).at(2) for r in range(3)]
    losses = [model.loss(b, replace(key, rank=r, world=3))[0] for r, b in enumerate(ranks)]
    torch.testing.assert_close(torch.stack(losses).mean(), whole)
    parts = [model.loss(batch.part(i, 4), key.part(i, 4))[0] for i in range(4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


@BOTH
def test_scheduled_sampling_reads_own_words_from_its_start_on(
    store: Path, architecture: str
) -> None:
    fields = {"sampling": ScheduledSamplingConfig(probability=0.8, start=5, ramp=10)}
    (model, batches), (plain, _) = (
        made(store, architecture=architecture, **f) for f in (fields, {})
    )
    batch = batches.at(0)

    def losses(step: int) -> tuple[float, float]:
        key = Key(seed=0, step=step)
        return model.loss(batch, key)[0].item(), plain.loss(batch, key)[0].item()

    for step in (0, 4):
        assert len(set(losses(step))) == 1
    assert len(set(losses(15))) == 2
    assert [ScheduledSamplingConfig(probability=0.8, start=5, ramp=10).at(s)
            for s in (4, 5, 10, 15, 99)] == [0.0, 0.0, 0.4, 0.8, 0.8]  # fmt: skip


@BOTH
def test_bf16_gives_nearly_the_loss_of_fp32(store: Path, architecture: str) -> None:
    model, batches = made(store, architecture=architecture)
    batch, key = batches.at(0), Key(seed=0, step=0)
    single, _ = model.loss(batch, key)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        half, _ = model.loss(batch, key)
    half.backward()
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, single, rtol=0.02, atol=0.0)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_store_it_cannot_learn_from_is_refused(store: Path, tmp_path: Path) -> None:
    from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences

    prepare_sentences(["a b", "c d"] * 9, ["a"], config=PrepareConfig(), out=tmp_path / "one")
    model, train = preset("seq2seq", "tiny")
    with pytest.raises(UserError, match="one: expected a store with a parallel side"):
        configure("seq2seq", model, train, tmp_path / "one", "tiny")
    with pytest.raises(UserError, match="--tied all: .* expected one vocabulary"):
        configure("seq2seq", replace(model, tied="all"), train, store, "tiny")
    with pytest.raises(UserError, match="--hidden: expected an even number"):
        configure("seq2seq", replace(model, hidden=7), train, store, "tiny")
