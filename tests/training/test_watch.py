from __future__ import annotations

import pytest
import torch

from lvtrain.errors import NonFiniteLoss
from lvtrain.randomness import Key
from lvtrain.training.watch import Watch


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_figure_that_is_read_at_once_is_refused_at_once(value: float) -> None:
    with pytest.raises(NonFiniteLoss, match=f"critic: loss is {value}"):
        Watch().note("critic", "loss", torch.tensor(value), Key(seed=0, step=3))


def test_a_deferred_watch_tells_the_first_figure_and_its_step() -> None:
    watch = Watch(deferred=True)
    for step, value in enumerate([1.0, torch.inf, torch.nan]):
        watch.note("model", "loss", torch.tensor(value), Key(seed=0, step=step))
        watch.note("critic", "norm", torch.tensor(-value), Key(seed=0, step=step))
    assert watch.refused == 1
    with pytest.raises(NonFiniteLoss, match="model: loss is inf") as caught:
        watch.check()
    assert caught.value.step == 1


def test_a_deferred_watch_of_finite_figures_lets_everything_pass() -> None:
    watch = Watch(deferred=True)
    watch.note("model", "loss", torch.tensor(1e30), Key(seed=0, step=0))
    watch.check()
    assert watch.refused == 0
