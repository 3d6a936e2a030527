"""Words a second of ARAE on a cluster: measured on this machine, reckoned beyond it.

    python -m benchmarks.scaling --json --out scaling.json

Measured: one process against groups of workers on a Ray cluster of this machine, whole runs in
turn; the time each group waits; what DeepSpeed and the exchange cost; how well the adversary's time
hides behind the decoder's. Reckoned: `scaling_model.py`, from the step times measured here.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.contest import Apart, Lap, Spread, Step, race
from benchmarks.provenance import hardware, provenance
from benchmarks.scaling_model import (
    MEMORY,
    Assumptions,
    Line,
    StepTimes,
    extrapolate,
    forecast,
)
from benchmarks.scaling_parts import ADVERSARY, MODEL, Connection, Seconds, connection, phases
from benchmarks.synthetic import SyntheticSplit
from benchmarks.training import resized
from lvtrain import experiment
from lvtrain.cli import guarded
from lvtrain.cluster import controller
from lvtrain.cluster.config import ClusterConfig
from lvtrain.cluster.connect import connected
from lvtrain.cluster.game import game_shape
from lvtrain.cluster.plan import messages
from lvtrain.config import RunConfig, TrainConfig, to_json
from lvtrain.data.tokenizer import SPECIALS
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences
from lvtrain.presets import preset
from lvtrain.training.log import read_metrics

LARGER = 4
"""Times the batch at which step times are measured once more, for their growth with the rows."""
AS_SLOW = "adversary as slow as the decoder"
FASTER = 1.0
"""Words a second of 1 + 1 over those of one process, at least."""
SLOWER = 1.15
"""An iteration over the work of the slower group, at most."""


@dataclass(frozen=True, kw_only=True)
class ScalingBenchmark:
    """Words a second of ARAE by groups of workers, here and, by a model, on larger clusters."""

    json: bool = False
    """Print JSON instead of tables."""
    out: Path | None = None
    """Write the JSON there too."""
    preset: Literal["arae-snli", "arae-1b"] = "arae-snli"
    """Configuration to train."""
    vocab_size: int = 11_004
    """Vocabulary of the made-up sentences, the special words included."""
    sentences: int = 50_000
    """Number of made-up sentences."""
    batch_size: int = 64
    """Sentences a batch, over all workers."""
    hidden: int | None = None
    """Size of embeddings, LSTMs and MLPs, in place of the preset's."""
    runs: int = 4
    """Runs of each contestant, in turn."""
    steps: int = 40
    """Iterations a run."""
    every: int = 10
    """Iterations a measurement; the first of a run does not count."""
    repeats: int = 15
    """Times that each phase of a worker, and a batch's way between two, are measured."""
    two: bool = True
    """Measure two workers of the model beside the adversary too, on the same cores."""
    overlap: bool = True
    """Measure how well an adversary that is as slow as the decoder is hidden."""
    seed: int = 0
    """Everything random follows from it."""


def prepared(config: ScalingBenchmark, folder: Path) -> Path:
    """A store of made-up sentences, with every word of the vocabulary in it."""
    split = SyntheticSplit(
        sentences=config.sentences, vocab_size=config.vocab_size, seed=config.seed
    )
    tokens, lengths = split.padded(np.arange(split.rows))
    sentences = [
        " ".join(f"w{token}" for token in row[: length - 1])
        for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)
    ]
    words = [f"w{token}" for token in range(len(SPECIALS), config.vocab_size)]
    longest = split.max_length
    sentences += [" ".join(words[at : at + longest]) for at in range(0, len(words), longest)]
    store = folder / "store"
    prepare_sentences(sentences, config=PrepareConfig(valid_fraction=0.0), out=store)
    return store


def configured(config: ScalingBenchmark, store: Path) -> RunConfig:
    """The run that every contestant carries out; one process takes two threads."""
    model = preset("arae", config.preset)[0]
    settings = TrainConfig(
        steps=config.steps,
        batch_size=config.batch_size,
        seed=config.seed,
        validate_every=0,
        checkpoint_every=config.steps,
        log_every=config.every,
        device="cpu",
        threads=2,
        tensorboard=False,
    )
    model = model if config.hidden is None else resized(model, config.hidden)
    return experiment.configure("arae", model, settings, store, config.preset)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measurement of a run: a line of its `metrics.jsonl`, the first left out."""

    words_per_second: float
    seconds: float
    """Of an iteration."""
    idle: dict[str, float]
    """Share of its time that each group waited, where there are groups."""


def read(run: Path) -> list[Measured]:
    """The measurements of a run."""
    lines = [line for line in read_metrics(run) if line["kind"] == "train"]
    found = []
    for before, line in pairwise(lines):
        words, steps = line["words"] - before["words"], line["step"] - before["step"]
        idle = {name.removesuffix("_idle"): v for name, v in line.items() if name.endswith("_idle")}
        rate = line["words_per_second"]
        found.append(Measured(words_per_second=rate, seconds=words / rate / steps, idle=idle))
    return found


def one_process(config: RunConfig, folder: Path) -> Step:
    """A run as `lvtrain train` has it, in this process; gives its measurements."""

    def step(number: int) -> list[Measured]:
        run = folder / f"one-{number}"
        experiment.carry_out(config, run)
        return read(run)

    return step


def by_workers(config: RunConfig, cluster: ClusterConfig, run: Path) -> list[Measured]:
    """The same by workers on a Ray cluster."""
    controller.carry_out(config, cluster, run)
    return read(run)


def placements(config: ScalingBenchmark) -> dict[str, ClusterConfig]:
    """Groups of workers of one thread each, on two cores."""
    found = {"1 + 1": ClusterConfig(address="local")}
    if config.two:
        found["2 + 1"] = ClusterConfig(address="local", workers=2, cpus=0.6, adversary_cpus=0.6)
    return found


def contest(config: ScalingBenchmark, run: RunConfig, folder: Path) -> dict[str, list[Measured]]:
    """Whole runs of each contestant in turn."""
    groups = placements(config)
    found: dict[str, list[Measured]] = {name: [] for name in ("one process", *groups)}
    alone = Apart(partial(one_process, run, folder))
    try:
        for number in range(config.runs):
            found["one process"] += alone.lap(number).result
            for name, cluster in groups.items():
                own = folder / f"{name.replace(' ', '')}-{number}"
                found[name] += by_workers(run, cluster, own)
    finally:
        alone.close()
    return found


def contestant(measured: Sequence[Measured], base: float) -> dict[str, Any]:
    """The figures of one contestant, against the words a second of one process."""
    speed = Spread.of([m.words_per_second for m in measured])
    return {
        "words_per_second": round(speed.median, 1),
        "quartiles": [round(speed.low, 1), round(speed.high, 1)],
        "ratio": round(speed.median / base, 3),
        "iteration_ms": milliseconds(m.seconds for m in measured),
        "idle": idle(measured),
        "measurements": len(measured),
    }


def idle(measured: Sequence[Measured]) -> dict[str, float]:
    """The share of its time that each group waited."""
    return {
        group: round(statistics.median(m.idle[group] for m in measured), 3)
        for group in measured[0].idle
    }


def milliseconds(seconds: Iterable[float]) -> float:
    """The median of measured seconds."""
    return round(1e3 * statistics.median(seconds), 3)


def overlap(run: RunConfig, rounds: Mapping[str, int], folder: Path) -> dict[str, dict[str, Any]]:
    """Iterations of 1 + 1 with other numbers of critic rounds, against the slower group's work."""
    found = {}
    for number, (name, count) in enumerate(rounds.items()):
        critic = replace(run.model.critic, rounds=count)
        slowed = replace(run, model=replace(run.model, critic=critic))
        cluster = ClusterConfig(address="local")
        measured = by_workers(slowed, cluster, folder / f"overlap-{number}")
        iteration = statistics.median(m.seconds for m in measured)
        busy = {group: (1 - share) * iteration for group, share in idle(measured).items()}
        found[name] = {
            "critic_rounds": count,
            "iteration_ms": round(1e3 * iteration, 1),
            "busy_ms": {group: round(1e3 * seconds, 1) for group, seconds in busy.items()},
            "of_the_slower": round(iteration / max(busy.values()), 3),
            "of_the_sum": round(iteration / sum(busy.values()), 3),
            "idle": idle(measured),
        }
    return found


Laps = dict[str, list[Lap]]
DEEP, GPU = "DeepSpeed, 1 thread", "DeepSpeed, GPU"


def work(config: ScalingBenchmark, run: RunConfig) -> Laps:
    """The phases of the workers by batch size, on either engine and on a GPU where there is one."""
    size = run.train.batch_size
    makers = {
        "torch": partial(phases, run, "torch", (1, 2), (size,)),
        DEEP: partial(phases, run, "DeepSpeed", (1,), (size, LARGER * size)),
    }
    if torch.cuda.is_available():
        makers[GPU] = partial(phases, run, "DeepSpeed", (1,), (size, LARGER * size), "cuda")
    laps = race(makers, config.repeats)
    plain = laps.pop("torch")
    return {
        name: [
            Lap(lap.seconds, {s: times for (t, s), times in lap.result.items() if t == threads})
            for lap in own
        ]
        for name, own, threads in [
            ("torch, 1 thread", plain, 1),
            ("torch, 2 threads", plain, 2),
            *((name, own, 1) for name, own in laps.items()),
        ]
    }


def medians(laps: Sequence[Lap], size: int) -> Seconds:
    """The median seconds of each phase at a size of batch."""
    return {
        phase: statistics.median(lap.result[size][phase] for lap in laps)
        for phase in (*MODEL, *ADVERSARY)
    }


def step_times(laps: Sequence[Lap], rounds: int, device: str) -> StepTimes:
    """The work of each phase as it grows with the rows."""
    sizes = sorted(laps[0].result)
    times = {size: medians(laps, size) for size in sizes}
    share = {"criticise": rounds}
    lines = {
        phase: Line.through([(size, times[size][phase] / share.get(phase, 1)) for size in sizes])
        for phase in (*MODEL, *ADVERSARY)
    }
    return StepTimes(device=device, **lines)


def engines(laps: Laps, size: int) -> dict[str, Any]:
    """What an iteration of each worker costs on either engine, and each phase of it."""
    found: dict[str, Any] = {}
    for name, own in laps.items():
        times = medians(own, size)
        found[name] = {
            "model_ms": round(1e3 * sum(times[phase] for phase in MODEL), 2),
            "adversary_ms": round(1e3 * sum(times[phase] for phase in ADVERSARY), 2),
            "phases_ms": {phase: round(1e3 * value, 2) for phase, value in times.items()},
        }
    plain, deep = found["torch, 1 thread"], found[DEEP]
    cost = {part: deep[part] - plain[part] for part in ("model_ms", "adversary_ms")}
    found["cost_of_DeepSpeed"] = {
        **{part: round(value, 2) for part, value in cost.items()},
        **{
            f"{part.removesuffix('_ms')}_share": round(cost[part] / plain[part], 4) for part in cost
        },
    }
    return found


def rounds_for(times: Seconds, rounds: int, phases_of_the_model: Sequence[str]) -> int:
    """Rounds of the critic that make the adversary's work last as long as some phases."""
    rest = times["answer"] + times["generate"]
    wanted = sum(times[phase] for phase in phases_of_the_model) - rest
    return max(rounds, round(wanted / (times["criticise"] / rounds)))


def measure(config: ScalingBenchmark) -> dict[str, Any]:
    """Measure what this machine holds, and reckon the rest; gives the figures of the report."""
    # As in `lvtrain.cli`: threads that wait must not spin beside those that work.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    origin = provenance("benchmarks.scaling")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = configured(config, prepared(config, folder))
        laps = work(config, run)
        rounds, size = run.model.critic.rounds, config.batch_size
        times = medians(laps[DEEP], size)
        slowed = {
            AS_SLOW: rounds_for(times, rounds, ["decode"]),
            "adversary as slow as the model": rounds_for(times, rounds, MODEL),
        }
        with connected(ClusterConfig(address="local")):
            code = run.model.autoencoder.code_size
            between = connection((size, LARGER * size), code, config.repeats)
            found = contest(config, run, folder)
            overlapped = overlap(run, slowed, folder) if config.overlap else {}
        words = statistics.mean(m.seconds * m.words_per_second for m in found["one process"])
        given = assumptions(run, laps, between, words / size)
        base = statistics.median(m.words_per_second for m in found["one process"])
        together = {name: contestant(own, base) for name, own in found.items()}
    return {
        "words_per_second": together["1 + 1"]["words_per_second"],
        "one_process_words_per_second": together["one process"]["words_per_second"],
        "ratio": together["1 + 1"]["ratio"],
        "bars": bars(together, overlapped),
        "contestants": together,
        "engines": engines(laps, size),
        "exchange_ms": {
            f"{rows} rows": {
                **{part: round(1e3 * seconds, 3) for part, seconds in vars(way).items()},
                "whole": round(1e3 * way.whole, 3),
            }
            for rows, way in between.ways.items()
        },
        "call_ms": round(1e3 * given.call, 3),
        "wait_ms": round(1e3 * given.wait, 3),
        "overlap": overlapped,
        "reckoned_1_plus_1_ms": round(1e3 * forecast(given, given.cpu, MEMORY, 1, 1).iteration, 1),
        "model": extrapolate(given),
        "assumptions": to_json(given),
        "configuration": {
            "preset": config.preset,
            "vocab_size": run.vocab_size,
            "batch_size": size,
            "hidden": run.model.autoencoder.hidden,
            "critic_rounds": rounds,
            "runs": config.runs,
            "steps": config.steps,
            "every": config.every,
            "repeats": config.repeats,
            "data": "synthetic",
        },
        "words_per_iteration": round(words, 1),
        "ray": version("ray"),
        "deepspeed": version("deepspeed"),
        **origin,
    }


def assumptions(run: RunConfig, laps: Laps, between: Connection, words: float) -> Assumptions:
    """What the model goes by, from what was measured."""
    way = between.ways[run.train.batch_size]
    rounds = run.model.critic.rounds
    gpu = None
    if GPU in laps:
        gpu = step_times(laps[GPU], rounds, hardware("cuda"))
    return Assumptions(
        cpu=step_times(laps[DEEP], rounds, f"{hardware()}, one a worker"),
        gpu=gpu,
        rows=run.train.batch_size,
        words=words,
        rounds=rounds,
        messages=messages(run, game_shape(run)),
        pack=way.pack,
        store=way.store,
        unpack=way.unpack,
        call=between.call,
        wait=between.wait,
    )


def bars(
    together: Mapping[str, Mapping[str, Any]], overlapped: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Each bar, what was measured, and whether that meets it."""
    faster = together["1 + 1"]["ratio"]
    found = {
        "1 + 1 over one process": {"bar": FASTER, "found": faster, "met": faster >= FASTER},
    }
    if overlapped:
        slower = overlapped[AS_SLOW]["of_the_slower"]
        found["iteration over the slower group's work"] = {
            "bar": SLOWER,
            "found": slower,
            "met": slower <= SLOWER,
        }
    return found


def show(figures: dict[str, Any], console: Console) -> None:
    """Print the figures as tables."""
    table = Table("", "words/s", "quartiles", "× one process", "iteration", "idle")
    for name, found in figures["contestants"].items():
        low, high = found["quartiles"]
        table.add_row(
            name,
            f"{found['words_per_second']:,.0f}",
            f"{low:,.0f}–{high:,.0f}",
            f"{found['ratio']:.2f}",
            f"{found['iteration_ms']:.0f} ms",
            ", ".join(f"{group} {share:.0%}" for group, share in found["idle"].items()),
        )
    console.print(table)
    timed = {name: own for name, own in figures["engines"].items() if "phases_ms" in own}
    table = Table("ms of a worker", *timed)
    for part in ("model_ms", "adversary_ms"):
        table.add_row(part.removesuffix("_ms"), *(f"{own[part]:.1f}" for own in timed.values()))
    for phase in (*MODEL, *ADVERSARY):
        table.add_row(phase, *(f"{own['phases_ms'][phase]:.1f}" for own in timed.values()))
    console.print(table)
    for rows, way in figures["exchange_ms"].items():
        console.print(f"exchange of {rows}: " + ", ".join(f"{n} {ms} ms" for n, ms in way.items()))
    for name, found in figures["overlap"].items():
        console.print(
            f"{name} ({found['critic_rounds']} rounds): {found['iteration_ms']} ms an iteration, "
            f"{found['of_the_slower']} × the slower group's work, {found['of_the_sum']} × the sum"
        )
    for reckoned in figures["model"]:
        table = Table(
            "N + M", "ms", "words/s", "efficiency", "limit", "hidden",
            title=f"reckoned: {reckoned['measured_on']}, {reckoned['link']}",
        )  # fmt: skip
        for row in reckoned["rows"]:
            table.add_row(
                f"{row['workers']} + {row['adversaries']}",
                f"{row['iteration_ms']:.1f}",
                f"{row['words_per_second']:,}",
                f"{row['efficiency']:.0%}",
                row["limit"],
                "yes" if row["adversary_hidden"] else "no",
            )
        console.print(table)
        console.print(f"workers to one adversary: {reckoned['default_workers_for_one_adversary']}")


def main(arguments: Sequence[str] | None = None) -> None:
    config = tyro.cli(ScalingBenchmark, args=arguments)
    figures = measure(config)
    text = json.dumps(figures, indent=2)
    if config.out:
        config.out.write_text(text + "\n")
    if config.json:
        print(text)
    else:
        show(figures, Console())


if __name__ == "__main__":
    sys.exit(guarded(main))
