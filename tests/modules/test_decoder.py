from __future__ import annotations

import pytest
import torch

from lvtrain.data.tokenizer import BOS, EOS, PAD
from lvtrain.kernels.cross_entropy import linear_cross_entropy
from lvtrain.modules.decoder import IGNORED, Decoder, chosen, masked, real_tokens, shifted
from lvtrain.modules.encoder import uniform_init

TOKENS = torch.tensor([[5, 6, 7, EOS], [8, EOS, PAD, PAD]])
LENGTHS = torch.tensor([4, 2])


def decoder(layers: int = 1, code: int = 3) -> Decoder:
    torch.manual_seed(0)
    made = Decoder(10, 4, 5, code, layers)
    uniform_init(made, 0.5)
    return made.double()


def test_the_decoder_reads_the_sentence_start_then_all_but_the_last_word() -> None:
    assert shifted(TOKENS).tolist() == [[BOS, 5, 6, 7], [BOS, 8, EOS, PAD]]


def test_real_tokens_are_words_and_the_sentence_end() -> None:
    assert real_tokens(TOKENS, LENGTHS).tolist() == [[True] * 4, [True, True, False, False]]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("code", [0, 3])
def test_word_by_word_decoding_gives_the_likelihood_of_teacher_forcing(
    layers: int, code: int
) -> None:
    model = decoder(layers, code)
    codes = torch.randn(2, code, dtype=torch.float64) if code else None
    total = model.cross_entropy(codes, TOKENS, LENGTHS, reduction="sum")
    memory, expected = model.start(codes, 2), torch.zeros(2, dtype=torch.float64)
    for t, words in enumerate(shifted(TOKENS).t()):
        logits, memory = model.step(words, memory)
        picked = -logits.log_softmax(1).gather(1, TOKENS[:, t : t + 1]).squeeze(1)
        expected += torch.where(t < LENGTHS, picked, 0.0)
    torch.testing.assert_close(total, expected.sum())


def test_the_code_is_one_more_input_at_every_step() -> None:
    """The hoisted product equals an LSTM over [embedding; code], as the paper has it."""
    model = decoder()
    codes = torch.randn(2, 3, dtype=torch.float64)
    layer = model.layers[0]
    lstm = torch.nn.LSTM(4 + 3, 5, batch_first=True).double()
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.cat([layer.w_ih, layer.w_code], dim=1))
        lstm.weight_hh_l0.copy_(layer.w_hh)
        lstm.bias_ih_l0.copy_(layer.bias)
        lstm.bias_hh_l0.zero_()
    inputs = shifted(TOKENS)
    embedded = torch.cat([model.embedding[inputs], codes[:, None].expand(2, 4, 3)], dim=2)
    expected, _ = lstm(embedded)
    got = model.states(codes, inputs, LENGTHS)
    real = real_tokens(TOKENS, LENGTHS)
    torch.testing.assert_close(got[real], expected[real])


def test_padding_does_not_change_the_loss() -> None:
    model = decoder()
    codes = torch.randn(2, 3, dtype=torch.float64)
    longer = torch.nn.functional.pad(TOKENS, (0, 3), value=PAD)
    torch.testing.assert_close(
        model.cross_entropy(codes, TOKENS, LENGTHS), model.cross_entropy(codes, longer, LENGTHS)
    )


def test_ignoring_padding_costs_what_leaving_it_out_does() -> None:
    model = decoder()
    y = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    found = []
    for choose in (chosen, masked):
        states, target = choose(y, TOKENS, LENGTHS)
        loss = linear_cross_entropy(states, model.output, target, ignore_index=IGNORED)
        found.append((loss, *torch.autograd.grad(loss, [y, model.output])))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)
