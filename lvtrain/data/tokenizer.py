"""Words or byte-pair pieces to integers and back.

Both kinds are `tokenizers.Tokenizer` objects on disk (`tokenizer.json`, which Hugging Face tools
read). In memory a dictionary from whitespace-separated words to their ids does the work: a text
repeats its words, so one look-up for each different word is faster than any tokenising again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Final, Literal, Self

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from lvtrain.data.location import Uri
from lvtrain.data.words import Words, spans
from lvtrain.errors import UserError

PAD: Final = 0
BOS: Final = 1
EOS: Final = 2
UNK: Final = 3
SPECIALS: Final = ("<pad>", "<s>", "</s>", "<unk>")

BYTES: Final = 256
"""Pieces that every BPE vocabulary has."""

Kind = Literal["words", "bpe"]

CACHED_WORDS: Final = 1_000_000
"""Most words a BPE tokeniser remembers the pieces of, so that its memory stays bounded."""


class Tokenizer:
    """A vocabulary: ids 0 to 3 are padding, begin, end and unknown; the words or pieces follow.

    Text is split at whitespace first, whatever the kind. A special's name inside a text is never
    read as the special: to a word-level tokeniser it is an unknown word, to BPE its characters.
    """

    def __init__(self, model: tokenizers.Tokenizer) -> None:
        self._model = model
        self._model.encode_special_tokens = True
        self.kind: Kind = "bpe" if isinstance(model.model, models.BPE) else "words"
        self.lowercase = model.normalizer is not None
        by_token = model.get_vocab()
        self._tokens = sorted(by_token, key=by_token.__getitem__)
        self._ids = by_token
        self._word_ids = {word: i for word, i in by_token.items() if i >= len(SPECIALS)}
        self._pieces: dict[str, list[int]] = {}

    @classmethod
    def train_words(
        cls,
        lines: Iterable[str],
        *,
        vocab_size: int | None = None,
        min_count: int = 1,
        lowercase: bool = False,
    ) -> Self:
        """Make a vocabulary of the most frequent words of `lines`; see `words_from_counts`."""
        return cls.words_from_counts(
            count(lines, lowercase), vocab_size=vocab_size, min_count=min_count, lowercase=lowercase
        )

    @classmethod
    def train_bpe(
        cls, lines: Iterable[str], *, vocab_size: int | None, lowercase: bool = False
    ) -> Self:
        """Learn byte-pair pieces of `lines`; see `bpe_from_counts`."""
        return cls.bpe_from_counts(
            count(lines, lowercase), vocab_size=vocab_size, lowercase=lowercase
        )

    @classmethod
    def words_from_counts(
        cls,
        counts: Mapping[str, int],
        *,
        vocab_size: int | None = None,
        min_count: int = 1,
        lowercase: bool = False,
    ) -> Self:
        """Make a word-level vocabulary of counted words: by descending count, then by spelling.

        `vocab_size` counts words alone, without the specials; None keeps every word seen
        `min_count` times. Raises UserError where the data hold fewer words than asked for.
        """
        frequent = [
            (-number, word)
            for word, number in counts.items()
            if number >= min_count and word not in SPECIALS
        ]
        if vocab_size is not None and len(frequent) < vocab_size:
            raise UserError(
                f"vocabulary larger than the data: expected {vocab_size:,} words, found "
                f"{len(frequent):,} different ones" + _seen(min_count)
            )
        if not frequent:
            raise UserError("vocabulary is empty: expected words, found none" + _seen(min_count))
        words = [word for _, word in sorted(frequent)[:vocab_size]]
        vocabulary = {token: i for i, token in enumerate(chain(SPECIALS, words))}
        model = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIALS[UNK]))
        model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if lowercase:
            model.normalizer = normalizers.Lowercase()
        return cls(model)

    @classmethod
    def bpe_from_counts(
        cls, counts: Mapping[str, int], *, vocab_size: int | None, lowercase: bool = False
    ) -> Self:
        """Learn byte-level byte-pair pieces of counted words (Sennrich et al., ACL 2016; GPT-2).

        Every byte is a piece, so that no text is out of vocabulary and decoding is exact up to
        whitespace. Raises UserError where the data do not yield `vocab_size` pieces.
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        if vocab_size is None or vocab_size < BYTES:
            raise UserError(
                f"a BPE vocabulary holds the {BYTES} bytes: expected a vocabulary size of at least "
                f"{BYTES}, found {'none' if vocab_size is None else vocab_size}"
            )
        model = tokenizers.Tokenizer(models.BPE(unk_token=SPECIALS[UNK]))
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size + len(SPECIALS),
            special_tokens=list(SPECIALS),
            initial_alphabet=alphabet,
            show_progress=False,
        )
        model.train_from_iterator(_repeated(counts), trainer)
        if lowercase:
            model.normalizer = normalizers.Lowercase()
        found = model.get_vocab_size() - len(SPECIALS)
        if found < vocab_size:
            raise UserError(
                f"vocabulary larger than the data: expected {vocab_size:,} BPE pieces, "
                f"found {found:,}"
            )
        return cls(model)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a `tokenizer.json` that `save` wrote."""
        path = Path(path)
        try:
            return cls.from_json(path.read_text("utf-8"), path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file, expected a tokenizer") from None

    @classmethod
    def from_json(cls, text: str, path: Path | Uri) -> Self:
        """Read the content of a `tokenizer.json`, which messages call `path`."""
        try:
            model = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare exceptions of its parser
            raise UserError(f"{path}: not a tokenizer: {_one_line(error)}") from None
        if [model.id_to_token(i) for i in range(len(SPECIALS))] != list(SPECIALS):
            raise UserError(f"{path}: not a tokenizer of lvtrain: expected {' '.join(SPECIALS)}")
        return cls(model)

    def save(self, path: Path | str) -> None:
        """Write the vocabulary as Hugging Face `tokenizer.json`, the same bytes each time."""
        Path(path).write_text(self._model.to_str(pretty=True) + "\n", encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """Number of ids, the specials included."""
        return len(self._tokens)

    @property
    def words(self) -> list[str]:
        """The words or pieces in the order of their ids, without the specials."""
        return self._tokens[len(SPECIALS) :]

    def id(self, token: str) -> int:
        """Return the id of a token, that of `<unk>` if there is none."""
        return self._ids.get(token, UNK)

    def token(self, id: int) -> str:
        """Return the token of an id."""
        return self._tokens[id]

    def split(self, texts: Sequence[str]) -> Words:
        """Cut texts into the words that a vocabulary is made of, lower-cased if it is."""
        return Words.split(texts, self.lowercase)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without begin and end."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without begin and end."""
        ids, lengths = self.encode_flat(self.split(texts))
        ends = np.cumsum(lengths)
        return [part.tolist() for part in np.split(ids, ends[:-1])] if len(texts) else []

    def encode_flat(self, words: Words) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of many texts, one after the other, and the length of each.

        Shapes: `[sum of lengths]` uint32 and `[texts]` int64.
        """
        if self.kind == "words":
            lookup = self._word_ids.get
            table = np.array([lookup(word, UNK) for word in words.unique], dtype=np.uint32)
            return table[words.codes], words.lengths
        self._learn_pieces(words.unique)
        pieces = [self._pieces[word] for word in words.unique]
        sizes = np.array([len(piece) for piece in pieces], dtype=np.int64)
        flat = np.array(list(chain.from_iterable(pieces)), dtype=np.uint32)
        own = sizes[words.codes]
        ids = flat[spans((np.cumsum(sizes) - sizes)[words.codes], own)]
        before = np.concatenate([[0], np.cumsum(own)])
        ends = np.cumsum(words.lengths)
        return ids, before[ends] - before[ends - words.lengths]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids up to the first end, without padding and begin."""
        kept = []
        for id in ids:
            if id == EOS:
                break
            if id not in (PAD, BOS):
                kept.append(int(id))
        if self.kind == "words":
            return " ".join([self._tokens[id] for id in kept])
        text = self._model.decode(kept, skip_special_tokens=False)
        # Pieces of bytes may spell the end of a line, which no sentence has.
        return " ".join(text.split())

    def decode_batch(self, batch: Iterable[Sequence[int]]) -> list[str]:
        """Return the text of each row of ids."""
        return [self.decode(ids) for ids in batch]

    def _learn_pieces(self, words: Sequence[str]) -> None:
        """Put the pieces of every word into the cache.

        No piece crosses whitespace, so the pieces of a text are those of its words, each with the
        space before it.
        """
        new = [word for word in dict.fromkeys(words) if word not in self._pieces]
        if len(self._pieces) + len(new) > CACHED_WORDS:
            self._pieces.clear()
            new = list(dict.fromkeys(words))
        for word, encoding in zip(new, self._model.encode_batch_fast(new), strict=True):
            self._pieces[word] = encoding.ids


def count(lines: Iterable[str], lowercase: bool) -> Counter[str]:
    """Count the words of lines."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update((line.lower() if lowercase else line).split())
    return counts


def _repeated(counts: Mapping[str, int]) -> Iterator[str]:
    """Spell counted words out as texts, which is all that the trainer of the library takes."""
    for word in sorted(counts):
        for start in range(0, counts[word], 1000):
            yield " ".join([word] * min(1000, counts[word] - start))


def _seen(min_count: int) -> str:
    return f" that occur at least {min_count} times" if min_count > 1 else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
