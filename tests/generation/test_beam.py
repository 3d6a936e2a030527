"""Beam search finds what an exhaustive search finds, and rows of a batch do not mix."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lvtrain.config import check
from lvtrain.data.tokenizer import EOS, UNK
from lvtrain.errors import UserError
from lvtrain.generation.beam import BeamConfig, Hypothesis, beam_search
from lvtrain.generation.translate import TranslateConfig, greedy
from lvtrain.modules.translator import Memory
from lvtrain.systems.seq2seq import Seq2Seq, Seq2SeqConfig
from tests.modules.test_translator import sentences

SMALL = Seq2SeqConfig(embedding=8, hidden=8, heads=2, dropout=0.0)
WORDS = 6  # of the target, ids 3 to 5 among them besides the end


def made(architecture: str, seed: int, sharpness: float = 3.0) -> Seq2Seq:
    torch.manual_seed(seed)
    model = Seq2Seq(replace(SMALL, architecture=architecture), 9, WORDS)
    with torch.no_grad():
        model.network.output.mul_(sharpness)
        model.network.output_bias.normal_()
    return model.eval()


@torch.inference_mode()
def exhaustive(
    model: Seq2Seq, memory: Memory, row: int, limit: int, config: BeamConfig
) -> list[Hypothesis]:
    """Every translation of a source of at most `limit` words, the best first."""
    found = []
    own = memory.select(torch.tensor([row]))
    for length in range(limit + 1):
        for words in itertools.product(range(UNK, WORDS), repeat=length):
            tokens = torch.tensor([[*words, EOS]])
            log = model.log_probs(own, tokens, torch.tensor([length + 1])).sum().item()
            state = model.start(own)
            for word in [1, *words]:
                _, state = model.step(own, state, torch.tensor([word]))
            covered = state.coverage[0][own.mask[0]].clamp(1e-6, 1).log().sum().item()
            score = log / ((6 + length) / 6) ** config.length_penalty
            score += config.coverage_penalty * covered
            found.append(Hypothesis(list(words), log, score))
    return sorted(found, key=lambda h: -h.score)


@settings(max_examples=12)
@given(
    architecture=st.sampled_from(["rnnsearch", "transformer"]),
    seed=st.integers(0, 10_000),
    limits=st.lists(st.integers(0, 3), min_size=2, max_size=3),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0, 2.0]),
    coverage_penalty=st.sampled_from([0.0, 0.3]),
    nbest=st.integers(1, 4),
)
def test_a_beam_that_holds_every_prefix_finds_the_best_of_all(
    architecture: str,
    seed: int,
    limits: list[int],
    length_penalty: float,
    coverage_penalty: float,
    nbest: int,
) -> None:
    model = made(architecture, seed)
    memory = model.encode(*sentences(len(limits), 4, 9, seed))
    config = BeamConfig(beam=64, nbest=nbest, length_penalty=length_penalty,
                        coverage_penalty=coverage_penalty)  # fmt: skip
    found = beam_search(model, memory, torch.tensor(limits), config)
    for row, limit in enumerate(limits):
        expected = exhaustive(model, memory, row, limit, config)[:nbest]
        assert [h.score for h in found[row]] == pytest.approx([h.score for h in expected], abs=1e-4)
        if len({round(h.score, 3) for h in expected}) == len(expected):
            assert [h.words for h in found[row]] == [h.words for h in expected]


@pytest.mark.parametrize("architecture", ["rnnsearch", "transformer"])
@pytest.mark.parametrize("beam", [1, 3])
def test_a_batch_gives_what_its_sources_give_alone(architecture: str, beam: int) -> None:
    model = made(architecture, 5, sharpness=2.0)
    source, lengths = sentences(6, 5, 9, seed=3)
    limits, config = 2 * lengths, BeamConfig(beam=beam, nbest=beam, length_penalty=0.6)
    together = beam_search(model, model.encode(source, lengths), limits, config)
    for row in range(6):
        own = slice(row, row + 1)
        memory = model.encode(source[own, : lengths[row]], lengths[own])
        (alone,) = beam_search(model, memory, limits[own], config)
        assert [h.words for h in alone] == [h.words for h in together[row]]
        assert [h.score for h in alone] == pytest.approx([h.score for h in together[row]], abs=1e-4)


@pytest.mark.parametrize("architecture", ["rnnsearch", "transformer"])
def test_a_beam_of_one_is_greedy(architecture: str) -> None:
    model = made(architecture, 7)
    memory = model.encode(*sentences(8, 5, 9))
    limits = torch.full((8,), 12)
    found = beam_search(model, memory, limits, BeamConfig(beam=1))
    expected = greedy(model, memory, limits)
    assert [best[0].words for best in found] == expected
    assert len({len(words) for words in expected}) > 1, "rows that end at different times"


def test_scores_fall_and_translations_differ() -> None:
    model = made("rnnsearch", 1)
    memory = model.encode(*sentences(5, 5, 9))
    for best in beam_search(model, memory, torch.full((5,), 9), BeamConfig(beam=6, nbest=6)):
        assert [h.score for h in best] == sorted((h.score for h in best), reverse=True)
        assert len({tuple(h.words) for h in best}) == len(best) == 6


def test_more_translations_than_the_beam_has_are_refused() -> None:
    with pytest.raises(UserError, match="--nbest: expected at most the --beam 2, found 3"):
        check(TranslateConfig(search=BeamConfig(beam=2, nbest=3)))
    check(TranslateConfig(search=BeamConfig(nbest=9), sample=True))  # draws have no beam
