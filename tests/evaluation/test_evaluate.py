from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lvtrain.config import OptimizerConfig, RunConfig, TrainConfig
from lvtrain.data.store import Store
from lvtrain.errors import UserError
from lvtrain.evaluation.evaluate import EvaluateConfig, evaluate
from lvtrain.evaluation.grammar import embedded_grammar
from lvtrain.evaluation.perplexity import JudgeConfig
from lvtrain.evaluation.validation import evaluating, validation
from lvtrain.generation.recorded import build
from lvtrain.grammar.grammar import Grammar
from lvtrain.model import Model
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences
from lvtrain.systems.arae import ARAEConfig, CriticConfig, GeneratorConfig
from lvtrain.systems.autoencoder import AutoencoderConfig
from lvtrain.systems.language_model import LanguageModelConfig
from lvtrain.systems.vae import VAEConfig

AUTOENCODER = AutoencoderConfig(embedding=8, hidden=12)
MODELS = {
    "lm": LanguageModelConfig(embedding=8, hidden=12),
    "ae": AUTOENCODER,
    "vae": VAEConfig(embedding=8, hidden=12, latent=4),
    "arae": ARAEConfig(
        autoencoder=AUTOENCODER,
        generator=GeneratorConfig(noise=6, layers=(8,)),
        critic=CriticConfig(layers=(8,)),
    ),
}
FIRST = {
    "lm": "perplexity",
    "ae": "reconstruction_nll",
    "vae": "negative_elbo",
    "arae": "reverse_ngram",
}
JUDGE = JudgeConfig(
    embedding=8, hidden=8, epochs=1, min_steps=0, batch_size=32, optimizer=OptimizerConfig(lr=0.02)
)
CONFIG = EvaluateConfig(
    samples=120, reconstructions=20, latent_sentences=30, importance_samples=5, judge=JUDGE
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    grammar = Grammar()
    path = tmp_path_factory.mktemp("data") / "store"
    prepare_sentences(
        grammar.sample(300, 1), grammar.sample(40, 2), grammar.sample(60, 3),
        config=PrepareConfig(), out=path,
    )  # fmt: skip
    return Store.open(path)


def configured(system: str, store: Store) -> RunConfig:
    return RunConfig(
        system=system,
        model=MODELS[system],
        train=TrainConfig(validation_sentences=30),
        store=store.path,
        store_digest=store.digest,
        vocab_size=store.tokenizer.vocab_size,
        max_words=store.split("train").max_length,
    )


def untrained(system: str, store: Store, folder: Path) -> Model:
    config = configured(system, store)
    return Model(config, build(config), store.tokenizer, 0, folder)


@pytest.mark.parametrize("system", MODELS)
def test_validation_starts_with_the_figure_that_selects(system, store):
    config = configured(system, store)
    figures = validation(build(config), config, store.split("valid"), store.tokenizer)(0)
    assert next(iter(figures)) == FIRST[system]
    assert all(math.isfinite(value) for value in figures.values())


@pytest.mark.parametrize("system", MODELS)
def test_validation_is_a_function_of_the_weights_and_changes_nothing(system, store):
    config = configured(system, store)
    built = build(config)
    for part in built.parts.values():
        part.train()
    before = {n: t.clone() for p in built.parts.values() for n, t in p.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    figures = validation(built, config, store.split("valid"), store.tokenizer)
    assert figures(10) == figures(20)
    assert torch.equal(torch.rand(2), expected)
    after = {n: t for p in built.parts.values() for n, t in p.state_dict().items()}
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert all(m.training for p in built.parts.values() for m in p.modules())


def test_evaluating_puts_every_module_back_to_what_it_was(store):
    built = build(configured("arae", store))
    for part in built.parts.values():
        part.train()
    built.parts["critic"].eval()
    with pytest.raises(ZeroDivisionError), evaluating(built):
        assert not any(m.training for p in built.parts.values() for m in p.modules())
        raise ZeroDivisionError
    assert built.parts["generator"].training and not built.parts["critic"].training


def test_an_arae_on_the_embedded_corpus_is_judged_by_its_grammar(store):
    config = configured("arae", store)
    figures = validation(build(config), config, store.split("valid"), store.tokenizer)(0)
    assert figures["grammatical"] == 0.0


COMMON = {
    "step", "split", "samples", "reverse_perplexity", "real_perplexity", "forward_perplexity",
    "self_bleu", "distinct_1", "distinct_2", "distinct_3", "duplicates", "copied", "grammatical",
    "exact_perplexity",
}  # fmt: skip
CODED = {
    "reconstruction_accuracy", "reconstruction_exact", "reconstruction_bleu", "bleu_signature",
    "reconstruction_nll",
}  # fmt: skip
DISTANCES = {"frechet", "code_norm", "generated_norm"}
BOUNDS = {"elbo", "kl", "iw_nll", "iw_perplexity", "mutual_information", "active_units"}
EXPECTED = {
    "lm": COMMON,
    "ae": COMMON | CODED | DISTANCES,
    "vae": COMMON | CODED | BOUNDS,
    "arae": COMMON | CODED | DISTANCES,
}


@pytest.mark.parametrize("system", MODELS)
def test_evaluation_has_the_figures_that_a_system_can_have(system, store, tmp_path):
    figures, samples, pairs, walks, _ = evaluate(untrained(system, store, tmp_path), CONFIG)
    everything = set().union(*EXPECTED.values())
    assert everything & figures.keys() == EXPECTED[system]
    assert figures["samples"] == len(samples) == 120 and figures["split"] == "test"
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    if system == "lm":
        assert pairs == walks == []
    else:
        assert len(pairs) == 20 and all(len(pair) == 2 for pair in pairs)
        assert len(walks) == 5 and all(len(walk) == 7 for walk in walks)
    assert not list(tmp_path.iterdir()), "measuring writes nothing"


def test_evaluation_is_a_function_of_the_weights_and_the_seed(store, tmp_path):
    model = untrained("vae", store, tmp_path)
    config = replace(CONFIG, forward=False, samples=60)
    assert evaluate(model, config) == evaluate(model, config)
    assert evaluate(model, config) != evaluate(model, replace(config, seed=1))


def test_parts_can_be_left_out(store, tmp_path):
    said: list[str] = []
    config = replace(CONFIG, reverse=False, forward=False, reconstructions=0)
    figures = evaluate(untrained("arae", store, tmp_path), config, said.append).figures
    left_out = {"reverse_perplexity", "real_perplexity", "forward_perplexity"}
    assert not left_out & figures.keys() and "reconstruction_accuracy" not in figures
    assert not any("judge" in text for text in said) and said


def test_samples_are_at_most_as_many_as_the_real_sentences(store, tmp_path):
    config = replace(CONFIG, samples=10_000, reverse=False, forward=False, reconstructions=0)
    assert evaluate(untrained("lm", store, tmp_path), config).figures["samples"] == 300


def test_an_unknown_split_is_the_users_mistake(store, tmp_path):
    with pytest.raises(UserError, match="tset"):
        evaluate(untrained("lm", store, tmp_path), replace(CONFIG, split="tset"))


@pytest.mark.parametrize(
    ("flag", "change"),
    [
        ("samples", {"samples": 0}), ("samples", {"samples": -1}),
        ("temperature", {"temperature": math.nan}), ("temperature", {"temperature": -1.0}),
        ("reconstructions", {"reconstructions": -1}), ("latent-sentences", {"latent_sentences": 1}),
        ("importance-samples", {"importance_samples": 0}),
        ("judge.epochs", {"judge": replace(JUDGE, epochs=0)}),
        ("judge.held-out", {"judge": replace(JUDGE, held_out=1.0)}),
    ],
)  # fmt: skip
def test_a_number_that_cannot_be_is_refused_before_any_work(store, tmp_path, flag, change):
    said: list[str] = []
    with pytest.raises(UserError, match=f"^--{flag}: expected"):
        evaluate(untrained("vae", store, tmp_path), replace(CONFIG, **change), said.append)
    assert said == []


def test_the_embedded_grammar_is_recognised_by_its_sentences():
    sentences = Grammar().sample(50, 0)
    assert embedded_grammar([*sentences, "<unk> the"]) is not None
    assert embedded_grammar([*sentences, "not a sentence of it"]) is None
    assert embedded_grammar([]) is None


def test_perplexity_of_pieces_is_per_word(tmp_path):
    text = ["banana bandana", "bandana banana", "banana"] * 10
    config = PrepareConfig(tokenizer="bpe", vocab_size=260)
    prepare_sentences(text, text[:6], config=config, out=tmp_path / "store")
    store = Store.open(tmp_path / "store")
    run = configured("lm", store)
    system = build(run)
    figures = validation(system, run, store.split("valid"), store.tokenizer)(0)
    # Untrained, about one over the vocabulary a piece, and several pieces a word.
    assert figures["perplexity"] > store.tokenizer.vocab_size**1.5
