"""Batched beam search against a loop over sentences, and both against their translations.

    python -m benchmarks.beam --run runs/translation/multi30k --sentences 200

The loop searches each sentence by itself with the same code, so the difference is the batch alone.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from benchmarks.provenance import provenance
from lvtrain.cli import guarded
from lvtrain.evaluation.translation import pairs_of
from lvtrain.generation.beam import BeamConfig
from lvtrain.generation.translate import TranslateConfig
from lvtrain.model import Model


@dataclass(frozen=True, kw_only=True)
class BeamBenchmark:
    """Sentences a second of a translator, in batches and one by one."""

    run: Path
    """The run of a translator."""
    sentences: int = 200
    """Sentences of the test split to translate."""
    batch_size: int = 64
    """Sentences of a batch."""
    beam: int = 5
    """Width of the beam."""
    repeats: int = 3
    """Times that each takes its turn."""


def main() -> None:
    """Translate by both in turn and print the figures as JSON."""
    config = tyro.cli(BeamBenchmark, prog="python -m benchmarks.beam")
    translator = (model := Model.load(config.run)).translator
    split = model.store.split(model.store.splits[-1])
    sources, _ = pairs_of(split, translator.source, translator.target, config.sentences)
    how = TranslateConfig(search=BeamConfig(beam=config.beam), batch_size=config.batch_size)
    batched, looped, equal = [], [], 0.0
    for _ in range(config.repeats):
        # Of this process alone: other work on the machine is not counted.
        start = time.process_time()
        ours = translator.translate(sources, how)
        middle = time.process_time()
        theirs = translator.translate(sources, replace(how, batch_size=1))
        batched.append(middle - start)
        looped.append(time.process_time() - middle)
        same = (a[0].text == b[0].text for a, b in zip(ours, theirs, strict=True))
        equal = sum(same) / len(sources)
    figures = {
        "sentences": len(sources),
        "batched_seconds": statistics.median(batched),
        "looped_seconds": statistics.median(looped),
        "speedup": statistics.median(looped) / statistics.median(batched),
        "equal_translations": equal,
    }
    print(json.dumps(figures | provenance("benchmarks.beam"), indent=2))


if __name__ == "__main__":
    sys.exit(guarded(main))
