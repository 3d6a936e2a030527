"""Roll-outs a second: all prefixes in one pass, against a loop that reads every prefix again.

The loop completes one prefix of a batch of sources at a time, N times: it encodes the sources,
feeds the prefix, and samples on until every row has ended. Both draw each word from the whole
distribution of the same translator; completed words are counted, ends included and the prefixes
not. The two take turns.

    python -m benchmarks.rollouts --json
    python -m benchmarks.rollouts --run runs/rnnsearch --json

Without `--run`, sources are random and the translator is not trained: `--sharpness` scales its
output layer, and `--ending` raises the sentence end, until it is about as sure of its words and as
brief as a trained one is (`nats_a_word`, `mean_words`). How much the pass gains depends on both:
samplers of a sure translator have their histories in common.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from benchmarks.provenance import provenance
from lvtrain.cli import guarded
from lvtrain.data.batches import Batches
from lvtrain.data.tokenizer import BOS, EOS, PAD
from lvtrain.model import Model
from lvtrain.objectives.rollouts import sample
from lvtrain.randomness import Key
from lvtrain.systems.seq2seq import Seq2Seq, Seq2SeqConfig


@dataclass(frozen=True, kw_only=True)
class RolloutsConfig:
    """Roll-outs in one pass against a loop over prefixes."""

    run: Path | None = None
    """A translator's run; a made-up translator where there is none."""
    batch_size: int = 32
    """Sources."""
    rollouts: int = 10
    """N: completions of each prefix."""
    words: int = 12
    """Of each source, without a run."""
    vocabulary: int = 8_000
    """Without a run."""
    hidden: int = 256
    """Of embeddings and states, without a run."""
    sharpness: float = 150.0
    """Factor on the output layer of a made-up translator."""
    ending: float = 9.0
    """Added to the logit of its sentence end."""
    width: int = 18
    """Words of a translation at most."""
    prefixes: tuple[int, ...] = (1, 4, 7, 10)
    """Words of the prefixes that the loop completes: it need not do all to be timed."""
    repeats: int = 3
    """Times that both are timed."""
    json: bool = False
    """Print JSON."""


def translator(config: RolloutsConfig) -> tuple[Seq2Seq, Tensor, Tensor]:
    """A translator and sources."""
    if config.run is not None:
        model = Model.load(config.run)
        split = model.store.split("test" if "test" in model.store.splits else "train")
        batch = Batches(split, batch_size=config.batch_size, seed=0).at(0)
        return model.translator.model, batch.tokens, batch.lengths
    torch.manual_seed(0)
    shape = Seq2SeqConfig(embedding=config.hidden, hidden=config.hidden, dropout=0.0, tied="none")
    made = Seq2Seq(shape, config.vocabulary, config.vocabulary)
    with torch.no_grad():
        made.network.output.mul_(config.sharpness)
        made.network.output_bias[EOS] = config.ending
    sources = torch.randint(4, config.vocabulary, (config.batch_size, config.words + 1))
    sources[:, -1] = EOS
    return made, sources, torch.full((config.batch_size,), config.words + 1)


@torch.no_grad()
def one_prefix(
    model: Seq2Seq, sources: Tensor, lengths: Tensor, samples: Tensor, prefix: int, width: int
) -> int:
    """Complete a prefix of every sample, from the start; gives the words completed."""
    memory = model.encode(sources, lengths)
    state, last = model.start(memory), torch.full((len(sources),), BOS)
    for word in samples[:, :prefix].unbind(1):
        _, state = model.step(memory, state, last)
        last = word
    going, words = (last != EOS) & (last != PAD), 0
    for _ in range(prefix, width):
        if not going.any():
            break
        logits, state = model.step(memory, state, last)
        logits[:, (PAD, BOS)] = float("-inf")
        last = torch.multinomial(logits.softmax(1), 1).squeeze(1)
        words += int(going.sum())
        going = going & (last != EOS)
    return words


@torch.no_grad()
def measure(config: RolloutsConfig) -> dict[str, Any]:
    """Medians of the words a second of CPU time, of both."""
    # CPU time: what else the machine is doing takes none of it.
    model, sources, lengths = translator(config)
    figures: dict[str, Any] = provenance("benchmarks.rollouts")
    passes, loops, rest = [], [], {}
    for repeat in range(config.repeats):
        key, every = Key(seed=repeat, step=0), range(1, config.width)
        start = time.process_time()
        memory = model.encode(sources, lengths)
        found = sample(model, memory, len(sources), config.width, every, config.rollouts, key)
        seconds = time.process_time() - start
        done = (found.completions != PAD).sum((0, 2, 3))
        read = (found.completions != PAD).any(-1).sum((0, 2)) * torch.tensor(list(every))
        passes.append(int((done - read).sum()) / seconds)
        start, words = time.process_time(), 0
        for prefix in config.prefixes:
            words += one_prefix(model, sources, lengths, found.tokens, prefix, config.width)
        loops.append(words / (time.process_time() - start))
        nll = -model.log_probs(memory, found.tokens, found.lengths).sum() / found.lengths.sum()
        rest = {"nats_a_word": nll.item(), "mean_words": found.lengths.float().mean().item()}
    ours, theirs = statistics.median(passes), statistics.median(loops)
    figures |= {"words_per_second": ours, "loop_words_per_second": theirs, "ratio": ours / theirs}
    return figures | rest


def main() -> None:
    config = tyro.cli(RolloutsConfig, prog="python -m benchmarks.rollouts", description=__doc__)
    figures = measure(config)
    if config.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name:24}{value:,.2f}" if isinstance(value, float) else f"{name:24}{value}")


if __name__ == "__main__":
    sys.exit(guarded(main))
