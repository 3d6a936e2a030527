"""Texts as words: arrays that say what `str.split` says."""

from __future__ import annotations

import sys
from zlib import crc32

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lvtrain.data.tokenizer import UNK, Tokenizer
from lvtrain.data.words import Words, spans

SPACES = [chr(i) for i in range(sys.maxunicode + 1) if chr(i).isspace()]
# White space of all kinds, characters that change or grow in lower case, an end of a word that
# does, controls that are no white space, and all the rest.
ODD = st.sampled_from([*SPACES, "İ", "Σ", "ΑΣ", "ß", "\x00", "\x1b", "\x7f", "\ufeff", "a", "b"])
TEXT = st.lists(st.one_of(ODD, st.characters()), max_size=12).map("".join)
TEXTS = st.lists(TEXT, max_size=8)


def back(words: Words) -> list[list[str]]:
    flat = [words.unique[i] for i in words.codes.tolist()]
    ends = np.cumsum(words.lengths).tolist()
    return [flat[end - n : end] for end, n in zip(ends, words.lengths.tolist(), strict=True)]


@given(TEXTS, st.booleans())
@example(["a  b", "", "\n", "c"], False)
@example(["", ""], False)
@example(["ΑΣ", "ΑΣ Α"], True)
@example(["\ud800 ?"], False)
def test_the_words_are_those_of_split(texts: list[str], lowercase: bool) -> None:
    words = Words.split(texts, lowercase)
    expected = [(text.lower() if lowercase else text).split() for text in texts]
    assert back(words) == expected
    assert words.lines == [" ".join(own).encode("utf-8", "surrogatepass") for own in expected]
    counts: dict[str, int] = {}
    for word, n in words.counts():
        counts[word] = counts.get(word, 0) + n
    flat = [word for own in expected for word in own]
    assert counts == {word: flat.count(word) for word in flat}


@pytest.mark.parametrize("space", SPACES, ids=[f"U+{ord(space):04X}" for space in SPACES])
def test_every_white_space_parts_words(space: str) -> None:
    assert back(Words.split([f"{space}a{space}{space}b", f"c{space}"])) == [["a", "b"], ["c"]]


@given(TEXTS, st.data())
def test_texts_can_be_left_out(texts: list[str], data: st.DataObject) -> None:
    keep = [data.draw(st.booleans()) for _ in texts]
    words = Words.split(texts).only(np.array(keep, dtype=bool))
    assert back(words) == [t.split() for t, kept in zip(texts, keep, strict=True) if kept]


@given(st.lists(st.text("ab ", max_size=9)), st.integers(0, 2**32 - 1))
def test_hashes_are_those_of_the_words_alone(texts: list[str], seed: int) -> None:
    hashes = Words.split(texts).hashes(seed).tolist()
    assert hashes == [crc32(" ".join(text.split()).encode(), seed) for text in texts]


@given(TEXTS, st.booleans())
def test_ids_are_those_of_each_word(texts: list[str], lowercase: bool) -> None:
    tokenizer = Tokenizer.train_words(["a b i σ", "ς ß \x00"], lowercase=lowercase)
    known = {word: tokenizer.id(word) for word in tokenizer.words}
    split = [(text.lower() if lowercase else text).split() for text in texts]
    assert tokenizer.encode_batch(texts) == [[known.get(w, UNK) for w in own] for own in split]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)))
def test_ids_are_those_that_the_library_finds(texts: list[str]) -> None:
    tokenizer = Tokenizer.train_words(["a b c", "0 1 é"])
    # Of the library's white space and Python's, the latter has the four separators more.
    plain = [text.translate(dict.fromkeys(range(0x1C, 0x20), " ")) for text in texts]
    library = [encoding.ids for encoding in tokenizer._model.encode_batch(plain)]
    assert tokenizer.encode_batch(texts) == library


def test_spans_are_the_ranges_one_after_the_other() -> None:
    assert spans(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
