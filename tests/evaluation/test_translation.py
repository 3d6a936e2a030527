"""Scores of translations with known answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.config import RunConfig, TrainConfig
from lvtrain.data.batches import sequential
from lvtrain.data.store import Store
from lvtrain.data.tokenizer import UNK, Tokenizer
from lvtrain.evaluation.sentences import FlatSplit, ids
from lvtrain.evaluation.translation import (
    UNKNOWN,
    compare,
    mass,
    pairs_of,
    readable,
    references_of,
    scores,
    unknown_words,
    valid_translations,
    validity,
)
from lvtrain.evaluation.validation import validation
from lvtrain.grammar.grammar import Grammar
from lvtrain.modules.rnnsearch import RNNSearch
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences
from lvtrain.systems.seq2seq import Seq2Seq, Seq2SeqConfig
from lvtrain.text.sources import Sentences

REFERENCES = [f"the {a} cat sat on the {b} mat" for a in ("old", "new", "red") for b in "xyz"] * 4


def test_the_reference_itself_has_all_and_other_words_nothing() -> None:
    perfect = scores(REFERENCES, REFERENCES)
    assert perfect["bleu"] == pytest.approx(100) and perfect["chrf"] == pytest.approx(100)
    assert "tok:none" in perfect["bleu_signature"]
    assert scores(["quux"] * len(REFERENCES), REFERENCES)["bleu"] == pytest.approx(0, abs=0.1)


def test_a_difference_is_significant_where_there_is_one() -> None:
    worse = [line.replace("mat", "rug") if i % 2 else line for i, line in enumerate(REFERENCES)]
    gain = compare(worse, REFERENCES, REFERENCES)
    assert gain["bleu_gain"] > 5 and gain["bleu_p"] < 0.01 and gain["chrf_p"] < 0.01
    one = [*REFERENCES[:-1], REFERENCES[-1].replace("mat", "rug")]
    assert compare(one, REFERENCES, REFERENCES)["bleu_p"] > 0.05
    same = compare(worse, worse, REFERENCES)
    assert same["bleu_gain"] == same["chrf_gain"] == 0 and same["bleu_p"] == same["chrf_p"] == 1


def test_precision_and_coverage_count_valid_translations() -> None:
    grammar = Grammar()
    source = next(s for s in grammar.sample(200, 0) if len(grammar.translations(s)) == 2)
    one, two = grammar.translations(source)
    unknown = source.replace(source.split()[1], "<unk>")
    valid, none = valid_translations([source, unknown], grammar)
    assert mass([[one, one, "no", two]], [valid]) == {
        "precision": 0.75, "coverage": 1.0, "true_coverage": 1 - 0.5**4
    }  # fmt: skip
    assert mass([[one, one]], [valid]) == {
        "precision": 1.0, "coverage": 0.5, "true_coverage": 1 - 0.5**2
    }  # fmt: skip
    assert validity([one, "no"], [valid, valid]) == 0.5
    assert validity([one, one], [valid, none]) == 1.0, "nobody knows of the second"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, str]]:
    """A store whose target vocabulary lacks many words, and what its sentences translate."""
    path = tmp_path_factory.mktemp("small") / "store"
    of = dict(Grammar().sample_pairs(120, seed=3))
    pairs = Sentences(texts=tuple(of), targets=tuple(of.values()))
    config = PrepareConfig(target_vocab_size=12)
    prepare_sentences(pairs, pairs, config=config, out=path)
    return Store.open(path), of


def test_scores_are_those_against_the_text_whatever_the_store_knows_of_it(
    small: tuple[Store, dict[str, str]],
) -> None:
    store, of = small
    assert store.target_tokenizer is not None
    target = store.target_tokenizer
    sources, references = pairs_of(store.split("valid"), store.tokenizer, target)
    texts = [of[source] for source in sources]
    # The best that the vocabulary allows, with <unk> wherever the store has it.
    found = target.decode_batch(target.encode_batch(texts))
    assert list(map(readable, references)) == found != texts
    unknown = " ".join(found).split().count("<unk>")
    assert unknown_words(references) == unknown / len(" ".join(texts).split()) > 0.1
    real, judged = scores(found, texts), scores(found, references)
    assert judged["bleu"] == real["bleu"] < 50 and judged["chrf"] < 90
    half = [text.rpartition(" ")[0] for text in found]
    against = compare(half, found, texts), compare(half, found, references)
    assert against[0]["bleu_gain"] == against[1]["bleu_gain"] != 0


@given(st.data())
def test_bleu_is_that_against_the_text(data: st.DataObject) -> None:
    words = st.lists(st.sampled_from(["a", "b", "c", "x", "y", "z"]), min_size=1, max_size=8)
    texts = data.draw(st.lists(words.map(" ".join), min_size=1, max_size=4))
    written = st.lists(st.sampled_from(["a", "b", "c", "<unk>"]), max_size=8).map(" ".join)
    found = [data.draw(written) for _ in texts]
    references = [" ".join(w if w in "abc" else UNKNOWN for w in t.split()) for t in texts]
    assert scores(found, references)["bleu"] == scores(found, texts)["bleu"]


def test_pieces_spell_what_looks_like_an_unknown_word() -> None:
    tokenizer = Tokenizer.train_bpe(["a b"], vocab_size=257)
    rows = FlatSplit.of(tokenizer.encode_batch(["a <unk> b"]))
    (batch,) = sequential(rows, 1)
    parallel = replace(batch, targets=batch.tokens, target_lengths=batch.lengths)
    assert references_of([parallel], tokenizer) == ["a <unk> b"]
    assert tokenizer.decode_batch(ids([batch])) == ["a <unk> b"]


def test_a_translator_that_writes_unknown_words_is_not_selected_for_it(
    small: tuple[Store, dict[str, str]],
) -> None:
    store, _ = small
    assert store.target_tokenizer is not None
    target = store.target_tokenizer
    model = Seq2SeqConfig(embedding=4, hidden=4)
    system = Seq2Seq(model, store.tokenizer.vocab_size, target.vocab_size)
    assert isinstance(system.network, RNNSearch)
    with torch.no_grad():
        system.network.output.zero_()
        system.network.output_bias[UNK] = 9.0
    config = RunConfig(
        system="seq2seq", model=model, train=TrainConfig(), store=store.path,
        store_digest=store.digest, vocab_size=store.tokenizer.vocab_size, max_words=20,
    )  # fmt: skip
    figures = validation(system, config, store.split("valid"), store.tokenizer, target)(0)
    assert figures["bleu"] == 0 and figures["missing_bleu"] == 100
