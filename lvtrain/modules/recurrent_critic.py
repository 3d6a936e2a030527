"""A recurrent critic of embedded translations, which is differentiable twice."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from lvtrain.modules.encoder import Encoder, LSTMLayer, uniform_init


class RecurrentCritic(nn.Module):
    """D(x, e(y)): an LSTM over a translation's embeddings that reads the source's code each step.

        D = wᵀ h_T,   h_t = LSTM([e_t; code(x)], h_{t−1}),   code(x) = the last state of an encoder

    Its input is vectors, so that it has a gradient in a translation that is relaxed; and through
    `lvtrain.kernels.lstm` that gradient has one too, which a penalty on it needs.
    """

    def __init__(self, vocab_size: int, embedding: int, target_embedding: int, hidden: int) -> None:
        super().__init__()
        self.encoder = Encoder(vocab_size, embedding, hidden)
        self.layer = LSTMLayer(target_embedding, hidden, hidden)
        self.output = nn.Linear(hidden, 1)
        uniform_init(self, 0.1, forget_bias=1.0)

    def read(self, sources: Int[Tensor, "B S"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B H"]:
        """The codes of sources."""
        return self.encoder(sources, lengths)

    def forward(
        self,
        code: Float[Tensor, "B H"],
        embedded: Float[Tensor, "B T E"],
        lengths: Int[Tensor, " B"],
    ) -> Float[Tensor, "B 1"]:
        """The score of each translation of the source whose code is given."""
        _, h, _ = self.layer(embedded, lengths, code)
        return self.output(h)


class OfSources(nn.Module):
    """The critic as a function of translations alone, flat: what a gradient penalty takes."""

    def __init__(
        self,
        critic: RecurrentCritic,
        code: Float[Tensor, "B H"],
        lengths: Int[Tensor, " B"],
    ) -> None:
        super().__init__()
        self.critic, self.code, self.lengths = critic, code, lengths

    def forward(self, flat: Float[Tensor, "B F"]) -> Float[Tensor, "B 1"]:
        """The scores of translations [B, T · E]."""
        embedded = flat.unflatten(1, (-1, self.critic.layer.w_ih.shape[1]))
        return self.critic(self.code, embedded, self.lengths)
