"""Words and pieces to integers and back."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lvtrain.data.tokenizer import BOS, EOS, PAD, SPECIALS, UNK, Tokenizer
from lvtrain.errors import UserError

LINES = ["the dog sees the cat", "the cat sleeps", "a dog sleeps", "The end"]
TEXTS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=5
)


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return Tokenizer.train_bpe(LINES * 5, vocab_size=265)


def test_words_are_ordered_by_count_then_spelling() -> None:
    tokenizer = Tokenizer.train_words(LINES)
    assert tokenizer.words == ["the", "cat", "dog", "sleeps", "The", "a", "end", "sees"]
    assert [tokenizer.token(i) for i in range(4)] == list(SPECIALS)
    assert tokenizer.vocab_size == 12
    assert tokenizer.id("the") == 4
    assert tokenizer.id("never") == UNK


def test_vocabulary_is_cut_by_size_count_and_case() -> None:
    assert Tokenizer.train_words(LINES, vocab_size=2).words == ["the", "cat"]
    assert Tokenizer.train_words(LINES, min_count=3).words == ["the"]
    assert Tokenizer.train_words(LINES, lowercase=True, vocab_size=1).encode("THE Cat") == [4, UNK]


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_asking_for_more_than_the_data_hold_says_how_many_there_are(kind: str) -> None:
    with pytest.raises(UserError, match=r"expected 5,000 .* found \d+") as error:
        if kind == "words":
            Tokenizer.train_words(LINES, vocab_size=5000)
        else:
            Tokenizer.train_bpe(LINES, vocab_size=5000)
    assert "vocabulary larger than the data" in str(error.value)


def test_bpe_needs_room_for_the_bytes() -> None:
    with pytest.raises(UserError, match="at least 256"):
        Tokenizer.train_bpe(LINES, vocab_size=100)


def test_text_without_words_makes_no_vocabulary() -> None:
    with pytest.raises(UserError, match="vocabulary is empty"):
        Tokenizer.train_words(["", " "])


def test_names_of_specials_in_text_are_not_the_specials(bpe: Tokenizer) -> None:
    words = Tokenizer.train_words(["<s> a </s> <pad> <unk>"])
    assert words.words == ["a"]
    assert words.encode("<s> a </s> <pad> <unk>") == [UNK, 4, UNK, UNK, UNK]
    assert min(bpe.encode("<s> a </s> <pad> <unk>")) >= len(SPECIALS)
    assert bpe.decode(bpe.encode("<s> a </s>")) == "<s> a </s>"


def test_no_pieces_spell_more_than_one_line(bpe: Tokenizer) -> None:
    breaks = [len(SPECIALS) + bpe.words.index(piece) for piece in "ĊčĉĠ"]  # \n, \r, \t, a space
    dog = bpe.encode("dog")
    assert bpe.decode([*dog, *breaks, *dog, breaks[0]]) == "dog dog"


def test_decoding_stops_at_the_end_and_skips_padding(bpe: Tokenizer) -> None:
    words = Tokenizer.train_words(LINES)
    assert words.decode([BOS, 4, UNK, PAD, 5, EOS, 6]) == "the <unk> cat"
    assert bpe.decode([BOS, *bpe.encode("the dog"), PAD, EOS, 6]) == "the dog"
    assert words.decode_batch([[4, EOS], [EOS]]) == ["the", ""]


@given(TEXTS)
def test_bpe_round_trips_any_text_up_to_whitespace(bpe: Tokenizer, texts: list[str]) -> None:
    for text, ids in zip(texts, bpe.encode_batch(texts), strict=True):
        assert bpe.decode(ids) == " ".join(text.split())


@given(TEXTS)
def test_a_batch_is_encoded_as_its_texts_are(bpe: Tokenizer, texts: list[str]) -> None:
    for tokenizer in (bpe, Tokenizer.train_words(LINES)):
        assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_pieces_of_a_text_are_those_the_library_finds(bpe: Tokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path / "tokenizer.json")
    import tokenizers

    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "the dog's cat, it's 12 o'clock: sleeps (well)!"
    assert bpe.encode(text) == library.encode(text).ids


@pytest.mark.parametrize("kind", ["words", "bpe"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_saving_keeps_everything_and_the_same_bytes(
    tmp_path: Path, kind: str, lowercase: bool
) -> None:
    def train() -> Tokenizer:
        if kind == "words":
            return Tokenizer.train_words(LINES, lowercase=lowercase)
        return Tokenizer.train_bpe(LINES * 5, vocab_size=265, lowercase=lowercase)

    train().save(tmp_path / "a.json")
    loaded = Tokenizer.load(tmp_path / "a.json")
    loaded.save(tmp_path / "b.json")
    train().save(tmp_path / "c.json")
    content = (tmp_path / "a.json").read_bytes()
    assert content == (tmp_path / "b.json").read_bytes() == (tmp_path / "c.json").read_bytes()
    assert (loaded.kind, loaded.lowercase) == (kind, lowercase)
    assert loaded.encode("The dog") == train().encode("The dog")


@pytest.mark.parametrize("content", ["", "{}", "nonsense", json.dumps({"model": 1})])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(f"{path}: not a tokenizer")):
        Tokenizer.load(path)
    with pytest.raises(UserError, match="no such file"):
        Tokenizer.load(tmp_path / "none.json")
