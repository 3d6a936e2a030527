"""Sentence encoder: an LSTM over word embeddings, read at each sentence's last word."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lvtrain.kernels.lstm import embedding_lstm, lstm
from lvtrain.modules.dropout import dropped
from lvtrain.randomness import Key


class LSTMLayer(nn.Module):
    """One LSTM layer over padded sequences, with room for an input that is constant in time.

    gates_t = W_ih x_t + W_hh h_{t−1} + W_code c + b, gates ordered i, f, g, o. The product
    with the code c is taken once a sentence rather than once a word.
    """

    def __init__(self, input_size: int, hidden: int, code: int = 0) -> None:
        super().__init__()
        self.hidden = hidden
        self.w_ih = nn.Parameter(torch.empty(4 * hidden, input_size))
        self.w_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.empty(4 * hidden))
        self.w_code = nn.Parameter(torch.empty(4 * hidden, code)) if code else None

    def row_bias(self, code: Float[Tensor, "B C"] | None) -> Tensor:
        """The part of the gates that does not change in time: [4H], or [B, 4H] given a code."""
        if self.w_code is None or code is None:
            return self.bias
        return torch.addmm(self.bias, code, self.w_code.t())

    def forward(
        self,
        x: Float[Tensor, "B T I"],
        lengths: Int64[Tensor, " B"] | None,
        code: Float[Tensor, "B C"] | None = None,
        state: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs y [B, T, H] and the last h, c [B, H] of each row."""
        h0, c0 = state if state is not None else (None, None)
        return lstm(x, self.w_ih, self.w_hh, self.row_bias(code), h0, c0, lengths)

    def read(
        self,
        words: Int64[Tensor, "B T"],
        table: Float[Tensor, "V I"],
        lengths: Int64[Tensor, " B"],
        code: Float[Tensor, "B C"] | None = None,
        dropout: Key | None = None,
        rate: float = 0.0,
        sparse: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The layer over embedded words, given their table.

        With `sparse`, on a CPU, the table's gradient holds the rows of the batch's words alone: an
        optimiser that leaves other rows as they are, as plain SGD does, need not fill, read and add
        a whole table of zeros.
        """
        sparse = sparse and words.device.type == "cpu"
        if dropout is None or rate == 0.0:
            bias = self.row_bias(code)
            return embedding_lstm(
                words, table, self.w_ih, self.w_hh, bias, lengths=lengths, sparse=sparse
            )
        x = F.embedding(words, table, sparse=sparse)
        return self(dropped(x, dropout and dropout.fold(0), rate), lengths, code)


class Encoder(nn.Module):
    """Embeds words and gives h_T, the top LSTM layer's state at each sentence's last word."""

    def __init__(
        self, vocab_size: int, embedding: int, hidden: int, layers: int = 1, sparse: bool = False
    ) -> None:
        super().__init__()
        self.sparse = sparse
        self.embedding = nn.Parameter(torch.empty(vocab_size, embedding))
        sizes = [embedding] + [hidden] * (layers - 1)
        self.layers = nn.ModuleList(LSTMLayer(size, hidden) for size in sizes)

    def forward(
        self,
        tokens: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"],
        dropout: Key | None = None,
        rate: float = 0.0,
    ) -> Float[Tensor, "B H"]:
        first, *deeper = cast(list[LSTMLayer], list(self.layers))
        x, last, _ = first.read(
            tokens, self.embedding, lengths, None, dropout, rate, sparse=self.sparse
        )
        for place, layer in enumerate(deeper, 1):
            x, last, _ = layer(dropped(x, dropout and dropout.fold(place), rate), lengths)
        return last


@torch.no_grad()
def uniform_init(module: nn.Module, scale: float, forget_bias: float = 0.0) -> nn.Module:
    """Every parameter from U(−scale, scale), as Zhao et al. 2018 start their autoencoder.

    A `forget_bias` is added to the biases of the LSTMs' forget gates, which then start by keeping
    what they hold (Jozefowicz et al. 2015).
    """
    for parameter in module.parameters():
        parameter.uniform_(-scale, scale)
    for layer in module.modules():
        if isinstance(layer, LSTMLayer):
            layer.bias[layer.hidden : 2 * layer.hidden] += forget_bias
    return module
