"""Sentence BLEU as sacrebleu has it."""

from __future__ import annotations

import pytest
import sacrebleu
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.data.tokenizer import UNK
from lvtrain.objectives.sentence_bleu import sentence_bleu

SENTENCE = st.lists(st.integers(0, 3), max_size=9)


def padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(1, *map(len, rows))
    # Padding is a word like any other: what lies beyond the end must not count.
    tokens = torch.tensor([row + [1] * (width - len(row)) for row in rows])
    return tokens, torch.tensor(list(map(len, rows)))


def judged(hypothesis: list[int], reference: list[int]) -> float:
    said = " ".join(f"w{i}" for i in hypothesis)
    expected = " ".join("another" if i == UNK else f"w{i}" for i in reference)
    return sacrebleu.sentence_bleu(said, [expected], tokenize="none").score / 100


@given(st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=8))
def test_every_row_has_sacrebleus_score(pairs: list[tuple[list[int], list[int]]]) -> None:
    hypotheses, references = map(list, zip(*pairs, strict=True))
    found = sentence_bleu(*padded(hypotheses), *padded(references)).tolist()
    assert found == pytest.approx([judged(*pair) for pair in pairs], abs=1e-5)


def test_the_very_sentence_has_one_and_strangers_none() -> None:
    row = torch.arange(4, 10)[None]
    length = torch.tensor([6])
    assert sentence_bleu(row, length, row, length).item() == pytest.approx(1.0)
    assert sentence_bleu(row, length, row + 10, length).item() == 0.0
