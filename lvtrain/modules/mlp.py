"""The multilayer perceptrons of the latent games: generators and critics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

Activation = Literal["relu", "leaky_relu", "tanh"]
Norm = Literal["none", "layer", "batch"]

# A class of module for each name; leaky_relu has the slope of Zhao et al. 2018.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "tanh": nn.Tanh,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d}


def mlp(
    sizes: Sequence[int], activation: Activation, norm: Norm = "none", first_norm: bool = True
) -> nn.Sequential:
    """Linear–norm–activation for every size but the last, which is linear.

    `sizes` runs from the input to the output; without `first_norm` the first layer is not
    normalised, as in the reference's critic.
    """
    layers: list[nn.Module] = []
    for i, (n, m) in enumerate(pairwise(sizes[:-1])):
        layers.append(nn.Linear(n, m))
        if norm != "none" and (i > 0 or first_norm):
            layers.append(NORMS[norm](m))
        layers.append(ACTIVATIONS[activation]())
    layers.append(nn.Linear(sizes[-2], sizes[-1]))
    return nn.Sequential(*layers)


@torch.no_grad()
def normal_init(module: nn.Module, std: float, norm_gain: bool = False) -> nn.Module:
    """Weights from N(0, std²), biases 0.

    `norm_gain` draws the gains of normalisation layers likewise: the reference does, by accident,
    which starts its generator at codes of norm 0.06 instead of 1.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear) or (norm_gain and isinstance(layer, nn.BatchNorm1d)):
            layer.weight.normal_(0, std)
            layer.bias.zero_()
    return module
