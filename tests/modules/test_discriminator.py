"""Discriminators of translations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvtrain.data.tokenizer import EOS, PAD
from lvtrain.modules.discriminator import ConvolutionalDiscriminator, GridDiscriminator

VOCABULARY = 12


def convolutional() -> nn.Module:
    return ConvolutionalDiscriminator(VOCABULARY, VOCABULARY, 8, (1, 2, 3), 6, (16,))


def grid() -> nn.Module:
    return GridDiscriminator(VOCABULARY, VOCABULARY, 8, 12, 5, (16,))


KINDS = pytest.mark.parametrize("make", [convolutional, grid])


def sentences(rows: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    tokens = torch.randint(4, VOCABULARY, (rows, width), generator=generator)
    place = torch.arange(width)
    tokens = tokens.masked_fill(place >= lengths[:, None], PAD)
    return tokens.masked_fill(place == lengths[:, None] - 1, EOS), lengths


@KINDS
def test_a_score_depends_on_its_own_pair_alone(make: type) -> None:
    torch.manual_seed(0)
    discriminator = make().eval()
    x, x_lengths = sentences(6, 7)
    y, y_lengths = sentences(6, 9, seed=1)
    scores = discriminator(x, x_lengths, y, y_lengths)
    wide = F.pad(x, (0, 3)), x_lengths, F.pad(y, (0, 4)), y_lengths
    torch.testing.assert_close(discriminator(*wide), scores)
    for row in range(6):
        own = (t[row : row + 1] for t in (x, x_lengths, y, y_lengths))
        torch.testing.assert_close(discriminator(*own), scores[row : row + 1])


@KINDS
def test_a_source_is_read_once_for_all_its_targets(make: type) -> None:
    torch.manual_seed(0)
    discriminator = make().eval()
    x, x_lengths = sentences(3, 7)
    y, y_lengths = sentences(8, 9, seed=1)
    of = torch.tensor([0, 2, 1, 1, 0, 2, 2, 0])
    shared = discriminator(x, x_lengths, y, y_lengths, of)
    torch.testing.assert_close(shared, discriminator(x[of], x_lengths[of], y, y_lengths))


def accuracy(discriminator: nn.Module, steps: int) -> float:
    """On fresh pairs, after so many steps: targets are their sources, or those of others."""
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=5e-3)
    label, right = torch.arange(128) < 64, []
    for step in range(steps):
        x, lengths = sentences(64, 3, seed=step)
        # None of them is its own source.
        targets, target_lengths = torch.cat([x, x.flip(0)]), torch.cat([lengths, lengths.flip(0)])
        logits = discriminator(x, lengths, targets, target_lengths, torch.arange(64).repeat(2))
        right.append(((logits > 0) == label).float().mean().item())
        loss = F.binary_cross_entropy_with_logits(logits, label.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return sum(right[-20:]) / 20


@KINDS
def test_it_learns_whose_translation_a_target_is(make: type) -> None:
    torch.manual_seed(0)
    assert accuracy(make(), 150) > 0.75


def test_a_linear_layer_over_both_sides_cannot_tell() -> None:
    torch.manual_seed(0)
    paper = ConvolutionalDiscriminator(VOCABULARY, VOCABULARY, 8, (1, 2, 3), 6)
    assert accuracy(paper, 150) < 0.6


def test_the_first_convolution_of_a_grid_is_that_of_its_cells() -> None:
    """Σ_b U_ab and Σ_a V_ab in place of the 3 × 3 kernel over [e(x_i); e(y_j)]."""
    torch.manual_seed(0)
    found = GridDiscriminator(VOCABULARY, VOCABULARY, 8, 12, 5, (16,))
    (x, _), (y, _) = sentences(4, 12), sentences(4, 12, seed=1)
    e, f = found.source(x), found.target(y)
    cells = torch.cat(
        [e[:, :, None].expand(-1, -1, 12, -1), f[:, None].expand(-1, 12, -1, -1)], dim=-1
    ).permute(0, 3, 1, 2)
    # Any kernel with these sums will do: one that has all of them in its middle row and column.
    kernel = torch.zeros(5, 16, 3, 3)
    kernel[:, :8, :, 1] = found.read_source.weight.detach()
    kernel[:, 8:, 1] = found.read_target.weight.detach()
    other = torch.randn(5, 16, 3, 3)
    kernel[:, :8] += other[:, :8] - other[:, :8].mean(3, keepdim=True)
    kernel[:, 8:] += other[:, 8:] - other[:, 8:].mean(2, keepdim=True)
    expected = F.conv2d(cells, kernel, found.read_source.bias)
    ours = (
        found.read_source(e.transpose(1, 2))[:, :, :, None]
        + found.read_target(f.transpose(1, 2))[:, :, None]
    )
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_grid_too_small_for_its_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="length: expected 10 or more, found 9"):
        GridDiscriminator(VOCABULARY, VOCABULARY, 8, 9, 5, (16,))
