"""The estimate of the softmax from some words is near it, and the nearer the more there are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvtrain.kernels.cross_entropy import linear_cross_entropy
from lvtrain.modules.decoder import Decoder
from lvtrain.modules.sampled_softmax import proposed, sampled_cross_entropy
from lvtrain.randomness import Key

CPU = torch.device("cpu")
WORDS, HIDDEN = 300, 6
TARGET = torch.tensor([2, 7, 40, 150, 290])


@pytest.fixture
def layer() -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, weights, and biases by which words are as frequent as in Zipf's law."""
    torch.manual_seed(0)
    x = torch.randn(len(TARGET), HIDDEN, dtype=torch.double)
    weight = torch.randn(WORDS, HIDDEN, dtype=torch.double) / 2
    bias = -torch.arange(1, WORDS + 1).double().log()
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def gradient(loss: Tensor, layer: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, layer)])


def test_a_word_is_drawn_as_often_as_its_probability_says() -> None:
    keys, found = 4000, torch.zeros(30)
    said = torch.zeros(30, dtype=torch.double)
    for step in range(keys):
        words, log_inclusion = proposed(30, 9, Key(seed=3, step=step), CPU)
        assert words.diff().gt(0).all()
        found[words] += 1
        said[words] = log_inclusion.exp()
    assert said[0] > 0.8 > 0.1 > said[29] > 0.05
    deviation = (said * (1 - said) / keys).sqrt()
    assert ((found / keys - said).abs() < 4 * deviation).all()


def test_the_bias_is_towards_too_small_a_loss_and_falls_with_the_draws(
    layer: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Of the mean over 300 draws of S, whose own noise is a tenth of it."""
    x, weight, bias = layer
    whole = linear_cross_entropy(x, weight, TARGET, bias)
    expected = gradient(whole, layer)
    short, off = [], []
    for samples in (8, 32, 128):
        losses, gradients = [], []
        for step in range(300):
            loss = sampled_cross_entropy(x, weight, TARGET, bias, samples, Key(seed=1, step=step))
            losses.append(loss.item())
            gradients.append(gradient(loss, layer))
        short.append(whole.item() - sum(losses) / len(losses))
        off.append(float((torch.stack(gradients).mean(0) - expected).norm() / expected.norm()))
    for found in (short, off):
        assert 0 < 2 * found[2] < found[1] < found[0] / 2
    assert max(short[2], off[2]) < 0.05


def test_with_every_word_drawn_it_is_the_softmax(layer: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias = layer
    key = Key(seed=0, step=0)
    some = weight[:9], bias[:9]
    target = TARGET % 9
    for reduction in ("mean", "sum", "none"):
        found = sampled_cross_entropy(x, some[0], target, some[1], 2000, key, reduction=reduction)
        whole = linear_cross_entropy(x, some[0], target, some[1], reduction=reduction)
        torch.testing.assert_close(found, whole, rtol=1e-9, atol=0)
        torch.testing.assert_close(
            gradient(found.sum(), layer), gradient(whole.sum(), layer), rtol=1e-7, atol=1e-12
        )


def test_a_sparse_gradient_is_the_dense_one_and_holds_no_other_rows(
    layer: tuple[Tensor, Tensor, Tensor],
) -> None:
    x, weight, bias = layer
    key = Key(seed=0, step=5)
    dense, sparse = (
        torch.autograd.grad(
            sampled_cross_entropy(x, weight, TARGET, bias, 20, key, sparse=sparse), weight
        )[0]
        for sparse in (False, True)
    )
    assert sparse.is_sparse
    assert sparse._nnz() <= 20 + len(TARGET)
    torch.testing.assert_close(sparse.to_dense(), dense)


def test_what_is_ignored_costs_nothing(layer: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias = layer
    key = Key(seed=0, step=5)
    target = TARGET.clone()
    target[1] = -100
    rest = torch.tensor([0, 2, 3, 4])
    found = sampled_cross_entropy(x, weight, target, bias, 20, key)
    expected = sampled_cross_entropy(x[rest], weight, TARGET[rest], bias, 20, key)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found, layer), gradient(expected, layer))


def test_the_draw_of_nothing_but_the_target_has_a_gradient(
    layer: tuple[Tensor, Tensor, Tensor],
) -> None:
    x, weight, bias = layer
    key = Key(seed=0, step=0)
    (word,), _ = proposed(WORDS, 1, key, CPU)
    loss = sampled_cross_entropy(x, weight, word.repeat(len(x)), bias, 1, key)
    assert loss == 0
    assert gradient(loss, layer).eq(0).all()


def test_ranks_and_parts_draw_the_same_words_and_steps_others() -> None:
    key = Key(seed=0, step=5)
    words = proposed(10**6, 50, key, CPU)[0]
    assert words.max() < 10**6
    for same in (replace(key, rank=2, world=3), key.part(1, 2)):
        assert torch.equal(proposed(10**6, 50, same, CPU)[0], words)
    assert not torch.equal(proposed(10**6, 50, replace(key, step=6), CPU)[0], words)


def test_a_decoder_estimates_where_it_is_told_to_and_nowhere_else() -> None:
    torch.manual_seed(0)
    decoder, whole = (Decoder(50, 4, 4, 0, sampled_softmax=samples) for samples in (10, 0))
    for parameter in decoder.parameters():
        parameter.data.normal_()
    whole.load_state_dict(decoder.state_dict())
    tokens = torch.tensor([[5, 6, 2], [7, 2, 0]])
    lengths = torch.tensor([3, 2])
    key = Key(seed=0, step=0)
    expected = whole.cross_entropy(None, tokens, lengths)
    assert torch.equal(decoder.cross_entropy(None, tokens, lengths), expected)
    assert torch.equal(whole.cross_entropy(None, tokens, lengths, sampling=key), expected)
    assert not torch.equal(decoder.cross_entropy(None, tokens, lengths, sampling=key), expected)
