"""Sentence encoder: an LSTM over word embeddings, read at each sentence's last word."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lvtrain.kernels.lstm import lstm


class LSTMLayer(nn.Module):
    """One LSTM layer over padded sequences, with room for an input that is constant in time.

    gates_t = W_ih x_t + W_hh h_{t−1} + gain · W_code c + b, gates ordered i, f, g, o. The product
    with the code c is taken once a sentence rather than once a word.
    """

    def __init__(self, input_size: int, hidden: int, code: int = 0, code_gain: float = 1.0) -> None:
        super().__init__()
        self.hidden, self.code_gain = hidden, code_gain
        self.w_ih = nn.Parameter(torch.empty(4 * hidden, input_size))
        self.w_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.empty(4 * hidden))
        self.w_code = nn.Parameter(torch.empty(4 * hidden, code)) if code else None

    def row_bias(self, code: Float[Tensor, "B C"] | None) -> Tensor:
        """The part of the gates that does not change in time: [4H], or [B, 4H] given a code."""
        if self.w_code is None or code is None:
            return self.bias
        return torch.addmm(self.bias, code, self.w_code.t(), alpha=self.code_gain)

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
        dropout: torch.Generator | None = None,
        rate: float = 0.0,
    ) -> Float[Tensor, "B H"]:
        x = embedded(tokens, self.embedding, self.sparse)
        last = x
        for layer in self.layers:
            x, last, _ = layer(dropped(x, dropout, rate), lengths)
        return last


def embedded(
    words: Int64[Tensor, "B T"], table: Float[Tensor, "V E"], sparse: bool
) -> Float[Tensor, "B T E"]:
    """Rows of a table of embeddings.

    With `sparse`, the gradient holds the rows of these words alone: an optimiser that leaves other
    rows as they are, as plain SGD does, need not fill, read and add a whole table of zeros. Only on
    a CPU: a GPU does that faster than it sorts the words.
    """
    return F.embedding(words, table, sparse=sparse and words.device.type == "cpu")


def dropped(x: Tensor, generator: torch.Generator | None, rate: float) -> Tensor:
    """Inverted dropout drawn from `generator`; the identity without one."""
    if generator is None or rate == 0.0:
        return x
    keep = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) >= rate
    return x * keep / (1.0 - rate)


@torch.no_grad()
def uniform_init(module: nn.Module, scale: float) -> nn.Module:
    """Every parameter from U(−scale, scale), as Zhao et al. 2018 start their autoencoder."""
    for parameter in module.parameters():
        parameter.uniform_(-scale, scale)
    return module
