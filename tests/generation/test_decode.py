from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from lvtrain.data.tokenizer import BOS, EOS, PAD
from lvtrain.errors import UserError
from lvtrain.generation.decode import DecodeConfig, decode
from lvtrain.modules.decoder import Decoder
from lvtrain.modules.encoder import uniform_init
from lvtrain.randomness import Key

KEY = Key(seed=0, step=0)


def decoder(vocab: int = 9, code: int = 3) -> Decoder:
    torch.manual_seed(1)
    made = Decoder(vocab, 4, 6, code)
    uniform_init(made, 1.5)
    return made


def naive(model: Decoder, code: torch.Tensor, most: int) -> list[int]:
    """Greedy decoding of one code, a word at a time, without batches."""
    memory, words, out = model.start(code[None], 1), torch.tensor([BOS]), []
    for _ in range(most):
        logits, memory = model.step(words, memory)
        logits[:, [PAD, BOS]] = float("-inf")
        words = logits.argmax(1)
        if words.item() == EOS:
            break
        out.append(int(words.item()))
    return out


def test_batches_whose_finished_rows_leave_decode_what_one_code_alone_does() -> None:
    model, codes = decoder(), torch.randn(40, 3) * 2
    with torch.no_grad():
        expected = [naive(model, code, 12) for code in codes]
    assert len({len(s) for s in expected}) > 2, "sentences end at different times"
    for size in (1, 7, 64):
        assert decode(model, codes, DecodeConfig(max_words=12, batch_size=size), KEY) == expected


def test_no_sentence_is_longer_than_asked_for_or_holds_a_special() -> None:
    for config in (DecodeConfig(max_words=5), DecodeConfig(max_words=5, temperature=1.0)):
        for sentence in decode(decoder(), torch.randn(50, 3), config, KEY):
            assert len(sentence) <= 5 and not {PAD, BOS, EOS} & set(sentence)


def test_sampled_words_have_the_probabilities_of_the_softmax() -> None:
    model, code = decoder(), torch.randn(1, 3)
    with torch.no_grad():
        logits, _ = model.step(torch.tensor([BOS]), model.start(code, 1))
    logits[:, [PAD, BOS]] = float("-inf")
    expected = (logits[0] / 0.7).softmax(0)
    config = DecodeConfig(max_words=1, temperature=0.7, batch_size=20_000)
    first = [s[0] if s else EOS for s in decode(model, code.expand(20_000, 3), config, KEY)]
    found = torch.bincount(torch.tensor(first), minlength=9) / len(first)
    torch.testing.assert_close(found, expected, atol=0.015, rtol=0)


def test_top_1_is_greedy() -> None:
    model, codes = decoder(), torch.randn(20, 3)
    greedy = decode(model, codes, DecodeConfig(max_words=8), KEY)
    assert decode(model, codes, DecodeConfig(max_words=8, temperature=1.0, top_k=1), KEY) == greedy


def test_sampling_is_a_pure_function_of_the_key() -> None:
    model, codes, config = decoder(), torch.randn(30, 3), DecodeConfig(temperature=1.0)
    assert decode(model, codes, config, KEY) == decode(model, codes, config, KEY)
    assert decode(model, codes, config, KEY) != decode(model, codes, config, KEY.fold("other"))


def test_the_lowest_temperatures_are_greedy() -> None:
    model, codes = decoder(), torch.randn(20, 3)
    greedy = decode(model, codes, DecodeConfig(max_words=8), KEY)
    for temperature in (1e-6, 1e-30, 5e-324):
        cold = DecodeConfig(max_words=8, temperature=temperature)
        assert decode(model, codes, cold, KEY) == greedy


def test_code_noise_is_gaussian_noise_on_the_codes() -> None:
    model, codes = decoder(), torch.randn(40, 3)
    plain = DecodeConfig(max_words=8)
    noisy = DecodeConfig(max_words=8, code_noise=1.5)
    expected = decode(model, codes + 1.5 * KEY.fold("code noise").normal(40, 3), plain, KEY)
    assert decode(model, codes, noisy, KEY) == expected
    assert expected != decode(model, codes, plain, KEY)
    assert decode(model, codes, noisy, KEY.fold("other")) != expected


def test_code_noise_does_not_depend_on_the_batch_size() -> None:
    model, codes = decoder(), torch.randn(40, 3)
    whole, *parts = (
        decode(model, codes, DecodeConfig(max_words=8, code_noise=1.0, batch_size=size), KEY)
        for size in (64, 7, 1)
    )
    assert parts == [whole, whole]


def test_code_noise_keeps_the_type_of_the_codes() -> None:
    model, codes = decoder().double(), torch.randn(5, 3).double()
    assert len(decode(model, codes, DecodeConfig(max_words=4, code_noise=0.5), KEY)) == 5


def test_a_decoder_without_codes_ignores_code_noise() -> None:
    model, codes = decoder(code=0), torch.empty(30, 0)
    plain = DecodeConfig(max_words=8, temperature=1.0)
    noisy = DecodeConfig(max_words=8, temperature=1.0, code_noise=0.6)
    assert decode(model, codes, noisy, KEY) == decode(model, codes, plain, KEY)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("max_words", 0), ("top_k", -1), ("batch_size", 0),
        ("temperature", -1.0), ("temperature", math.nan), ("temperature", math.inf),
        ("code_noise", -0.1), ("code_noise", math.nan), ("code_noise", math.inf),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_named(flag: str, value: float) -> None:
    settings: dict[str, Any] = {flag: value}
    with pytest.raises(UserError, match=f"--{flag.replace('_', '-')}: expected .*found {value}"):
        DecodeConfig(**settings)
