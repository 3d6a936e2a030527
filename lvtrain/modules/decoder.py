"""Sentence decoder: an LSTM language model conditioned on a code at every step."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lvtrain.data.tokenizer import BOS
from lvtrain.kernels.cross_entropy import linear_cross_entropy
from lvtrain.modules.dropout import dropped
from lvtrain.modules.encoder import LSTMLayer
from lvtrain.modules.sampled_softmax import sampled_cross_entropy
from lvtrain.randomness import Key

# The target of a position that costs nothing.
IGNORED = -100

State = list[tuple[Tensor, Tensor]]


class Memory(NamedTuple):
    """What decoding carries from word to word: per layer (h, c) [B, H], and the constant gates."""

    state: State
    gates: list[Tensor]

    def keep(self, rows: Tensor) -> Memory:
        """The memory of some rows only: finished sentences leave the batch."""
        gates = [g if g.dim() == 1 else g[rows] for g in self.gates]
        return Memory([(h[rows], c[rows]) for h, c in self.state], gates)


class Decoder(nn.Module):
    """p(x | c) = ∏ p(x_t | x_{<t}, c): input [embedding of x_{t−1}; c], initial state zero.

    With `code` 0 it is a recurrent language model.
    """

    def __init__(
        self,
        vocab_size: int,
        embedding: int,
        hidden: int,
        code: int,
        layers: int = 1,
        tied: bool = False,
        sparse: bool = False,
        sampled_softmax: int = 0,
    ) -> None:
        super().__init__()
        # The whole softmax gives every row of the output a gradient.
        self.sparse = sparse and (not tied or sampled_softmax > 0)
        self.sampled_softmax = sampled_softmax
        self.code = code
        self.embedding = nn.Parameter(torch.empty(vocab_size, embedding))
        sizes = [(embedding, code)] + [(hidden, 0)] * (layers - 1)
        self.layers = nn.ModuleList(LSTMLayer(size, hidden, c) for size, c in sizes)
        self.output = self.embedding if tied else nn.Parameter(torch.empty(vocab_size, hidden))
        self.output_bias = nn.Parameter(torch.empty(vocab_size))

    def states(
        self,
        code: Float[Tensor, "B C"] | None,
        inputs: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"],
        dropout: Key | None = None,
        rate: float = 0.0,
    ) -> Float[Tensor, "B T H"]:
        """Hidden states under teacher forcing."""
        first, *deeper = cast(list[LSTMLayer], list(self.layers))
        x, _, _ = first.read(
            inputs, self.embedding, lengths, code, dropout, rate, sparse=self.sparse
        )
        for place, layer in enumerate(deeper, 1):
            x, _, _ = layer(dropped(x, dropout and dropout.fold(place), rate), lengths)
        return dropped(x, dropout and dropout.fold(len(self.layers)), rate)

    def cross_entropy(
        self,
        code: Float[Tensor, "B C"] | None,
        tokens: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"],
        inputs: Int64[Tensor, "B T"] | None = None,
        dropout: Key | None = None,
        rate: float = 0.0,
        reduction: Literal["mean", "sum", "none"] = "mean",
        sampling: Key | None = None,
    ) -> Tensor:
        """−log p(tokens | code) in nats over the real tokens: their mean, sum, or one each [N].

        The real tokens are chosen before the projection onto the vocabulary, the dearest product of
        all; on a GPU padding is projected too, since the host would have to wait for their number.
        `inputs` replaces the shifted tokens, for word dropout. A decoder with a sampled softmax
        estimates it where there is a key for `sampling`.
        """
        y = self.states(code, shifted(tokens) if inputs is None else inputs, lengths, dropout, rate)
        choose = chosen if reduction == "none" or y.device.type == "cpu" else masked
        y, target = choose(y, tokens, lengths)
        if sampling is not None and self.sampled_softmax:
            return sampled_cross_entropy(
                y, self.output, target, self.output_bias, self.sampled_softmax, sampling,
                sparse=self.sparse and y.device.type == "cpu", ignore_index=IGNORED,
                reduction=reduction,
            )  # fmt: skip
        return linear_cross_entropy(
            y, self.output, target, self.output_bias, ignore_index=IGNORED, reduction=reduction
        )

    def start(self, code: Float[Tensor, "B C"] | None, rows: int) -> Memory:
        """The memory before the first word."""
        layers = cast(list[LSTMLayer], list(self.layers))
        hidden = self.output_bias.new_zeros(rows, layers[0].hidden)
        state = [(hidden, hidden) for _ in layers]
        return Memory(state, [layer.row_bias(code) for layer in layers])

    def step(
        self, words: Int64[Tensor, " B"], memory: Memory
    ) -> tuple[Float[Tensor, "B V"], Memory]:
        """Logits of the next word and the new memory, given the last word of each row."""
        x = F.embedding(words, self.embedding)
        state: State = []
        layers = cast(list[LSTMLayer], list(self.layers))
        for layer, (h, c), gates in zip(layers, memory.state, memory.gates, strict=True):
            total = gates + x @ layer.w_ih.t() + h @ layer.w_hh.t()
            i, f, g, o = total.chunk(4, dim=1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            x = o.sigmoid() * c.tanh()
            state.append((x, c))
        return F.linear(x, self.output, self.output_bias), Memory(state, memory.gates)


def shifted(tokens: Int64[Tensor, "B T"]) -> Int64[Tensor, "B T"]:
    """What the decoder reads to predict `tokens`: the sentence start, then all but the last."""
    return torch.cat([torch.full_like(tokens[:, :1], BOS), tokens[:, :-1]], dim=1)


def chosen(
    y: Float[Tensor, "B T H"], tokens: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]
) -> tuple[Float[Tensor, "N H"], Int64[Tensor, " N"]]:
    """The states and targets of the real tokens."""
    real = real_tokens(tokens, lengths)
    return y[real], tokens[real]


def masked(
    y: Float[Tensor, "B T H"], tokens: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]
) -> tuple[Float[Tensor, "N H"], Int64[Tensor, " N"]]:
    """All states, in the order the layers have them in memory, and the targets of padding ignored:
    a shape that does not depend on the lengths."""
    target = tokens.masked_fill(~real_tokens(tokens, lengths), IGNORED)
    return y.transpose(0, 1).flatten(0, 1), target.t().flatten()


def real_tokens(tokens: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]) -> Tensor:
    """Mask [B, T] of the positions that hold words or the sentence end rather than padding."""
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
