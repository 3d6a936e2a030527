from __future__ import annotations

import pytest
import torch

from lvtrain.modules.decoder import Decoder
from lvtrain.modules.dropout import dropped
from lvtrain.modules.encoder import Encoder, uniform_init
from lvtrain.randomness import Key

KEY = Key(seed=3, step=5)


def test_nothing_is_dropped_without_a_key_or_a_rate() -> None:
    x = torch.randn(2, 3, 4)
    assert dropped(x, None, 0.5) is x
    assert dropped(x, KEY, 0.0) is x


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_a_share_is_dropped_and_the_rest_scaled_to_the_same_mean(rate: float) -> None:
    y = dropped(torch.ones(50, 20, 100), KEY, rate)
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - rate)))
    assert abs((y == 0).float().mean() - rate) < 0.01


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("world", [2, 3])
def test_a_mask_belongs_to_the_row(world: int, locked: bool) -> None:
    x = torch.ones(4 * world, 5, 6)
    whole = dropped(x, KEY, 0.4, locked)
    for rank in range(world):
        own = dropped(x[rank::world], Key(seed=3, step=5, rank=rank, world=world), 0.4, locked)
        assert torch.equal(own, whole[rank::world])


def test_locked_dropout_drops_the_same_features_at_every_step() -> None:
    y = dropped(torch.ones(4, 5, 60), KEY, 0.5, locked=True)
    assert torch.equal(y, y[:, :1].expand_as(y))
    assert not torch.equal(y[0], y[1])


def test_every_layer_and_the_output_have_a_mask_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    masks: list[torch.Tensor] = []

    def note(x: torch.Tensor, key: Key, rate: float) -> torch.Tensor:
        masks.append(key.uniform(2, 3))
        return x

    for module in ("encoder", "decoder"):
        monkeypatch.setattr(f"lvtrain.modules.{module}.dropped", note)
    words, lengths = torch.tensor([[5, 6, 7], [8, 9, 3]]), torch.tensor([3, 3])
    encoder, decoder = Encoder(10, 4, 5, layers=3), Decoder(10, 4, 5, 0, layers=3)
    uniform_init(encoder, 0.1)(words, lengths, KEY, 0.5)
    assert len(masks) == 3
    uniform_init(decoder, 0.1).states(None, words, lengths, KEY.fold("decoder"), 0.5)  # type: ignore[operator]
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == len(masks) == 7
