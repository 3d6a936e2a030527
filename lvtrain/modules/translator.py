"""What every translator offers, whatever is inside: an encoder of sources, a decoder of targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from lvtrain.modules.rows import Rows
from lvtrain.randomness import Key

Tied = Literal["none", "output", "all"]


@dataclass(frozen=True)
class Memory(Rows):
    """What the decoder looks at: encoded sources."""

    states: Float[Tensor, "B S M"]
    """A vector for each source word."""
    mask: Bool[Tensor, "B S"]
    """Which places hold words or the sentence end rather than padding."""

    def __len__(self) -> int:
        return len(self.mask)


@dataclass(frozen=True)
class State(Rows):
    """What decoding carries from word to word."""

    coverage: Float[Tensor, "B S"]
    """Attention that each source word has received so far, summed over the words written."""


class Network(Protocol):
    """Encoder and decoder. `key` is that of the dropout, which is off without one."""

    source: Tensor
    target: Tensor
    output: Tensor
    output_bias: nn.Parameter

    def __call__(self, *args: Any) -> Any: ...

    def encode(
        self,
        source: Int64[Tensor, "B S"],
        lengths: Int64[Tensor, " B"],
        key: Key | None = None,
    ) -> Any:
        """The memory of source sentences."""
        ...

    def states(
        self,
        memory: Any,
        inputs: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"] | None = None,
        key: Key | None = None,
    ) -> Float[Tensor, "B T E"]:
        """What the output layer reads after each of the `inputs`, under teacher forcing; of no
        meaning beyond `lengths`."""
        ...

    def start(self, memory: Any) -> Any:
        """The state before the first word."""
        ...

    def step(
        self, memory: Any, state: Any, words: Int64[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B E"], Any]:
        """What the output layer reads after the last word of each row, and the new state."""
        ...


def embeddings(
    source: int, target: int, width: int, tied: Tied
) -> tuple[nn.Parameter, nn.Parameter, nn.Parameter]:
    """The tables of source and target words and of the output layer; those that are tied are one
    parameter (Press & Wolf 2017)."""

    def table(words: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(words, width) * width**-0.5)

    first = table(source)
    second = first if tied == "all" else table(target)
    return first, second, table(target) if tied == "none" else second


@torch.no_grad()
def glorot(module: nn.Module) -> None:
    """Matrices of linear maps from Glorot & Bengio 2010's uniform, their biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                layer.bias.zero_()
