"""Perplexity by a recurrent language model, the judge of generated text (Zhao et al. 2018, §5.1).

    reverse   a model trained on generated sentences, read on real ones: falls with both the quality
              and the variety of the generated text
    real      the same model trained on as many real sentences: what reverse perplexity can reach
    forward   a model trained on real sentences, read on generated ones: fluency alone

all exp(−Σ log p / number of words), every sentence end counted as a word and unknown words as one
word, <unk>.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from lvtrain.config import Count, Natural, OptimizerConfig, Probability
from lvtrain.data.batches import Batch, Batches, Rows, sequential
from lvtrain.data.feistel import feistel, mix
from lvtrain.data.tokenizer import Tokenizer
from lvtrain.errors import UserError
from lvtrain.evaluation.sentences import Part, ids
from lvtrain.randomness import Key
from lvtrain.systems.language_model import LanguageModel, LanguageModelConfig
from lvtrain.training.engine import TorchEngine

Progress = Callable[[str], None]
"""Told in a line what has been done."""

# Step of the draw that happens once a judge rather than once a step.
_ONCE = -1
_READ_BATCH = 256
# Epochs in a row that may bring nothing before training ends.
_PATIENCE = 2


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The language model that judges, and its training: equal for all texts compared."""

    embedding: Count = 200
    """Size of the word embeddings; equal to `hidden`, they are shared with the output layer."""
    hidden: Count = 200
    """Size of the LSTM."""
    layers: Count = 1
    """LSTM layers."""
    dropout: Probability = 0.1
    """Dropout before each layer and before the output."""
    epochs: Count = 3
    """Passes over the training text; fewer where its held-out part gets no better."""
    min_steps: Natural = 1_000
    """More passes over a small text, up to so many updates."""
    batch_size: Count = 64
    """Sentences a batch."""
    held_out: Probability = 0.05
    """Share of the training text kept apart to choose the epoch."""
    max_held_out: Natural = 2_000
    """Most sentences kept apart."""
    seed: Natural = 0
    """Of its start, its batches and its dropout."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=0.015, clip=1.0, warmup=50, decay=1.0)
    )
    """Its optimiser; by default the rate falls linearly to 0."""


def perplexity(nats: float) -> float:
    """exp of nats a word: infinite where weights have diverged so far that it cannot be said."""
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


class Judge:
    """A trained language model that reads text."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, epochs: int) -> None:
        self.model, self.tokenizer, self.epochs = model, tokenizer, epochs

    @classmethod
    def train(
        cls,
        text: Rows,
        tokenizer: Tokenizer,
        config: JudgeConfig,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> Judge:
        """Train a judge on a text; a function of the text, the configuration and its seed."""
        model, epochs = train_judge(text, tokenizer.vocab_size, config, device, progress)
        return cls(model, tokenizer, epochs)

    def perplexity(self, text: Rows) -> float:
        """Perplexity of a text per word; its pieces, if the vocabulary is of pieces, are summed
        into words."""
        if not text.rows:
            raise UserError("perplexity: expected at least one sentence, found none")
        words = 0

        def batches() -> Iterator[Batch]:
            nonlocal words
            for batch in sequential(text, _READ_BATCH):
                sentences = self.tokenizer.decode_batch(ids([batch]))
                words += sum(len(sentence.split()) + 1 for sentence in sentences)
                yield batch

        nats = negative_log_likelihood(self.model, batches())
        return perplexity(nats / words)


def train_judge(
    text: Rows,
    vocab_size: int,
    config: JudgeConfig,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> tuple[LanguageModel, int]:
    """The language model of sentences of ids, and the epochs it was trained for.

    Keeps the weights of the epoch that is best on a held-out part, and ends when the last two were
    not better. The text is read batch by batch: of each of its sentences memory holds its number.
    Raises UserError where there is too little to train on.
    """
    count = text.rows
    apart = min(config.max_held_out, round(config.held_out * count))
    if config.held_out:
        apart = max(apart, 1)
    if count - apart < 1:
        raise UserError(f"a judge needs at least two sentences to train on, found {count}")
    order = feistel(count, mix(config.seed, count))
    chosen = np.sort(order(np.arange(apart)))
    held_out = Part(text, chosen)
    held_out_words = int((held_out.lengths(np.arange(apart)) + 1).sum())
    training = Part(text, np.delete(np.arange(count), chosen))

    model = _start(config, vocab_size).to(device)
    batches = Batches(
        training, batch_size=config.batch_size, seed=config.seed, by_length=True, device=device
    )
    passes = max(config.epochs, math.ceil(config.min_steps / batches.per_epoch))
    steps = passes * batches.per_epoch
    game = model.game(lambda name, module, c: TorchEngine(name, module, c, steps))
    best, kept, epochs = math.inf, model.state_dict(), 0
    for epoch in range(passes):
        for step in range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch):
            game.iterate(batches, Key(seed=config.seed, step=step))
        if apart:
            nll = negative_log_likelihood(model, sequential(held_out, _READ_BATCH))
            loss = nll / held_out_words
        else:
            loss = -epoch
        if progress:
            said = f", held-out perplexity {perplexity(loss):.1f}" if apart else ""
            progress(f"epoch {epoch + 1} of {passes}{said}")
        if loss < best:
            best, epochs = loss, epoch + 1
            kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        elif epoch + 1 >= epochs + _PATIENCE:
            break
    model.load_state_dict(kept)
    return model.eval(), epochs


@torch.inference_mode()
def negative_log_likelihood(model: LanguageModel, batches: Iterable[Batch]) -> float:
    """−Σ log p in nats over all words and sentence ends."""
    total, device = 0.0, model.decoder.output.device
    for batch in batches:
        batch = batch.to(device)
        loss = model.decoder.cross_entropy(None, batch.tokens, batch.lengths, reduction="sum")
        total += loss.item()
    return total


def _start(config: JudgeConfig, vocab_size: int) -> LanguageModel:
    shape = LanguageModelConfig(
        embedding=config.embedding, hidden=config.hidden, layers=config.layers,
        dropout=config.dropout, tied=config.embedding == config.hidden, optimizer=config.optimizer,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Key(seed=config.seed, step=_ONCE, path=("init",)).value())
        return LanguageModel(shape, vocab_size)
