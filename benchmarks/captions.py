"""Reverse perplexity on real text: the table of Zhao et al. 2018, for what this machine can train.

Every column is trained with one configuration on the same sentences; the same language model then
judges as many generated sentences of each (and real ones): trained on them, read on the test split.

    python -m benchmarks.captions --data captions --out runs/captions --seeds 0 1

`--data` holds train.en.gz, val.en.gz and test.en.gz, one tokenised sentence a line. A column that
was done with the same settings is not done again: its figures lie in `--results`, which another
machine can go on from. A training that was killed goes on from its last checkpoint in `--out`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from benchmarks.provenance import provenance
from benchmarks.trained import trained
from lvtrain.cli import guarded
from lvtrain.config import OptimizerConfig, Precision, TrainConfig
from lvtrain.data.store import Store
from lvtrain.evaluation.ngram import ngram_perplexity
from lvtrain.evaluation.perplexity import Judge, JudgeConfig
from lvtrain.evaluation.sentences import FlatSplit, read
from lvtrain.model import Model
from lvtrain.objectives.adversarial import LipschitzConfig
from lvtrain.prepare.prepare import PrepareConfig, prepare
from lvtrain.systems.arae import ARAEConfig, CriticConfig, GeneratorConfig
from lvtrain.systems.autoencoder import AutoencoderConfig
from lvtrain.systems.language_model import LanguageModelConfig

COLUMNS = ("real", "lm", "ae", "arae", "arae-alternating")


@dataclass(frozen=True, kw_only=True)
class ShapeConfig:
    """One size and one optimiser for all columns."""

    hidden: int = 192
    """Size of embeddings and LSTMs."""
    code: int = 64
    """Size of the code."""
    noise: float = 0.7
    """Standard deviation of the noise on the code."""
    answer_scale: float = 0.1
    """Factor on the critic's gradient for the encoder."""
    layers: tuple[int, ...] = (512, 512)
    """Hidden layers of generator and critic."""
    fresh: int = 2
    """Batches besides the one learnt from whose codes the critic sees in an iteration."""
    init: float = 0.2
    """Parameters of the text side start from U(−init, init)."""
    game: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=5e-4, betas=(0.5, 0.9), decay=0.5)
    )
    """Optimiser of generator and critic."""
    text: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(lr=4e-3, betas=(0.9, 0.98), clip=1.0, decay=0.7)
    )
    """Optimiser of encoder, decoder and language model."""

    def system(self, column: str) -> tuple[str, Any]:
        """The system of a column and its configuration."""
        if column == "lm":
            return "lm", LanguageModelConfig(
                embedding=self.hidden, hidden=self.hidden, init=self.init, optimizer=self.text
            )
        autoencoder = AutoencoderConfig(
            embedding=self.hidden,
            hidden=self.hidden,
            code=self.code,
            noise=self.noise,
            noise_decay=1.0,
            radius=self.code**0.5,
            init=self.init,
            optimizer=self.text,
        )
        if column == "ae":
            return "ae", autoencoder
        return "arae", ARAEConfig(
            autoencoder=autoencoder,
            generator=GeneratorConfig(layers=self.layers, init=0.0, optimizer=self.game),
            critic=CriticConfig(
                layers=self.layers,
                init=0.0,
                lipschitz=LipschitzConfig(weight=10.0),
                optimizer=self.game,
            ),
            answer_scale=self.answer_scale,
            fresh=self.fresh,
            schedule="alternating" if column == "arae-alternating" else "overlapped",
        )


@dataclass(frozen=True, kw_only=True)
class CaptionsConfig:
    """Reverse perplexity of LM, AE and ARAE samples on a real corpus."""

    data: Path
    """Folder of the corpus."""
    out: Path
    """Folder of the store, the runs and the samples."""
    results: Path | None = None
    """Folder of each column's figures, and of the table; `--out` by default."""
    seeds: tuple[int, ...] = (0, 1)
    """Seeds of each column."""
    columns: tuple[str, ...] = COLUMNS
    """Columns to do."""
    steps: int = 4_000
    """Updates of each model."""
    samples: int = 50_000
    """Sentences that the judge is trained on."""
    max_words: int = 15
    """Longest sentence taken."""
    min_count: int = 2
    """Least count of a word of the vocabulary."""
    temperatures: tuple[float, ...] = (0.0, 0.5, 0.7, 0.8, 0.9, 1.0)
    """Decoding temperatures to choose from on the validation split; 0 is greedy."""
    trial_samples: int = 6_000
    """Sentences generated for that at each."""
    precision: Precision = "bf16"
    """Of the products of training, for all columns."""
    jobs: int = 2
    """Columns done at a time; the cores are shared among them."""
    shape: Annotated[ShapeConfig, tyro.conf.arg(name="")] = field(default_factory=ShapeConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """The language model that judges."""

    @property
    def kept(self) -> Path:
        """Where the figures are."""
        return self.results or self.out

    def settings(self, name: str) -> dict[str, Any]:
        """All that the figures of a column depend on, besides its seed."""
        everything = asdict(self)
        for where in ("data", "out", "results", "seeds", "columns", "jobs"):
            del everything[where]
        if name == "real":
            everything = {k: everything[k] for k in ("samples", "max_words", "min_count", "judge")}
        else:
            del everything["shape"]
            system, model = self.shape.system(name)
            everything |= {"system": system, "model": asdict(model)}
        return json.loads(json.dumps(everything))


def done(config: CaptionsConfig, name: str, seed: int) -> dict[str, Any] | None:
    """The figures of a column, where it was done with these settings."""
    result = config.kept / f"{name}-{seed}.json"
    if not result.is_file():
        return None
    figures = json.loads(result.read_text())
    return figures if figures["settings"] == config.settings(name) else None


def column(config: CaptionsConfig, name: str, seed: int) -> dict[str, Any]:
    """Train a column's model, draw its samples, judge them."""
    if found := done(config, name, seed):
        return found
    threads = max(1, (os.cpu_count() or 1) // config.jobs)
    torch.set_num_threads(threads)
    store = Store.open(config.out / "store")
    figures: dict[str, Any] = {"column": name, "seed": seed} | provenance("benchmarks.captions")
    if name == "real":
        real = read(store.split("train"), config.samples, seed)
        sentences = store.tokenizer.decode_batch(real)
    else:
        system, model = config.shape.system(name)
        settings = TrainConfig(
            steps=config.steps,
            seed=seed,
            threads=threads,
            precision=config.precision,
            validate_every=1_000,
            checkpoint_every=500,
            log_every=100,
        )
        run = config.out / f"run-{name}-{seed}"
        seconds = trained(system, config.out / "store", run, model=model, **vars(settings))
        ours = Model.load(run)
        figures["train_seconds"] = round(seconds)
        figures["step"] = ours.step
        temperature = best_temperature(config, ours, store)
        figures["temperature"] = temperature
        sentences = ours.generate(config.samples, seed, temperature=temperature)
        (config.out / f"samples-{name}-{seed}.txt").write_text("\n".join(sentences) + "\n")
    judge = Judge.train(
        FlatSplit.of(store.tokenizer.encode_batch(sentences)),
        store.tokenizer,
        replace(config.judge, seed=seed),
    )
    figures["reverse_perplexity"] = judge.perplexity(store.split("test"))
    figures["distinct_sentences"] = len(set(sentences)) / len(sentences)
    figures["settings"] = config.settings(name)
    (config.kept / f"{name}-{seed}.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def best_temperature(config: CaptionsConfig, model: Model, store: Store) -> float:
    """The temperature whose samples are the best text for a trigram model to learn from, judged on
    the validation split: every column chooses alike."""
    valid = read(store.split("valid"), 2_000)
    scores = {}
    for temperature in config.temperatures:
        sentences = model.generate(config.trial_samples, temperature=temperature)
        ids = store.tokenizer.encode_batch(sentences)
        scores[temperature] = ngram_perplexity(ids, valid, store.info.vocab_size)
    return min(scores, key=lambda temperature: scores[temperature])


def jobs(config: CaptionsConfig) -> Iterator[dict[str, Any]]:
    """Every column and seed, as they get done."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        todo = [(name, seed) for seed in config.seeds for name in config.columns]
        for done in as_completed([pool.submit(column, config, *job) for job in todo]):
            yield done.result()


def table(config: CaptionsConfig, results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    store = Store.open(config.out / "store")
    lines = [
        "| trained on | reverse perplexity, mean | " + " | ".join(
            f"seed {seed}" for seed in config.seeds) + " | temperature | distinct sentences |",
        "|---|" + "---|" * (len(config.seeds) + 3),
    ]  # fmt: skip
    for name in config.columns:
        rows = sorted((r for r in results if r["column"] == name), key=lambda r: r["seed"])
        values = [row["reverse_perplexity"] for row in rows]
        distinct = statistics.mean(row["distinct_sentences"] for row in rows)
        cells = " | ".join(f"{value:.1f}" for value in values)
        temperature = ", ".join(f"{row['temperature']:g}" for row in rows if "temperature" in row)
        lines.append(
            f"| {name} | {statistics.mean(values):.1f} | {cells} | {temperature} | {distinct:.2f} |"
        )
    info = store.info.splits["train"]
    lines += [
        "",
        f"{info.sentences:,} sentences of at most {config.max_words} words, vocabulary "
        f"{store.info.vocab_size:,}; {config.samples:,} sentences judged; {config.steps:,} updates "
        f"of {TrainConfig().batch_size} sentences a model; {config.shape}; {config.judge}.",
        ", ".join(str(value) for value in provenance("benchmarks.captions").values()) + ".",
    ]
    return "\n".join(lines)


def main() -> None:
    """Do what is not done yet, then write the table."""
    config = tyro.cli(CaptionsConfig, prog="python -m benchmarks.captions")
    for folder in (config.out, config.kept):
        folder.mkdir(parents=True, exist_ok=True)
    if not (config.out / "store").is_dir():
        prepare(
            PrepareConfig(
                files=(str(config.data / "train.en.gz"),),
                valid=(str(config.data / "val.en.gz"),),
                test=(str(config.data / "test.en.gz"),),
                max_words=config.max_words,
                min_count=config.min_count,
            ),
            config.out / "store",
        )
    results = []
    for figures in jobs(config):
        results.append(figures)
        shown = {k: v for k, v in figures.items() if k != "settings"}
        print(json.dumps(shown), flush=True)
    text = table(config, results)
    (config.kept / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    sys.exit(guarded(main))
