"""Roll-outs in one pass are those of a loop that reads every prefix again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lvtrain.data.tokenizer import BOS, EOS, PAD
from lvtrain.objectives import rollouts
from lvtrain.objectives.rollouts import real_lengths, sample
from lvtrain.randomness import Key
from tests.objectives.small_translator import SmallTranslator

VOCABULARY, ROWS, WIDTH, COUNT = 9, 5, 6, 3
KEY = Key(seed=3, step=0)


def sources(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(4, VOCABULARY, (rows, 4), generator=generator)
    tokens[:, -1] = EOS
    return tokens, torch.full((rows,), 4)


@pytest.fixture(params=[1.0, 3.0], ids=["unsure", "sure"])
def translator(request: pytest.FixtureRequest) -> SmallTranslator:
    torch.manual_seed(0)
    return SmallTranslator(VOCABULARY, init=request.param)


@torch.no_grad()
def one_by_one(
    translator: SmallTranslator,
    source: Tensor,
    prefix: list[int],
    draws: Tensor,
    temperature: float = 1.0,
) -> list[int]:
    """Complete a prefix of one source by reading all of it again."""
    memory = translator.encode(source[None], torch.tensor([len(source)]))
    state, words, last = translator.start(memory), list(prefix), BOS
    for word in prefix:
        _, state = translator.step(memory, state, torch.tensor([last]))
        last = word
    for time in range(len(prefix), WIDTH):
        logits, state = translator.step(memory, state, torch.tensor([last]))
        logits[:, (PAD, BOS)] = float("-inf")
        total = (logits / temperature).softmax(1).cumsum(1)[0]
        last = int(torch.searchsorted(total, draws[time], right=True))
        words.append(last)
        if last == EOS:
            break
    return words


@pytest.mark.parametrize("prefixes", [range(0, WIDTH), range(1, WIDTH), range(0, 1), range(0)],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize(
    ("most", "temperature"), [(8192, 1.0), (20, 0.5)], ids=["together", "in parts, cooler"]
)
def test_every_sampler_draws_what_it_would_draw_alone(
    prefixes: range,
    most: int,
    temperature: float,
    translator: SmallTranslator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollouts, "MOST_SAMPLERS", most)
    tokens, lengths = sources()
    memory = translator.encode(tokens, lengths)
    found = sample(translator, memory, ROWS, WIDTH, prefixes, COUNT, KEY, temperature=temperature)
    draws = KEY.fold("sample").uniform(ROWS, 1, WIDTH)
    others = KEY.fold("roll-outs").uniform(ROWS, COUNT * len(prefixes), WIDTH)
    assert found.completions.shape == (ROWS, len(prefixes), COUNT, WIDTH)
    for row in range(ROWS):
        expected = one_by_one(translator, tokens[row], [], draws[row, 0], temperature)
        own = found.tokens[row].tolist()
        assert own == expected + [PAD] * (WIDTH - len(expected))
        for p, prefix in enumerate(prefixes):
            for n in range(COUNT):
                completion = found.completions[row, p, n].tolist()
                if prefix >= len(expected):
                    assert completion == [PAD] * WIDTH
                    continue
                alone = one_by_one(
                    translator,
                    tokens[row],
                    expected[:prefix],
                    others[row, COUNT * p + n],
                    temperature,
                )
                assert completion == alone + [PAD] * (WIDTH - len(alone))


def test_rows_draw_the_same_whatever_the_ranks(translator: SmallTranslator) -> None:
    tokens, lengths = sources(6)
    memory = translator.encode(tokens, lengths)
    whole = sample(translator, memory, 6, WIDTH, range(WIDTH), COUNT, KEY)
    for rank in range(2):
        own = Key(seed=3, step=0, rank=rank, world=2)
        rows = torch.arange(rank, 6, 2)
        part = sample(translator, memory.select(rows), 3, WIDTH, range(WIDTH), COUNT, own)
        assert torch.equal(part.tokens, whole.tokens[rank::2])
        assert torch.equal(part.completions, whole.completions[rank::2])


def test_samples_have_the_translators_probabilities(translator: SmallTranslator) -> None:
    rows = 20_000
    tokens, lengths = (t[:1].expand(rows, *t.shape[1:]) for t in sources())
    memory = translator.encode(tokens, lengths)
    found = sample(translator, memory, rows, 2, range(1, 2), 2, KEY)
    different, counts = found.tokens.unique(dim=0, return_counts=True)
    with torch.no_grad():
        nll = translator.nll(
            memory.select(torch.zeros(len(different), dtype=torch.long)), different
        )
    expected = (-nll.sum(1)).exp()
    assert expected.sum() > 0.999
    assert ((counts / rows) - expected).abs().max() < 4 * (0.25 / rows) ** 0.5
    # A completion of y₁ is distributed as a second word after it is.
    going = found.tokens[:, 0] != EOS
    pairs = found.completions[going, 0, 1]
    first, second = (pairs[:, 1] == found.tokens[going, 1]).float(), pairs[:, 0]
    assert torch.equal(second, found.tokens[going, 0])
    assert 0.0 < first.mean() < 1.0


def test_lengths_count_the_end() -> None:
    tokens = torch.tensor([[5, 6, EOS, PAD], [5, 6, 7, 8], [EOS, PAD, PAD, PAD]])
    assert real_lengths(tokens).tolist() == [3, 4, 1]
