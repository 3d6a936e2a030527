"""Adversarial training of a translator against more of the supervised, from one checkpoint.

Each column goes on from the same run of `seq2seq` for the same number of iterations with the same
optimiser and batches: by likelihood alone, and by BR-CSGAN for some shares λ of the discriminator's
opinion in the reward, 0 being reinforcement by BLEU alone. With `--adversary wu` the discriminator
is that of Wu et al. (2017), and that alone: each word still has the credit of its prefix, where
theirs have that of the sentence. The checkpoint with the best greedy translations of the validation
split is measured on the test split, by beam search: BLEU and chrF, and how likely a difference from
likelihood would be by chance (paired bootstrap, Koehn 2004).

    python -m benchmarks.translation_gan --from runs/rnnsearch --out runs/translation_gan

The discriminator is trained first, while the translator is frozen, for at most so many iterations
beyond `--steps` as `--pretraining` says. Likelihood has them all: at least as many updates as any
other column. A run that was killed goes on from its
last checkpoint; a column that was measured with the same settings is not done again.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from benchmarks.provenance import provenance
from benchmarks.trained import trained
from lvtrain.cli import guarded
from lvtrain.config import OptimizerConfig, Precision
from lvtrain.errors import UserError
from lvtrain.evaluation.config import EvaluateConfig
from lvtrain.evaluation.evaluate import evaluate
from lvtrain.experiment import starting_from
from lvtrain.generation.beam import BeamConfig
from lvtrain.generation.translate import TranslateConfig
from lvtrain.model import Model
from lvtrain.objectives.policy_gradient import PolicyConfig
from lvtrain.presets import MULTI30K_BLEU, MULTI30K_GAN
from lvtrain.systems.seq2seq_gan import Seq2SeqGANConfig
from lvtrain.systems.seq2seq_play import PlayConfig
from lvtrain.systems.seq2seq_policy import DiscriminatorConfig
from lvtrain.training.log import read_metrics
from lvtrain.training.parts import digest

LIKELIHOOD = "likelihood"
# With either discriminator: columns of two differ by these alone.
CREDIT: Literal["prefix"] = "prefix"


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """BR-CSGAN for several λ against continued supervised training."""

    start: Annotated[Path, tyro.conf.arg(name="from")]
    """The run of the translator that all go on from."""
    out: Path
    """Folder of the runs, and of each one's figures."""
    results: Path | None = None
    """Folder of the table and of all figures; `--out` by default."""
    adversary: Literal["brcsgan", "wu"] = "brcsgan"
    """Whose discriminator it is; words are credited by prefixes with either."""
    shares: tuple[float, ...] = (0.0, 0.7, 1.0)
    """λ of the columns."""
    seed: int = 0
    """Of every column."""
    steps: int = 900
    """Iterations of each."""
    pretraining: int = 200
    """Iterations before them in which a discriminator that is heeded can be trained."""
    batch_size: int = 32
    """Sentences a batch."""
    precision: Precision = "bf16"
    """Of every training."""
    rollouts: int = MULTI30K_GAN.policy.rollouts
    """N: completions of each prefix."""
    temperatures: tuple[float, ...] = (MULTI30K_BLEU.policy.temperature, 1.0, 1.0)
    """τ of the policy of each column, chosen on the validation set."""
    fresh: int = MULTI30K_GAN.fresh
    """Batches an iteration for a discriminator that is heeded, besides the translator's own."""
    teacher: float = MULTI30K_GAN.play.teacher
    """Factor on the supervised loss beside the reward."""
    beam: int = 5
    """Of the translations that are measured."""
    validate_every: int = 150
    """Steps between validations, from which the checkpoint is chosen."""
    sentences: int = 2_000
    """Of the validation split that are translated for that."""
    discriminator: DiscriminatorConfig = field(default_factory=lambda: MULTI30K_GAN.discriminator)
    optimizer: OptimizerConfig = field(default_factory=lambda: MULTI30K_GAN.translator.optimizer)
    """Of the translator."""
    json: bool = False
    """Print the figures as JSON."""

    @property
    def columns(self) -> dict[str, Seq2SeqGANConfig]:
        """The configurations to compare, by name; the baseline is the first."""
        if len(self.temperatures) != len(self.shares):
            raise UserError(
                f"--temperatures: expected one for each of the {len(self.shares)} --shares, found "
                f"{len(self.temperatures)}"
            )
        whole = Seq2SeqGANConfig(adversary=self.adversary, discriminator=self.discriminator)
        whole = starting_from(whole, self.start)
        whole = replace(whole, translator=replace(whole.translator, optimizer=self.optimizer))
        alone, beside = PlayConfig(likelihood=self.most), PlayConfig(teacher=self.teacher)
        columns = {LIKELIHOOD: replace(whole, play=alone)}
        for share, temperature in zip(self.shares, self.temperatures, strict=True):
            policy = PolicyConfig(
                adversarial=share, rollouts=self.rollouts, temperature=temperature, credit=CREDIT
            )
            fresh = self.fresh if share else 0
            columns[f"lambda-{share:g}"] = replace(whole, policy=policy, play=beside, fresh=fresh)
        return columns

    @property
    def most(self) -> int:
        """Iterations of the longest column."""
        return self.steps + self.pretraining

    def iterations(self, column: Seq2SeqGANConfig) -> int:
        """Of a column: nothing is learnt first for a discriminator that is not asked."""
        return self.most if column.policy.adversarial or column.play.likelihood else self.steps


def settings(name: str, config: ComparisonConfig) -> dict[str, Any]:
    """All that the figures of a column depend on; of the translator that it goes on from, not where
    this machine has it but the digest of its parameters."""
    everything = asdict(config)
    for left_out in ("out", "results", "shares", "temperatures", "fresh", "json"):
        del everything[left_out]
    parts = Model.load(config.start).system.parts
    tensors = {f"{p}.{n}": t for p, m in parts.items() for n, t in m.state_dict().items()}
    where = {"start": config.start.resolve().name}
    everything |= where | {"start_digest": digest(tensors)}
    everything["column"] = asdict(config.columns[name]) | where
    return json.loads(json.dumps(everything))


def measure(name: str, config: ComparisonConfig) -> dict[str, Any]:
    """Train a column, or go on with it, and measure it; once."""
    kept = config.out / f"{name}.json"
    wanted = settings(name, config)
    if kept.is_file() and (found := json.loads(kept.read_text()))["settings"] == wanted:
        return found
    run, column = config.out / name, config.columns[name]
    seconds = trained(
        "seq2seq-gan",
        Model.load(config.start).config.store,
        run,
        model=column,
        seed=config.seed,
        steps=config.iterations(column),
        batch_size=config.batch_size,
        precision=config.precision,
        validate_every=config.validate_every,
        validation_sentences=config.sentences,
        checkpoint_every=50,
        log_every=10,
    )
    search = BeamConfig(beam=config.beam)
    how = EvaluateConfig(translate=TranslateConfig(search=search))
    baseline = None if name == LIKELIHOOD else Model.load(config.out / LIKELIHOOD)
    figures = evaluate(Model.load(run), how, baseline=baseline).figures
    found = {
        "column": name,
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "figures": figures,
        "settings": wanted,
        **provenance("benchmarks.translation_gan"),
    }
    kept.write_text(json.dumps(found, indent=2))
    return found


def table(found: list[dict[str, Any]]) -> str:
    """The columns as a table in Markdown; on the embedded grammar with the exact figures."""
    exact = [name for name in ("valid", "precision", "coverage") if name in found[0]["figures"]]
    heads = ["", "step", *(f"{name} %" for name in exact)]
    heads += ["BLEU", "gain", "p", "chrF", "gain", "p"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for column in found:
        figures = column["figures"]
        cells = [column["column"], str(figures["step"])]
        cells += [f"{100 * figures[name]:.1f}" for name in exact]
        for metric in ("bleu", "chrf"):
            cells.append(f"{figures[metric]:.2f}")
            gain, p = (figures.get(f"{metric}_{what}") for what in ("gain", "p"))
            cells += ["", ""] if gain is None else [f"{gain:+.2f}", f"{p:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def curve(config: ComparisonConfig) -> str:
    """BLEU of greedy translations of the validation set at each validation, as a table."""
    courses = {
        name: {line["step"]: line["bleu"] for line in read_metrics(config.out / name)
               if line["kind"] == "validation"}
        for name in config.columns
    }  # fmt: skip
    steps = sorted(set().union(*courses.values()))
    lines = ["| validation, greedy | " + " | ".join(map(str, steps)) + " |"]
    lines.append("|---" * (1 + len(steps)) + "|")
    for name, course in courses.items():
        cells = [f"{course[step]:.2f}" if step in course else "" for step in steps]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines) + "\n"


def whence(config: ComparisonConfig, found: list[dict[str, Any]]) -> str:
    """What the figures were measured with."""
    first, minutes = found[0], [f"{column['seconds'] / 60:.0f}" for column in found]
    # Columns may be made in several goes.
    parts = ("hardware", "torch", "date", "command")
    where = {column["command"]: ", ".join(column[n] for n in parts) for column in reversed(found)}
    temperatures = ", ".join(map(str, config.temperatures))
    return (
        f"Beam {config.beam}; p by paired bootstrap; the discriminator of {config.adversary}, "
        f"credit by {CREDIT}; {config.rollouts} roll-outs, τ = "
        f"{temperatures}; {config.steps} iterations of {config.batch_size} sentences beside "
        f"at most {config.pretraining} for the discriminator alone, likelihood has both; "
        f"{config.fresh} more batch(es) an iteration for a discriminator that is heeded; minutes "
        f"of training, {first['threads']} thread(s): {', '.join(minutes)}; "
        f"{'; '.join(reversed(where.values()))}.\n"
    )


def main() -> None:
    prog = "python -m benchmarks.translation_gan"
    config = tyro.cli(ComparisonConfig, prog=prog, description=__doc__)
    found = [measure(name, config) for name in config.columns]
    text = "\n".join([table(found), curve(config), whence(config, found)])
    results = config.results or config.out
    results.mkdir(parents=True, exist_ok=True)
    (results / "translation_gan.md").write_text(text)
    (results / "translation_gan.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2) if config.json else text)


if __name__ == "__main__":
    sys.exit(guarded(main))
