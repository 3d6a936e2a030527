from __future__ import annotations

import pytest
import torch

from lvtrain.modules.decoder import Decoder
from lvtrain.modules.encoder import Encoder, dropped, uniform_init
from lvtrain.randomness import Key

KEY = Key(seed=3, step=5)


def test_nothing_is_dropped_without_a_key_or_a_rate() -> None:
    x = torch.randn(2, 3, 4)
    assert dropped(x, None, 0.5, 0) is x
    assert dropped(x, KEY, 0.0, 0) is x


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_a_share_is_dropped_and_the_rest_scaled_to_the_same_mean(rate: float) -> None:
    y = dropped(torch.ones(50, 20, 100), KEY, rate, 0)
    torch.testing.assert_close(y[y != 0], torch.full_like(y[y != 0], 1 / (1 - rate)))
    assert abs((y == 0).float().mean() - rate) < 0.01


@pytest.mark.parametrize("world", [2, 3])
def test_a_mask_belongs_to_the_row_and_position(world: int) -> None:
    x = torch.ones(4 * world, 5, 6)
    whole = dropped(x, KEY, 0.4, 1)
    for rank in range(world):
        own = dropped(x[rank::world], Key(seed=3, step=5, rank=rank, world=world), 0.4, 1)
        assert torch.equal(own, whole[rank::world])


def test_every_place_has_a_mask_of_its_own() -> None:
    masks = [dropped(torch.ones(4, 5, 6), KEY, 0.5, place) for place in range(3)]
    assert not any(torch.equal(masks[a], masks[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def test_every_layer_and_the_output_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []

    def note(x: torch.Tensor, key: Key | None, rate: float, place: int) -> torch.Tensor:
        places.append(place)
        return x

    for module in ("encoder", "decoder"):
        monkeypatch.setattr(f"lvtrain.modules.{module}.dropped", note)
    words, lengths = torch.tensor([[5, 6, 7], [8, 9, 3]]), torch.tensor([3, 3])
    encoder, decoder = Encoder(10, 4, 5, layers=3), Decoder(10, 4, 5, 0, layers=3)
    uniform_init(encoder, 0.1)(words, lengths, KEY, 0.5)
    assert places == [0, 1, 2]
    uniform_init(decoder, 0.1).states(None, words, lengths, KEY, 0.5)  # type: ignore[operator]
    assert places == [0, 1, 2, 0, 1, 2, 3]
