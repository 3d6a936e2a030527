"""Both networks of a translator: reading word by word is reading all at once, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lvtrain.data.tokenizer import EOS, PAD
from lvtrain.modules.decoder import shifted
from lvtrain.modules.transformer import Transformer
from lvtrain.randomness import Key
from lvtrain.systems.seq2seq import Seq2Seq, Seq2SeqConfig

SMALL = Seq2SeqConfig(embedding=8, hidden=12, layers=2, heads=2, dropout=0.4)
BOTH = pytest.mark.parametrize("architecture", ["rnnsearch", "transformer"])
SOURCE, TARGET = 11, 9


def made(architecture: str, **fields: object) -> Seq2Seq:
    torch.manual_seed(0)
    config = replace(SMALL, architecture=architecture, **fields)
    return Seq2Seq(config, SOURCE, TARGET).double()


def sentences(rows: int, longest: int, words: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Random sentences of random lengths, the first the longest, ended and padded."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (rows,), generator=generator)
    lengths[0] = longest
    tokens = torch.randint(4, words, (rows, longest), generator=generator)
    tokens[torch.arange(rows), lengths - 1] = EOS
    tokens[torch.arange(longest) >= lengths[:, None]] = PAD
    return tokens, lengths


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@BOTH
def test_step_by_step_gives_the_states_of_teacher_forcing(
    architecture: str, temperature: float
) -> None:
    model = made(architecture)
    memory = model.encode(*sentences(5, 6, SOURCE))
    targets, lengths = sentences(5, 4, TARGET, seed=2)
    inputs, state = shifted(targets), model.start(memory)
    logs = model.log_probs(memory, targets, lengths, temperature=temperature)
    found = []
    for t in range(inputs.shape[1]):
        logits, state = model.step(memory, state, inputs[:, t])
        found.append((logits / temperature).log_softmax(1).gather(1, targets[:, t : t + 1]))
    real = torch.arange(targets.shape[1]) < lengths[:, None]
    torch.testing.assert_close(torch.cat(found, 1) * real, logs)
    # Each word spends one unit of attention on the real words of its source.
    torch.testing.assert_close(state.coverage.sum(1), torch.full((5,), 4.0).double())
    assert (state.coverage[~memory.mask] == 0).all()


@BOTH
def test_a_row_is_the_same_alone_and_in_any_batch(architecture: str) -> None:
    model = made(architecture)
    (source, lengths), (targets, counts) = sentences(4, 6, SOURCE), sentences(4, 5, TARGET)
    together = model.log_probs(model.encode(source, lengths), targets, counts)
    for row in range(4):
        own = slice(row, row + 1)
        memory = model.encode(source[own, : lengths[row]], lengths[own])
        alone = model.log_probs(memory, targets[own, : counts[row]], counts[own])
        torch.testing.assert_close(alone[0], together[row, : counts[row]])
        assert (together[row, counts[row] :] == 0).all()


@BOTH
def test_selected_rows_go_on_as_they_would_have(architecture: str) -> None:
    model = made(architecture)
    memory, rows = model.encode(*sentences(4, 6, SOURCE)), torch.tensor([3, 1, 1, 0])
    words = [torch.tensor([4, 5, 6, 7]), torch.tensor([8, 7, 6, 5])]
    state = model.start(memory)
    _, state = model.step(memory, state, words[0])
    expected, after = model.step(memory, state, words[1])
    found, chosen = model.step(memory.select(rows), state.select(rows), words[1][rows])
    torch.testing.assert_close(found, expected[rows])
    torch.testing.assert_close(chosen.coverage, after.coverage[rows])


def test_rows_of_a_transformer_may_have_written_more_or_fewer_words() -> None:
    model = made("transformer")
    memory = model.encode(*sentences(2, 5, SOURCE))
    inputs = torch.tensor([[4, 5, 6], [7, 8, 4]])
    states = [model.start(memory)]
    for t in range(3):
        states.append(model.step(memory, states[-1], inputs[:, t])[1])
    # The first row with one word, the second with three: what is not the first's own is masked.
    ragged = replace(states[3], written=torch.tensor([[True, False, False], [True, True, True]]))
    found, _ = model.step(memory, ragged, torch.tensor([8, 8]))
    short, _ = model.step(memory, states[1], torch.tensor([8, 8]))
    full, _ = model.step(memory, states[3], torch.tensor([8, 8]))
    torch.testing.assert_close(found, torch.stack([short[0], full[1]]))


@BOTH
@pytest.mark.parametrize("tied", ["none", "output", "all"])
def test_tied_tables_are_one_parameter(architecture: str, tied: str) -> None:
    torch.manual_seed(0)
    model = Seq2Seq(replace(SMALL, architecture=architecture, tied=tied), TARGET, TARGET)
    tables = [model.network.source, model.network.target, model.network.output]
    assert len({id(table) for table in tables}) == {"none": 3, "output": 2, "all": 1}[tied]


@BOTH
def test_dropout_of_a_row_is_the_same_on_any_rank(architecture: str) -> None:
    model = made(architecture)
    (source, lengths), (targets, counts) = sentences(6, 5, SOURCE), sentences(6, 5, TARGET)
    key = Key(seed=0, step=3)
    whole = model.log_probs(model.encode(source, lengths, key), targets, counts, key)
    for rank in range(3):
        own = replace(key, rank=rank, world=3)
        memory = model.encode(source[rank::3], lengths[rank::3], own)
        found = model.log_probs(memory, targets[rank::3], counts[rank::3], own)
        torch.testing.assert_close(found, whole[rank::3])
    plain = model.log_probs(model.encode(source, lengths), targets, counts)
    assert not torch.allclose(plain, whole)


def test_what_was_not_yet_written_is_not_read() -> None:
    model = made("transformer")
    assert isinstance(model.network, Transformer)
    memory = model.encode(*sentences(1, 5, SOURCE))
    one = model.states(memory, torch.tensor([[4, 5, 6]]))
    other = model.states(memory, torch.tensor([[4, 5, 7]]))
    torch.testing.assert_close(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 2], other[:, 2])
