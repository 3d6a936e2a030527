"""RNNSearch (Bahdanau, Cho and Bengio 2015, arXiv 1409.0473), with LSTMs.

    m_i = [→h_i; ←h_i]                       a bidirectional LSTM over the source
    s_0 = tanh(W_s mean_i m_i)
    e_ti = vᵀ tanh(W_q s_{t−1} + U m_i),  α_t = softmax(e_t),  a_t = Σ_i α_ti m_i
    s_t = LSTM(s_{t−1}, [y_{t−1}; a_t])      U m_i once a sentence
    r_t = tanh(W_r [s_t; a_t; y_{t−1}])      once for all steps: it feeds nothing back

Deeper layers of the decoder are LSTMs over [s_t; a_t] (Wu et al. 2016, GNMT), outside the
recurrence of the attention. Dropout drops the same features at every step of a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from lvtrain.kernels.attention_lstm import attention_lstm
from lvtrain.modules.decoder import real_tokens
from lvtrain.modules.dropout import dropped
from lvtrain.modules.encoder import LSTMLayer
from lvtrain.modules.translator import Memory, State, Tied, embeddings, glorot
from lvtrain.randomness import Key


@dataclass(frozen=True)
class RNNSearchMemory(Memory):
    """Annotations m_i, and what the attention compares queries with."""

    keys: Float[Tensor, "B S A"]
    """U m_i."""
    first: Float[Tensor, "B H"]
    """s_0."""


@dataclass(frozen=True)
class RNNSearchState(State):
    """(h, c) of each layer of the decoder, the attentive one first."""

    layers: tuple[tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]], ...]


class RNNSearch(nn.Module):
    """Encoder and decoder; `hidden` is the decoder's state, and both directions together."""

    def __init__(
        self,
        source: int,
        target: int,
        embedding: int,
        hidden: int,
        layers: int,
        dropout: float,
        tied: Tied,
    ) -> None:
        super().__init__()
        self.rate, attention = dropout, hidden // 2
        self.source, self.target, self.output = embeddings(source, target, embedding, tied)
        self.output_bias = nn.Parameter(torch.zeros(target))
        sizes = [embedding] + [hidden] * (layers - 1)
        self.forwards = nn.ModuleList(LSTMLayer(size, hidden // 2) for size in sizes)
        self.backwards = nn.ModuleList(LSTMLayer(size, hidden // 2) for size in sizes)
        self.first = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, attention)
        self.query = nn.Linear(hidden, attention, bias=False)
        self.score = nn.Parameter(torch.empty(attention).uniform_(-1, 1) * attention**-0.5)
        self.cell = LSTMLayer(embedding, hidden, hidden)
        self.deeper = nn.ModuleList(LSTMLayer(2 * hidden, hidden) for _ in range(layers - 1))
        self.readout = nn.Linear(2 * hidden + embedding, embedding)
        glorot(self)
        for layer in self.modules():
            if isinstance(layer, LSTMLayer):
                _start(layer)

    def encode(
        self, source: Int64[Tensor, "B S"], lengths: Int64[Tensor, " B"], key: Key | None = None
    ) -> RNNSearchMemory:
        mask = real_tokens(source, lengths)
        x = F.embedding(source, self.source)
        # Each row turned around in its own length: padding stays at the end.
        place = torch.arange(source.shape[1], device=source.device)
        turned = torch.where(mask, lengths[:, None] - 1 - place, place)
        layers = zip(self.forwards, self.backwards, strict=True)
        for depth, (forwards, backwards) in enumerate(layers):
            x = self._dropped(x, key, "source", depth)
            there, _, _ = forwards(x, lengths)
            back, _, _ = backwards(_gathered(x, turned), lengths)
            x = torch.cat([there, _gathered(back, turned)], dim=2)
        x = self._dropped(x, key, "memory")
        mean = x.sum(1) / lengths[:, None]
        return RNNSearchMemory(x, mask, self.key(x), self.first(mean).tanh())

    def states(
        self,
        memory: RNNSearchMemory,
        inputs: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"] | None = None,
        key: Key | None = None,
    ) -> Float[Tensor, "B T E"]:
        words = self._dropped(F.embedding(inputs, self.target), key, "target")
        x = F.linear(words, self.cell.w_ih, self.cell.bias)
        assert self.cell.w_code is not None
        if x.device.type != "cpu":
            lengths = None  # the host would have to wait for them; the steps beyond do no harm
        y, context, _, _ = attention_lstm(
            x, memory.states, memory.keys, memory.mask, self.query.weight, self.score,
            self.cell.w_code, self.cell.w_hh, memory.first, torch.zeros_like(memory.first), lengths,
        )  # fmt: skip
        for depth, layer in enumerate(self.deeper):
            below = self._dropped(torch.cat([y, context], dim=2), key, "deeper", depth)
            y, _, _ = layer(below, lengths)
        read = self.readout(torch.cat([y, context.to(y.dtype), words], dim=2)).tanh()
        return self._dropped(read, key, "readout")

    def start(self, memory: RNNSearchMemory) -> RNNSearchState:
        zero = torch.zeros_like(memory.first)
        rest = ((zero, zero),) * len(self.deeper)
        coverage = memory.states.new_zeros(memory.mask.shape)
        return RNNSearchState(coverage, ((memory.first, zero), *rest))

    def step(
        self, memory: RNNSearchMemory, state: RNNSearchState, words: Int64[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B E"], RNNSearchState]:
        x = F.embedding(words, self.target)
        h, c = state.layers[0]
        scores = (self.query(h).unsqueeze(1) + memory.keys).tanh() @ self.score
        weights = scores.masked_fill(~memory.mask, float("-inf")).softmax(1)
        context = torch.bmm(weights.unsqueeze(1), memory.states).squeeze(1)
        cell = self.cell
        h, c = _cell(F.linear(x, cell.w_ih) + cell.row_bias(context) + h @ cell.w_hh.t(), c)
        layers = [(h, c)]
        y = h
        for layer, (h, c) in zip(cast(list[LSTMLayer], list(self.deeper)), state.layers[1:],
                                 strict=True):  # fmt: skip
            below = torch.cat([y, context], dim=1)
            y, c = _cell(F.linear(below, layer.w_ih, layer.bias) + h @ layer.w_hh.t(), c)
            layers.append((y, c))
        read = self.readout(torch.cat([y, context, x], dim=1)).tanh()
        return read, RNNSearchState(state.coverage + weights, tuple(layers))

    def _dropped(self, x: Tensor, key: Key | None, *where: str | int) -> Tensor:
        return dropped(x, key and key.fold(*where), self.rate, locked=True)


def _gathered(x: Float[Tensor, "B S E"], place: Int64[Tensor, "B S"]) -> Float[Tensor, "B S E"]:
    """Row by row, the vectors at these places."""
    return x.gather(1, place.unsqueeze(2).expand(-1, -1, x.shape[2]))


def _cell(gates: Float[Tensor, "B G"], c: Float[Tensor, "B H"]) -> tuple[Tensor, Tensor]:
    i, f, g, o = gates.chunk(4, dim=1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


@torch.no_grad()
def _start(layer: LSTMLayer) -> None:
    """Glorot's uniform for the inputs, orthogonal recurrences, forget gates open."""
    for weight in (layer.w_ih, layer.w_code):
        if weight is not None:
            for gate in weight.chunk(4):
                nn.init.xavier_uniform_(gate)
    for gate in layer.w_hh.chunk(4):
        nn.init.orthogonal_(gate)
    layer.bias.zero_()
    layer.bias[layer.hidden : 2 * layer.hidden] = 1.0
