"""Discriminators of translations: is target y what a human wrote for source x?

Both read ids and give a logit, so that D(x, y) = σ(logit). A source is read once for all of its
targets: `of` says which source each target is for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lvtrain.data.tokenizer import PAD
from lvtrain.modules.mlp import mlp


class ConvolutionalSide(nn.Module):
    """Sentence features by convolutions of several window sizes, the largest value over time.

        f_w = max_t ReLU(BatchNorm(W_w [e_t; …; e_{t+w−1}]))

    (Kim 2014.) Windows start at each token of a sentence, its end included; those that would start
    in the padding are not there, so that a score does not depend on what a sentence is batched
    with. The convolution is a product with windows laid out in rows.
    """

    def __init__(
        self, vocab_size: int, embedding: int, windows: Sequence[int], features: int
    ) -> None:
        super().__init__()
        self.windows = tuple(windows)
        self.embedding = nn.Embedding(vocab_size, embedding, padding_idx=PAD)
        # The normalisation has the bias.
        self.convolutions = nn.ModuleList(
            nn.Linear(w * embedding, features, bias=False) for w in self.windows
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(features) for _ in self.windows)
        self.size = features * len(self.windows)

    def forward(
        self, tokens: Int[Tensor, "B T"], lengths: Int[Tensor, " B"]
    ) -> Float[Tensor, "B F"]:
        """The features of each sentence."""
        rows, width = tokens.shape
        real = torch.arange(width, device=tokens.device) < lengths[:, None]
        x = self.embedding(F.pad(tokens, (0, max(self.windows) - 1), value=PAD))
        found = []
        for window, convolution, norm in zip(
            self.windows, self.convolutions, self.norms, strict=True
        ):
            # [B, T, E, w] -> those of real tokens [N, w E]
            seen = x.unfold(1, window, 1)[:, :width].transpose(2, 3).flatten(2)[real]
            y = norm(convolution(seen)).relu()
            # 0 is the least that ReLU gives: where there is no window, none is the largest.
            found.append(y.new_zeros(rows, width, y.shape[1]).masked_scatter(real[..., None], y))
        return torch.cat([y.amax(1) for y in found], dim=1)


class ConvolutionalDiscriminator(nn.Module):
    """D of BR-CSGAN (Yang, Chen, Wang and Xu 2018, arXiv 1703.04887): the features of both
    sentences side by side, then an MLP.

    The paper has a linear layer there, no `layers`. Its logit is then a sum of what each sentence
    says by itself: that tells whether y reads like a human's, and not whether it translates x.
    """

    def __init__(
        self,
        vocab_size: int,
        target_vocab_size: int,
        embedding: int,
        windows: Sequence[int],
        features: int,
        layers: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.source = ConvolutionalSide(vocab_size, embedding, windows, features)
        self.target = ConvolutionalSide(target_vocab_size, embedding, windows, features)
        self.output = mlp([self.source.size + self.target.size, *layers, 1], "relu")

    @property
    def embeddings(self) -> tuple[nn.Embedding, nn.Embedding]:
        """Of the words of sources and of targets."""
        return self.source.embedding, self.target.embedding

    def forward(
        self,
        sources: Int[Tensor, "B S"],
        source_lengths: Int[Tensor, " B"],
        targets: Int[Tensor, "M T"],
        target_lengths: Int[Tensor, " M"],
        of: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, " M"]:
        """The logit of each target as a translation of source `of`, its own row's unless given."""
        x = self.source(sources, source_lengths)
        y = self.target(targets, target_lengths)
        return self.output(torch.cat([x if of is None else x[of], y], dim=1)).squeeze(1)


class GridDiscriminator(nn.Module):
    """D of Adversarial-NMT (Wu, Xia, Zhao, Tian, Qin, Lai and Liu 2017, arXiv 1704.06933).

    A T × T grid whose cell (i, j) is [e(x_i); e(y_j)]; twice a 3 × 3 convolution, ReLU and 2 × 2
    max pooling; then an MLP. Sentences are cut or padded to T.

    The first convolution is Σ_{a,b} (U_ab e(x_{i+a}) + V_ab e(y_{j+b})), in which x is read by
    Σ_b U_ab and y by Σ_a V_ab: two convolutions of T places and their sums, not one of T² cells.
    """

    def __init__(
        self,
        vocab_size: int,
        target_vocab_size: int,
        embedding: int,
        length: int,
        features: int,
        layers: Sequence[int],
    ) -> None:
        super().__init__()
        if length < SHORTEST_GRID:
            raise ValueError(f"length: expected {SHORTEST_GRID} or more, found {length}")
        self.length = length
        self.source = nn.Embedding(vocab_size, embedding, padding_idx=PAD)
        self.target = nn.Embedding(target_vocab_size, embedding, padding_idx=PAD)
        self.read_source = nn.Conv1d(embedding, features, 3)
        self.read_target = nn.Conv1d(embedding, features, 3, bias=False)
        self.convolution = nn.Conv2d(features, features, 3)
        left = ((length - 2) // 2 - 2) // 2
        self.output = mlp([features * left * left, *layers, 1], "relu")

    @property
    def embeddings(self) -> tuple[nn.Embedding, nn.Embedding]:
        """Of the words of sources and of targets."""
        return self.source, self.target

    def forward(
        self,
        sources: Int[Tensor, "B S"],
        source_lengths: Int[Tensor, " B"],
        targets: Int[Tensor, "M T"],
        target_lengths: Int[Tensor, " M"],
        of: Int[Tensor, " M"] | None = None,
    ) -> Float[Tensor, " M"]:
        """The logit of each target as a translation of source `of`, its own row's unless given."""
        x = self.read_source(self.source(self._cut(sources, source_lengths)).transpose(1, 2))
        y = self.read_target(self.target(self._cut(targets, target_lengths)).transpose(1, 2))
        grid = (x if of is None else x[of])[:, :, :, None] + y[:, :, None]
        grid = F.max_pool2d(grid.relu(), 2)
        grid = F.max_pool2d(self.convolution(grid).relu(), 2)
        return self.output(grid.flatten(1)).squeeze(1)

    def _cut(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Sentences of T tokens."""
        tokens = F.pad(tokens, (0, max(0, self.length - tokens.shape[1])), value=PAD)
        beyond = torch.arange(self.length, device=tokens.device) >= lengths[:, None]
        return tokens[:, : self.length].masked_fill(beyond, PAD)


SHORTEST_GRID = 10
"""Of which two convolutions with pooling leave a cell."""
