"""ARAE as the 2018 reference writes it: the baseline of the training benchmark.

The same algorithm as `lvtrain.systems.arae` with the alternating schedule (Zhao et al. 2018),
written the straightforward way with PyTorch's own layers:

- packed `nn.LSTM`s; the decoder reads [embedding; code] with the code repeated over time;
- logits for every position, padding included, then `masked_select` of the real ones;
- critic batches encoded with a graph that is then thrown away;
- the gradient penalty by double backward;
- one update after another, by the optimisers' plain loops.

Given the same weights its losses are those of lvtrain, and a test holds that. Shapes: B batch,
T time, C code, V vocabulary.
"""

from __future__ import annotations

from itertools import chain, pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lvtrain.config import OptimizerConfig
from lvtrain.data.batches import Batch
from lvtrain.data.tokenizer import BOS
from lvtrain.systems.arae import ARAEConfig
from lvtrain.systems.autoencoder import AutoencoderConfig


class BatchSource(Protocol):
    """Gives the batch of any index."""

    def at(self, index: int) -> Batch: ...


class EagerAutoencoder(nn.Module):
    """LSTM encoder, code on the unit sphere, LSTM decoder conditioned on the code."""

    def __init__(self, config: AutoencoderConfig, vocab_size: int) -> None:
        super().__init__()
        embedding, hidden = config.embedding, config.hidden
        self.encoder_embedding = nn.Embedding(vocab_size, embedding)
        self.encoder = nn.LSTM(embedding, hidden, batch_first=True)
        self.decoder_embedding = nn.Embedding(vocab_size, embedding)
        self.decoder = nn.LSTM(embedding + hidden, hidden, batch_first=True)
        self.output = nn.Linear(hidden, vocab_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -config.init, config.init)

    def encode(
        self, tokens: Int64[Tensor, "B T"], lengths: Int64[Tensor, " B"]
    ) -> Float[Tensor, "B C"]:
        """c = h_T / ‖h_T‖."""
        packed = pack_padded_sequence(
            self.encoder_embedding(tokens), lengths.cpu(), batch_first=True
        )
        _, (h, _) = self.encoder(packed)
        return h[-1] / h[-1].norm(p=2, dim=1, keepdim=True)

    def decode(
        self,
        codes: Float[Tensor, "B C"],
        tokens: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"],
    ) -> Float[Tensor, "B T V"]:
        """Logits of every position under teacher forcing."""
        start = torch.full_like(tokens[:, :1], BOS)
        inputs = self.decoder_embedding(torch.cat([start, tokens[:, :-1]], dim=1))
        repeated = codes.unsqueeze(1).repeat(1, tokens.shape[1], 1)
        packed = pack_padded_sequence(
            torch.cat([inputs, repeated], dim=2), lengths.cpu(), batch_first=True
        )
        output, _ = self.decoder(packed)
        states, _ = pad_packed_sequence(output, batch_first=True, total_length=tokens.shape[1])
        return self.output(states)

    def loss(
        self,
        tokens: Int64[Tensor, "B T"],
        lengths: Int64[Tensor, " B"],
        noise: Float[Tensor, "B C"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean of −log p(x | c + noise) over the real tokens."""
        codes = self.encode(tokens, lengths)
        logits = self.decode(codes if noise is None else codes + noise, tokens, lengths)
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        vocabulary = logits.shape[2]
        chosen = logits.masked_select(real.unsqueeze(2).expand(logits.shape))
        return F.cross_entropy(chosen.view(-1, vocabulary), tokens.masked_select(real))


class EagerARAE:
    """The whole game: modules, optimisers and one iteration.

    Raises ValueError for a configuration that the 2018 reference has no counterpart of.
    """

    def __init__(self, config: ARAEConfig, vocab_size: int, device: torch.device) -> None:
        _check(config)
        self.config, self.device = config, device
        self.autoencoder = EagerAutoencoder(config.autoencoder, vocab_size).to(device)
        generator, critic, code = config.generator, config.critic, config.autoencoder.hidden
        sizes = [generator.noise, *generator.layers]
        hidden = [[nn.Linear(n, m), nn.BatchNorm1d(m), nn.ReLU()] for n, m in pairwise(sizes)]
        self.generator = nn.Sequential(*chain(*hidden), nn.Linear(sizes[-1], code)).to(device)
        sizes = [code, *critic.layers]
        layers: list[nn.Module] = []
        for i, (n, m) in enumerate(pairwise(sizes)):
            layers.append(nn.Linear(n, m))
            if critic.norm == "batch" and i > 0:
                layers.append(nn.BatchNorm1d(m))
            layers.append(nn.LeakyReLU(0.2))
        self.critic = nn.Sequential(*layers, nn.Linear(sizes[-1], 1)).to(device)
        for layer in chain(self.generator, self.critic):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 0.02)
                nn.init.zeros_(layer.bias)
        self.model_optimizer = _optimizer(self.autoencoder, config.autoencoder.optimizer)
        self.generator_optimizer = _optimizer(self.generator, generator.optimizer)
        self.critic_optimizer = _optimizer(self.critic, critic.optimizer)

    def iterate(self, batches: BatchSource, step: int) -> int:
        """One iteration; gives the words the autoencoder learnt from."""
        rounds = self.config.critic.rounds
        first = step * (rounds + 2)
        batch = batches.at(first)
        self.learn_to_reconstruct(batch, step)
        for i in range(rounds):
            self.learn_to_criticise(batches.at(first + 1 + i))
        self.learn_from_critic(batches.at(first + 1 + rounds))
        self.learn_to_generate(len(batch.tokens))
        return batch.words

    def learn_to_reconstruct(self, batch: Batch, step: int) -> None:
        config = self.config.autoencoder
        std = config.noise * config.noise_decay ** (step // 100)
        noise = std * torch.randn(len(batch.tokens), config.hidden, device=self.device)
        self.autoencoder.zero_grad()
        self.autoencoder.loss(batch.tokens, batch.lengths, noise).backward()
        clip_grad_norm_(self.autoencoder.parameters(), config.optimizer.clip)
        self.model_optimizer.step()

    def learn_to_criticise(self, batch: Batch) -> None:
        real = self.autoencoder.encode(batch.tokens, batch.lengths).detach()
        fake = self.generated(len(real)).detach()
        self.critic.zero_grad()
        self.critic(real).mean().backward()
        (-self.critic(fake).mean()).backward()
        self.gradient_penalty(real, fake).backward()
        self.critic_optimizer.step()

    def gradient_penalty(
        self, real: Float[Tensor, "B C"], fake: Float[Tensor, "B C"]
    ) -> Float[Tensor, ""]:
        """λ E(‖∇D(ĉ)‖ − 1)², by differentiating the gradient."""
        lipschitz = self.config.critic.lipschitz
        mix = torch.rand(len(real), 1, device=self.device)
        between = (mix * real + (1 - mix) * fake).requires_grad_()
        scores = self.critic(between)
        total = scores.sum() if lipschitz.per_sample else scores.mean()
        (gradient,) = torch.autograd.grad(total, between, create_graph=True)
        return lipschitz.weight * (gradient.norm(2, dim=1) - 1).square().mean()

    def learn_from_critic(self, batch: Batch) -> None:
        scale = self.config.answer_scale
        self.autoencoder.zero_grad()
        codes = self.autoencoder.encode(batch.tokens, batch.lengths)
        codes.register_hook(lambda gradient: gradient * scale)
        (-self.critic(codes).mean()).backward()
        clip_grad_norm_(self.autoencoder.parameters(), self.config.autoencoder.optimizer.clip)
        self.model_optimizer.step()

    def learn_to_generate(self, rows: int) -> None:
        self.generator.zero_grad()
        self.critic(self.generated(rows)).mean().backward()
        self.generator_optimizer.step()

    def generated(self, rows: int) -> Float[Tensor, "B C"]:
        """c̃ = g(s), s ~ N(0, I)."""
        codes = self.generator(torch.randn(rows, self.config.generator.noise, device=self.device))
        if not self.config.generator.normalize:
            return codes
        return codes / codes.norm(p=2, dim=1, keepdim=True)


def _check(config: ARAEConfig) -> None:
    """Find what the baseline would silently leave out."""
    model = config.autoencoder
    unlike = {
        "layers": model.layers != 1,
        "code": model.code not in (0, model.hidden),
        "radius": model.radius != 1,
        "dropout": model.dropout != 0,
        "corruption": model.corruption.active,
        "normalize": not model.normalize,
        "lipschitz": config.critic.lipschitz.kind != "penalty",
    }
    found = [name for name, differs in unlike.items() if differs]
    if found:
        raise ValueError(f"the eager baseline has no {', '.join(found)} like that")


def _optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    if config.kind == "sgd":
        return torch.optim.SGD(module.parameters(), lr=config.lr)
    return torch.optim.Adam(module.parameters(), lr=config.lr, betas=config.betas)
