"""Words a second of a whole ARAE iteration against a straightforward eager implementation.

    python -m benchmarks.training --json

The words are those that the autoencoder learns from, sentence ends included. Both schedules of
lvtrain, the baseline and a large matrix product take turns in one run, with the same threads. The
baseline has the alternating order.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.arithmetic import iteration_flops
from benchmarks.contest import Spread, race
from benchmarks.contestants import Setup, baseline, lvtrain, matrix_product
from benchmarks.parts import parts, pieces
from benchmarks.provenance import provenance
from lvtrain.cli import guarded
from lvtrain.data.store import Store
from lvtrain.presets import preset
from lvtrain.systems.arae import ARAEConfig
from lvtrain.training.game import Schedule


@dataclass(frozen=True, kw_only=True)
class TrainingBenchmark:
    """Words a second of a whole ARAE iteration, both schedules, against an eager baseline."""

    json: bool = False
    """Print JSON instead of tables."""
    preset: Literal["arae-snli", "arae-1b", "reference"] = "arae-snli"
    """Configuration to train."""
    store: Path | None = None
    """A prepared store to train on; without one, sentences are made up in memory."""
    vocab_size: int = 11_004
    """Vocabulary of made-up sentences, the special words included."""
    sentences: int = 50_000
    """Number of made-up sentences."""
    batch_size: int = 64
    """Sentences a batch."""
    hidden: int | None = None
    """Size of embeddings, LSTMs and MLPs, in place of the preset's."""
    repeats: int = 15
    """Laps of each contestant that count."""
    warmup: int = 2
    """Laps before them that do not."""
    matrix: int = 2048
    """Rows and columns of the matrices whose product is the machine's ceiling."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    threads: int = 0
    """CPU threads; 0 takes every core."""
    seed: int = 0
    """Everything random follows from it."""
    apart: bool = True
    """Give each contestant a process of its own, and lvtrain's the allocator's settings that it
    trains with."""

    def setup(self) -> Setup:
        model = preset("arae", self.preset)[0]
        vocab_size = self.vocab_size
        if self.store:
            vocab_size = Store.open(self.store).tokenizer.vocab_size
        return Setup(
            model=model if self.hidden is None else resized(model, self.hidden),
            store=self.store,
            sentences=self.sentences,
            vocab_size=vocab_size,
            batch_size=self.batch_size,
            seed=self.seed,
            device=self.device,
            threads=self.threads or os.cpu_count() or 1,
            apart=self.apart,
        )


def resized(model: ARAEConfig, size: int) -> ARAEConfig:
    """The configuration with all layers of one size."""
    return replace(
        model,
        autoencoder=replace(model.autoencoder, embedding=size, hidden=size),
        generator=replace(model.generator, layers=(size,) * len(model.generator.layers)),
        critic=replace(model.critic, layers=(size,) * len(model.critic.layers)),
    )


def measure(config: TrainingBenchmark) -> dict[str, Any]:
    """Run the contest; gives the figures of the report."""
    setup = config.setup()
    origin = provenance("benchmarks.training", config.device)
    laps = race(
        {
            "baseline": partial(baseline, setup, False),
            "baseline, memory kept": partial(baseline, setup, True),
            "alternating": partial(lvtrain, setup, "alternating"),
            "overlapped": partial(lvtrain, setup, "overlapped"),
            "matrix product": partial(matrix_product, setup, config.matrix),
            "pieces": partial(pieces, setup),
        },
        config.repeats,
        config.warmup,
        config.apart,
    )
    product, timed = laps.pop("matrix product"), laps.pop("pieces")
    ceiling = Spread.of([lap.result / lap.seconds / 1e9 for lap in product])
    speeds = {
        name: Spread.of([lap.result / lap.seconds for lap in own]) for name, own in laps.items()
    }
    seconds = {name: statistics.median(lap.seconds for lap in own) for name, own in laps.items()}
    words = statistics.mean(lap.result for own in laps.values() for lap in own)
    gflop = {name: _gflop(setup, words, name) for name in ("alternating", "overlapped")}
    shares = {name: gflop[name] / seconds[name] / ceiling.median for name in gflop}
    base = speeds["baseline"].median
    kept = speeds["baseline, memory kept"].median
    return {
        "words_per_second": round(speeds["overlapped"].median, 1),
        "words_per_second_alternating": round(speeds["alternating"].median, 1),
        "baseline_words_per_second": round(base, 1),
        "ratio_alternating": round(speeds["alternating"].median / base, 3),
        "ratio_overlapped": round(speeds["overlapped"].median / base, 3),
        "ratio_alternating_memory_kept": round(speeds["alternating"].median / kept, 3),
        "ratio_overlapped_memory_kept": round(speeds["overlapped"].median / kept, 3),
        "sgemm_gflops": round(ceiling.median, 1),
        "useful_gflop_per_iteration": round(gflop["overlapped"], 2),
        "useful_gflop_per_iteration_alternating": round(gflop["alternating"], 2),
        "sgemm_share": round(shares["overlapped"], 4),
        "sgemm_share_alternating": round(shares["alternating"], 4),
        "parts": parts(timed, setup.model, "overlapped", seconds["overlapped"]),
        "parts_alternating": parts(timed, setup.model, "alternating", seconds["alternating"]),
        "quartiles": {
            **{f"{name}: words/s": _quartiles(spread) for name, spread in speeds.items()},
            "sgemm: GFLOP/s": _quartiles(ceiling),
        },
        "milliseconds": {
            name: _quartiles(Spread.of([1e3 * lap.seconds for lap in own]))
            for name, own in laps.items()
        },
        "words_per_iteration": round(words, 1),
        "configuration": {
            "preset": config.preset,
            "vocab_size": setup.vocab_size,
            "batch_size": config.batch_size,
            "embedding": setup.model.autoencoder.embedding,
            "hidden": setup.model.autoencoder.hidden,
            "critic_rounds": setup.model.critic.rounds,
            "fresh": setup.model.fresh,
            "data": str(config.store) if config.store else "synthetic",
            "repeats": config.repeats,
        },
        "threads": setup.threads,
        **origin,
    }


def _gflop(setup: Setup, words: float, schedule: str) -> float:
    which: Schedule = "alternating" if schedule == "alternating" else "overlapped"
    flops = iteration_flops(setup.model, setup.vocab_size, setup.batch_size, words, which)
    return sum(flops.values()) / 1e9


def _quartiles(spread: Spread) -> list[float]:
    return [round(value, 2) for value in (spread.low, spread.median, spread.high)]


def show(figures: dict[str, Any], console: Console) -> None:
    """Print the figures as tables."""
    table = Table("", "words/s", "quartiles", "× baseline", "share of sgemm")
    base = figures["baseline_words_per_second"]
    for name in figures["milliseconds"]:
        low, median, high = figures["quartiles"][f"{name}: words/s"]
        share = {
            "alternating": figures["sgemm_share_alternating"],
            "overlapped": figures["sgemm_share"],
        }.get(name)
        table.add_row(
            name,
            f"{median:,.0f}",
            f"{low:,.0f}–{high:,.0f}",
            f"{median / base:.2f}",
            "" if share is None else f"{share:.1%}",
        )
    console.print(table)
    table = Table("part", "overlapped", "", "alternating", "")
    for name, part in figures["parts"].items():
        other = figures["parts_alternating"][name]
        table.add_row(
            name,
            f"{part['ms']:.1f} ms",
            f"{part['share']:.1%}",
            f"{other['ms']:.1f} ms",
            f"{other['share']:.1%}",
        )
    console.print(table)
    console.print(
        f"{figures['hardware']}, {figures['threads']} threads, torch {figures['torch']}: "
        f"sgemm {figures['sgemm_gflops']:.0f} GFLOP/s; useful "
        f"{figures['useful_gflop_per_iteration']:.1f} GFLOP an overlapped iteration, "
        f"{figures['useful_gflop_per_iteration_alternating']:.1f} an alternating one"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    config = tyro.cli(TrainingBenchmark, args=arguments)
    figures = measure(config)
    if config.json:
        print(json.dumps(figures, indent=2))
    else:
        show(figures, Console())


if __name__ == "__main__":
    sys.exit(guarded(main))
