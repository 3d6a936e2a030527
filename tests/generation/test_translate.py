"""Lines are cut where a reader would cut them, and nothing of them is lost."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.config import check
from lvtrain.data.tokenizer import Tokenizer
from lvtrain.errors import UserError
from lvtrain.generation import translate
from lvtrain.generation.beam import BeamConfig
from lvtrain.generation.translate import TranslateConfig, Translator
from lvtrain.systems.seq2seq import Seq2Seq, Seq2SeqConfig

WORDS = [*"abcdefgh", ".", ";", ","]
TOKENIZER = Tokenizer.train_words([" ".join(WORDS)])


def translator(max_words: int, tokenizer: Tokenizer = TOKENIZER) -> Translator:
    torch.manual_seed(0)
    size = tokenizer.vocab_size
    model = Seq2Seq(Seq2SeqConfig(embedding=4, hidden=4), size, size)
    return Translator(model, tokenizer, tokenizer, max_words)


def cut(line: str, max_words: int) -> list[str]:
    made = translator(max_words)
    return [made.source.decode(ids) for ids in made.pieces(line, TranslateConfig(), "sentence 1")]


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        ("a b c", ["a b c"]),
        ("", []),
        ("a b c . d e", ["a b c .", "d e"]),
        ("a b ; c , d e", ["a b ;", "c , d e"]),
        ("a b , c d e", ["a b ,", "c d e"]),
        ("a . b c d e", ["a . b c", "d e"]),
        ("a b c d e f g h a", ["a b c d", "e f g h", "a"]),
    ],
)
def test_a_line_is_cut_after_a_sentence_a_clause_or_a_word(line: str, pieces: list[str]) -> None:
    assert cut(line, 4) == pieces


@given(st.lists(st.sampled_from(WORDS), max_size=40), st.integers(1, 9))
def test_the_pieces_are_the_line(words: list[str], max_words: int) -> None:
    pieces = [piece.split() for piece in cut(" ".join(words), max_words)]
    assert list(chain.from_iterable(pieces)) == words
    assert all(0 < len(piece) <= max_words for piece in pieces)


def test_a_word_of_more_pieces_than_fit_is_cut_itself() -> None:
    tokenizer = Tokenizer.train_bpe(["ab cd"], vocab_size=256)
    made = translator(3, tokenizer)
    pieces = made.pieces("abcdefgh", TranslateConfig(), "sentence 1")
    assert [len(piece) for piece in pieces] == [3, 3, 3]
    assert tokenizer.decode(list(chain.from_iterable(pieces))) == "abcdefgh"


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(UserError, match="expected sentences in UTF-8"):
        translator(4).translate(["a \udcff"], TranslateConfig())


def test_what_is_drawn_for_a_line_does_not_hang_on_the_lines_beside_it() -> None:
    """So that a stream may be translated in whatever parts it comes."""
    made = translator(6)
    lines = ["a b", "c", "", "a b", "d e f g h a b c", "a b", "h a"]
    how = TranslateConfig(sample=True, search=BeamConfig(nbest=3))
    every = [[t.text for t in of] for of in made.translate(lines, how)]
    for cut in (1, 4):
        parts = made.translate(lines[:cut], how), made.translate(lines[cut:], how, first=1 + cut)
        assert [[t.text for t in of] for part in parts for of in part] == every
    assert every[0] != every[3] != every[5], "lines that are alike have draws of their own"


def test_draws_take_no_more_memory_than_what_is_written() -> None:
    made, how = translator(6), TranslateConfig(sample=True)
    unlimited = replace(how, max_extra=10**12)
    lines = ["a b", "c"]
    assert made.translate(lines, unlimited) == made.translate(lines, replace(how, max_extra=999))


@pytest.mark.parametrize("how", [{"search": BeamConfig(beam=4)}, {"sample": True}])
def test_fewer_are_written_at_a_time_where_logits_would_not_fit(
    monkeypatch: pytest.MonkeyPatch, how: dict[str, Any]
) -> None:
    made, config, sizes = translator(6), TranslateConfig(**how), []
    most = 2 * config.rows * TOKENIZER.vocab_size + 1
    monkeypatch.setattr(translate, "MOST_LOGITS", most)
    step = made.model.step

    def watched(*given: Any) -> Any:
        logits, state = step(*given)
        sizes.append(logits.numel())
        return logits, state

    monkeypatch.setattr(made.model, "step", watched)
    assert len(made.translate(["a b", "c", "d e f", "g", "h a"], config)) == 5
    assert max(sizes) == most - 1
    sizes.clear()
    monkeypatch.setattr(translate, "BATCH_WORDS", 3 * config.rows)  # with their ends
    made.translate(["a b", "c", "d e f", "g", "h a"], config)
    assert max(sizes) == config.rows * TOKENIZER.vocab_size, "each has a memory of its source"


@pytest.mark.parametrize("flag", ["beam", "nbest"])
def test_so_many_that_a_sentence_takes_gigabytes_are_refused(flag: str) -> None:
    check(TranslateConfig(search=BeamConfig(**{"beam": 1_000, flag: 1_000})))
    with pytest.raises(UserError, match=f"--{flag}: expected 1 to 1,000, found 1001"):
        check(TranslateConfig(search=BeamConfig(**{"beam": 1_000, flag: 1_001})))
