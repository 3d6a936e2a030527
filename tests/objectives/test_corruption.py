from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.data.tokenizer import BOS, EOS, PAD, UNK
from lvtrain.objectives.corruption import CorruptionConfig, corrupt, drop_words
from lvtrain.randomness import Key


def batch(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Sentences of distinct words 10, 11, …, each with its end."""
    width = max(lengths)
    tokens = torch.full((len(lengths), width), PAD)
    for row, n in zip(tokens, lengths, strict=True):
        row[: n - 1] = torch.arange(10, 10 + n - 1)
        row[n - 1] = EOS
    return tokens, torch.tensor(lengths)


batches = st.lists(st.integers(1, 9), min_size=1, max_size=6).map(batch)
rates = st.floats(0, 0.9)


@given(
    batches,
    st.builds(CorruptionConfig, drop=rates, blank=rates, swap=rates, shuffle=st.floats(0, 4)),
    st.integers(0, 1000),
)
def test_noise_keeps_sentences_well_formed(
    given_: tuple[torch.Tensor, torch.Tensor], config: CorruptionConfig, seed: int
) -> None:
    tokens, lengths = given_
    noisy, new = corrupt(tokens, lengths, config, Key(seed=seed, step=0))
    for row, n, before, m in zip(noisy, new, tokens, lengths, strict=True):
        assert row[n - 1] == EOS and (row[n:] == PAD).all()
        words = row[: n - 1].tolist()
        assert set(words) <= {*before[: m - 1].tolist(), UNK}
        assert n >= min(m, 2), "a sentence keeps a word"
        known = [w for w in words if w != UNK]
        assert len(known) == len(set(known)), "no word doubles"


@given(batches)
def test_no_noise_changes_nothing(given_: tuple[torch.Tensor, torch.Tensor]) -> None:
    noisy, lengths = corrupt(*given_, CorruptionConfig(), Key(seed=0, step=0))
    assert torch.equal(noisy, given_[0]) and torch.equal(lengths, given_[1])


@given(st.integers(1, 3), st.integers(0, 99))
def test_local_shuffle_moves_words_less_than_its_reach(reach: int, seed: int) -> None:
    tokens, lengths = batch([9] * 8)
    noisy, _ = corrupt(tokens, lengths, CorruptionConfig(shuffle=reach), Key(seed=seed, step=0))
    moved = (noisy[:, :8] - tokens[0, :8]).abs()
    assert moved.max() < reach


def test_each_noise_has_its_rate() -> None:
    tokens, lengths = batch([21] * 2000)
    key = Key(seed=0, step=0)
    _, dropped = corrupt(tokens, lengths, CorruptionConfig(drop=0.3), key)
    assert abs((lengths - dropped).float().mean() / 20 - 0.3) < 0.01
    blanked, _ = corrupt(tokens, lengths, CorruptionConfig(blank=0.2), key)
    assert abs((blanked == UNK).sum() / (2000 * 20) - 0.2) < 0.01
    swapped, _ = corrupt(tokens, lengths, CorruptionConfig(swap=0.5), key)
    assert abs((swapped != tokens).sum() / (2000 * 20) - 0.5) < 0.05


def test_word_dropout_spares_the_start() -> None:
    inputs = torch.tensor([[BOS, 10, 11, 12, PAD]] * 500)
    out = drop_words(inputs, 0.5, Key(seed=0, step=0))
    assert (out[:, 0] == BOS).all() and (out[:, 4] == PAD).all()
    assert abs((out[:, 1:4] == UNK).float().mean() - 0.5) < 0.05
