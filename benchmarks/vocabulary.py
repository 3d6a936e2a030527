"""A training step over a large vocabulary on a CPU: the memory of the process and its rate.

python -m benchmarks.vocabulary --vocab-size 793471 --sampled-softmax 8192 0

Each number of draws (0 is the whole softmax) in a process of its own: ARAE with the shapes and the
optimisers of `arae-1b`, on batches of words drawn by Zipf's law, each sentence as long.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks.provenance import provenance
from lvtrain.cli import guarded
from lvtrain.data.batches import Batches
from lvtrain.data.tokenizer import SPECIALS
from lvtrain.evaluation.sentences import FlatSplit
from lvtrain.presets import preset
from lvtrain.randomness import Key
from lvtrain.systems.arae import ARAE, ARAEConfig
from lvtrain.training.engine import TorchEngine
from lvtrain.training.memory import keep_freed_memory


def measured(options: argparse.Namespace, samples: int) -> dict[str, Any]:
    """Train for some steps in this process."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    config = cast(ARAEConfig, preset("arae", "arae-1b")[0])
    text = replace(config.autoencoder, sampled_softmax=samples)
    if options.hidden:
        text = replace(text, embedding=options.hidden, hidden=options.hidden)
    config = replace(config, autoencoder=text)
    # What a first step loads is there before the vocabulary is.
    train(config, 1000, 1, options)
    before = peak_bytes()
    figures, seconds = train(config, options.vocab_size, options.steps, options)
    return {
        "vocab_size": options.vocab_size,
        "sampled_softmax": samples,
        **figures,
        "peak_bytes": peak_bytes(),
        "peak_bytes_before": before,
        # Of the processor's time: the first step has the first touch of all memory.
        "core_seconds": seconds,
        "words_per_core_second": options.batch_size * options.words / min(seconds),
    }


def train(
    config: ARAEConfig, vocab_size: int, steps: int, options: argparse.Namespace
) -> tuple[dict[str, float], list[float]]:
    """Train for so many steps; gives the last loss, the parameters' bytes and each step's
    seconds."""
    split = FlatSplit.of(sentences(options.batch_size, options.words, vocab_size).tolist())
    batches = Batches(split, batch_size=options.batch_size, seed=0)
    model = ARAE(config, vocab_size)
    game = model.game(lambda name, module, c: TorchEngine(name, module, c, steps))
    seconds = []
    for step in range(steps):
        start = time.process_time()
        metrics, _ = game.iterate(batches, Key(seed=0, step=step))
        seconds.append(time.process_time() - start)
    parameters = sum(p.numel() * p.element_size() for p in model.parameters())
    return {"loss": float(metrics["reconstruction"]), "parameter_bytes": parameters}, seconds


def sentences(rows: int, words: int, vocab_size: int) -> np.ndarray:
    """Sentences of so many words, ends counted, by Zipf's law: `[rows, words - 1]`."""
    most = vocab_size - len(SPECIALS)
    drawn = np.random.default_rng(0).random((rows, words - 1))
    return len(SPECIALS) + np.minimum(np.exp(drawn * np.log1p(most)).astype(np.int64) - 1, most - 1)


def peak_bytes() -> int:
    """The most memory that this process has had resident."""
    # Not getrusage's, which counts what the process had been before it was this program.
    (line,) = [
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure each number of draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab-size", type=int, default=793_471)
    parser.add_argument("--sampled-softmax", type=int, nargs="+", default=[8192, 0])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--words", type=int, default=20, help="a sentence, its end counted")
    parser.add_argument("--hidden", type=int, default=0, help="0 for the preset's 500")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        (samples,) = options.sampled_softmax
        figures = measured(options, samples)
        print(json.dumps({**provenance("benchmarks.vocabulary"), **figures}), flush=True)
        return
    for samples in options.sampled_softmax:
        command = [sys.executable, "-m", "benchmarks.vocabulary", *sys.argv[1:], "--here"]
        subprocess.run([*command, "--sampled-softmax", str(samples)], check=True)


if __name__ == "__main__":
    sys.exit(guarded(main))
