"""The Transformer (Vaswani et al. 2017, arXiv 1706.03762), normalised before each part.

    x ← x + dropout(part(norm(x)))           part: attention, or W_2 relu(W_1 x)

(Xiong et al. 2020, arXiv 2002.04745: no warm-up is then needed to get off the ground.) Positions
are sinusoids. The keys and values of the source are projected once a sentence, those of the words
written are kept from step to step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from lvtrain.modules.decoder import real_tokens
from lvtrain.modules.dropout import dropped
from lvtrain.modules.translator import Memory, State, Tied, embeddings, glorot
from lvtrain.randomness import Key

Heads = Float[Tensor, "B h T d"]


@dataclass(frozen=True)
class TransformerMemory(Memory):
    """The encoder's output, and what each layer of the decoder compares and reads of it."""

    keys: tuple[Heads, ...]
    values: tuple[Heads, ...]


@dataclass(frozen=True)
class TransformerState(State):
    """Keys and values of the words written, in each layer; rows may have written more or fewer."""

    keys: tuple[Heads, ...]
    values: tuple[Heads, ...]
    written: Bool[Tensor, "B T"]
    """Which of them are a row's own."""


class Transformer(nn.Module):
    """Encoder and decoder of so many layers each."""

    def __init__(
        self,
        source: int,
        target: int,
        width: int,
        hidden: int,
        layers: int,
        heads: int,
        dropout: float,
        tied: Tied,
    ) -> None:
        super().__init__()
        self.rate, self.width = dropout, width
        self.source, self.target, self.output = embeddings(source, target, width, tied)
        self.output_bias = nn.Parameter(torch.zeros(target))
        self.encoder = nn.ModuleList(EncoderLayer(width, hidden, heads) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(width, hidden, heads) for _ in range(layers))
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        glorot(self)

    def encode(
        self, source: Int64[Tensor, "B S"], lengths: Int64[Tensor, " B"], key: Key | None = None
    ) -> TransformerMemory:
        mask = real_tokens(source, lengths)
        x = self._embedded(source, self.source, key and key.fold("source"))
        for depth, layer in enumerate(cast(list[EncoderLayer], list(self.encoder))):
            x = layer(x, mask[:, None, None], _drop(key, self.rate, "encoder", depth))
        x = self.encoder_norm(x)
        pairs = [layer.look.pairs(x) for layer in self._decoder]
        return TransformerMemory(x, mask, tuple(k for k, _ in pairs), tuple(v for _, v in pairs))

    def states(
        self,
        memory: TransformerMemory,
        inputs: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"] | None = None,
        key: Key | None = None,
    ) -> Float[Tensor, "B T E"]:
        x = self._embedded(inputs, self.target, key and key.fold("target"))
        mask = memory.mask[:, None, None]
        for depth, layer in enumerate(self._decoder):
            drop = _drop(key, self.rate, "decoder", depth)
            x = layer(x, memory.keys[depth], memory.values[depth], mask, drop)
        return self.decoder_norm(x)

    def start(self, memory: TransformerMemory) -> TransformerState:
        empty = tuple(keys[:, :, :0] for keys in memory.keys)
        coverage = memory.states.new_zeros(memory.mask.shape)
        return TransformerState(coverage, empty, empty, memory.mask[:, :0])

    def step(
        self, memory: TransformerMemory, state: TransformerState, words: Int64[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B E"], TransformerState]:
        place = state.written.sum(1)
        x = F.embedding(words, self.target) * math.sqrt(self.width)
        x = (x + sinusoids(place, self.width).to(x.dtype)).unsqueeze(1)
        written = F.pad(state.written, (0, 1), value=True)
        own, look = written[:, None, None], memory.mask[:, None, None]
        keys, values = [], []
        weights = state.coverage
        for depth, layer in enumerate(self._decoder):
            query, key, value = layer.own.all(layer.own_norm(x))
            keys.append(torch.cat([state.keys[depth], key], dim=2))
            values.append(torch.cat([state.values[depth], value], dim=2))
            x = x + layer.own.attend(query, keys[-1], values[-1], own)
            query = layer.look.queries(layer.look_norm(x))
            x = x + layer.look.attend(query, memory.keys[depth], memory.values[depth], look)
            if depth + 1 == len(memory.keys):
                scores = query @ memory.keys[depth].transpose(2, 3) / math.sqrt(query.shape[3])
                weights = scores.masked_fill(~look, float("-inf")).softmax(3).mean(1).squeeze(1)
            x = x + layer.feed(layer.feed_norm(x))
        new = TransformerState(state.coverage + weights, tuple(keys), tuple(values), written)
        return self.decoder_norm(x).squeeze(1), new

    @property
    def _decoder(self) -> list[DecoderLayer]:
        return cast("list[DecoderLayer]", list(self.decoder))

    def _embedded(
        self, words: Int64[Tensor, "B T"], table: Tensor, key: Key | None
    ) -> Float[Tensor, "B T E"]:
        x = F.embedding(words, table) * math.sqrt(self.width)
        place = torch.arange(words.shape[1], device=words.device)
        return dropped(x + sinusoids(place, self.width).to(x.dtype), key, self.rate)


class Attention(nn.Module):
    """softmax(q kᵀ/√d) v in each head (Vaswani et al. 2017, §3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.pair = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def queries(self, x: Float[Tensor, "B T E"]) -> Heads:
        return self._split(self.query(x))

    def pairs(self, x: Float[Tensor, "B T E"]) -> tuple[Heads, Heads]:
        """Keys and values."""
        keys, values = self.pair(x).chunk(2, dim=2)
        return self._split(keys), self._split(values)

    def all(self, x: Float[Tensor, "B T E"]) -> tuple[Heads, Heads, Heads]:
        """Queries, keys and values of a text that looks at itself."""
        return self.queries(x), *self.pairs(x)

    def attend(
        self,
        queries: Heads,
        keys: Heads,
        values: Heads,
        mask: Bool[Tensor, "B 1 1 T"] | None,
        causal: bool = False,
    ) -> Float[Tensor, "B T E"]:
        if queries.device.type == "cpu":
            # In bfloat16 its backward is several times slower there than in float32.
            dtype = torch.promote_types(queries.dtype, torch.float32)
            queries, keys, values = (of.to(dtype) for of in (queries, keys, values))
        with torch.autocast("cpu", enabled=False):
            found = F.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=causal
            )
        return self.output(found.transpose(1, 2).flatten(2))

    def _split(self, x: Float[Tensor, "B T E"]) -> Heads:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Sequential):
    """W_2 relu(W_1 x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


class Drop:
    """The dropouts of one layer, each with a key of its own."""

    def __init__(self, key: Key | None, rate: float) -> None:
        self.key, self.rate = key, rate

    def __call__(self, x: Tensor, part: str) -> Tensor:
        return dropped(x, self.key and self.key.fold(part), self.rate)


def _drop(key: Key | None, rate: float, *where: str | int) -> Drop:
    return Drop(key and key.fold(*where), rate)


class EncoderLayer(nn.Module):
    """Every place looks at every other; then a map of each."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.own_norm, self.own = nn.LayerNorm(width), Attention(width, heads)
        self.feed_norm, self.feed = nn.LayerNorm(width), FeedForward(width, hidden)

    def forward(
        self, x: Float[Tensor, "B S E"], mask: Bool[Tensor, "B 1 1 S"], drop: Drop
    ) -> Float[Tensor, "B S E"]:
        x = x + drop(self.own.attend(*self.own.all(self.own_norm(x)), mask), "own")
        return x + drop(self.feed(self.feed_norm(x)), "feed")


class DecoderLayer(nn.Module):
    """Every word looks at those before it and at the source; then a map of each."""

    def __init__(self, width: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.own_norm, self.own = nn.LayerNorm(width), Attention(width, heads)
        self.look_norm, self.look = nn.LayerNorm(width), Attention(width, heads)
        self.feed_norm, self.feed = nn.LayerNorm(width), FeedForward(width, hidden)

    def forward(
        self,
        x: Float[Tensor, "B T E"],
        keys: Heads,
        values: Heads,
        mask: Bool[Tensor, "B 1 1 S"],
        drop: Drop,
    ) -> Float[Tensor, "B T E"]:
        own = self.own.attend(*self.own.all(self.own_norm(x)), None, causal=True)
        x = x + drop(own, "own")
        queries = self.look.queries(self.look_norm(x))
        x = x + drop(self.look.attend(queries, keys, values, mask), "look")
        return x + drop(self.feed(self.feed_norm(x)), "feed")


def sinusoids(place: Int64[Tensor, " N"], width: int) -> Float[Tensor, "N E"]:
    """sin(p/10000^{2k/E}) for each k, then the cosines."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=place.device) * (-math.log(10_000) / half))
    angles = place.unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
