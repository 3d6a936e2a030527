"""Supervised translation on Multi30k, German to English: BLEU of RNNSearch and of a Transformer.

    python -m benchmarks.translation --data multi30k --out runs/translation

`--data` holds {train,val,test_2016_flickr}.{de,en}.gz, tokenised and lower-cased, a sentence a
line. Both models are trained by their presets, one after the other; a training that was killed or
stopped goes on from its last checkpoint when the command is given again, and one that is done is
not done again. Then the mean of the last checkpoints translates the test set by beam search, and
the table is written to `benchmarks/results/translation.md`. `--limit-steps` is for a trial.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from benchmarks.provenance import provenance
from benchmarks.trained import trained
from lvtrain.cli import guarded
from lvtrain.data.store import Store
from lvtrain.evaluation.translation import pairs_of, scores, translated
from lvtrain.generation.beam import BeamConfig
from lvtrain.generation.translate import TranslateConfig
from lvtrain.model import Model
from lvtrain.prepare.prepare import PrepareConfig, prepare

MODELS = {
    "RNNSearch": ("multi30k", 36.0),
    "Transformer": ("multi30k-transformer", 39.0),
}
"""The preset of each model, and the BLEU that is wanted of it."""


@dataclass(frozen=True, kw_only=True)
class TranslationConfig:
    """What is trained on what, and how it translates."""

    data: Path
    """Folder of the corpus."""
    out: Path
    """Folder of the store and the runs."""
    table: Path = Path("benchmarks/results/translation.md")
    """File of the table."""
    models: tuple[str, ...] = tuple(MODELS)
    """Models to train."""
    vocab_size: int = 6_000
    """BPE pieces of both languages together."""
    average: int = 5
    """Checkpoints whose parameters are averaged."""
    beam: int = 5
    """Width of the beam."""
    length_penalties: tuple[float, ...] = (0.6, 1.0, 1.4)
    """Of the beam search, to choose from on the validation set."""
    limit_steps: int = 0
    """Updates of each model; the preset's unless told."""
    seed: int = 0
    """Of both trainings."""


def main() -> None:
    """Train what is not trained yet, translate, write the table."""
    config = tyro.cli(TranslationConfig, prog="python -m benchmarks.translation")
    config.out.mkdir(parents=True, exist_ok=True)
    store = config.out / "store"
    if not store.is_dir():
        _prepare(config, store)
    results = [_result(config, name, store) for name in config.models]
    text = table(config, results)
    config.table.parent.mkdir(parents=True, exist_ok=True)
    config.table.write_text(text + "\n")
    print(text)


def _prepare(config: TranslationConfig, store: Path) -> None:
    def files(side: str) -> dict[str, tuple[str, ...]]:
        splits = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
        return {split: (str(config.data / f"{n}.{side}.gz"),) for split, n in splits.items()}

    source, target = files("de"), files("en")
    prepare(
        PrepareConfig(
            files=source["train"], target=target["train"],
            valid=source["valid"], valid_target=target["valid"],
            test=source["test"], test_target=target["test"],
            tokenizer="bpe", vocab_size=config.vocab_size, shared_vocabulary=True, max_words=100,
        ),
        store,
    )  # fmt: skip


def _result(config: TranslationConfig, name: str, store: Path) -> dict[str, Any]:
    """Train a model, go on training it, or take what was found before."""
    preset, wanted = MODELS[name]
    run = config.out / preset
    found: dict[str, Any] = {"model": name, "preset": preset, "wanted": wanted}
    settings = {}
    if config.limit_steps:
        every = max(1, config.limit_steps // (2 * config.average))
        settings = {"steps": config.limit_steps, "checkpoint_every": every, "validate_every": 0}
    found["seconds"] = trained("seq2seq", store, run, preset=preset, seed=config.seed, **settings)
    model = Model.load(run, "latest", average=config.average)
    found |= {"steps": model.step, "parameters": sum(
        p.numel() for part in model.system.parts.values() for p in part.parameters())}  # fmt: skip
    valid, test = (_pairs(store, split) for split in ("valid", "test"))
    best: dict[float, float] = {}
    for penalty in config.length_penalties:
        best[penalty] = _scored(model, valid, config.beam, penalty)["bleu"]
    penalty = max(best, key=lambda p: best[p])
    found |= {"length_penalty": penalty, "valid_bleu": best[penalty]}
    started = time.monotonic()
    found |= _scored(model, test, config.beam, penalty)
    found["sentences_a_second"] = len(test[0]) / (time.monotonic() - started)
    found["greedy_bleu"] = _scored(model, test, 1, penalty)["bleu"]
    (run / "translation.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found), flush=True)
    return found


def _pairs(store: Path, split: str) -> tuple[list[str], list[str]]:
    opened = Store.open(store)
    assert opened.target_tokenizer is not None
    return pairs_of(opened.split(split), opened.tokenizer, opened.target_tokenizer)


def _scored(
    model: Model, pairs: tuple[list[str], list[str]], beam: int, penalty: float
) -> dict[str, Any]:
    how = replace(TranslateConfig(), search=BeamConfig(beam=beam, length_penalty=penalty))
    return scores(translated(model.translator, pairs[0], how), pairs[1])


def table(config: TranslationConfig, results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        f"| test_2016_flickr, de → en | BLEU, beam {config.beam} | wanted | greedy | chrF "
        "| parameters | updates | training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        lines.append(
            f"| {row['model']} (`--preset {row['preset']}`) | {row['bleu']:.2f} "
            f"| ≥ {row['wanted']:g} | {row['greedy_bleu']:.2f} | {row['chrf']:.2f} "
            f"| {row['parameters'] / 1e6:.1f}M | {row['steps']:,} "
            f"| {row['seconds'] / 60:.0f} min |"
        )
    lines.append("")
    for row in results:
        lines.append(
            f"{row['model']}: mean of the last {config.average} checkpoints; length penalty "
            f"{row['length_penalty']:g}, chosen on the validation set, where BLEU is "
            f"{row['valid_bleu']:.2f}; {row['sentences_a_second']:.0f} sentences a second; "
            f"{row['bleu_signature']}; {row['chrf_signature']}."
        )
    lines.append(", ".join(str(v) for v in provenance("benchmarks.translation").values()) + ".")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(guarded(main))
