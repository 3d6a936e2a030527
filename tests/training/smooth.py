"""A system whose training keeps a rounding a rounding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lvtrain.presets import preset


def smooth() -> Any:
    """ARAE for runs whose sums are taken in another order, where a rounding stays a rounding: no
    unit of ReLU is turned on or off by it, and no Adam divides by it what is nothing else, as the
    gradients of biases before a normalisation are, and of the critic's last."""
    model, _ = preset("arae", "tiny")

    def sgd(part: Any, lr: float, **changes: Any) -> Any:
        return replace(part, optimizer=replace(part.optimizer, kind="sgd", lr=lr), **changes)

    return replace(
        model,
        autoencoder=sgd(model.autoencoder, 0.3),
        critic=sgd(model.critic, 0.005, activation="tanh"),
        generator=sgd(model.generator, 0.005, activation="tanh"),
    )
