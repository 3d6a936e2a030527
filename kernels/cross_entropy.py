"""Cross-entropy of a linear layer over a large vocabulary, without the [N, V] logits in memory.

`cross_entropy_tiled.py` is the path in PyTorch, for a CPU; `cross_entropy_triton.py` a GPU's.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import dispatch
from .cross_entropy_tiled import LinearCrossEntropy, Options


def linear_cross_entropy(
    x: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    target: Int[Tensor, "N"],
    bias: Float[Tensor, "V"] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Give the cross-entropy of softmax(x Wᵀ + b) against ``target``.

    ℓ_n = (1 − s) (lse_n − logit_{n, target}) + s (lse_n − mean_v logit_{n, v}), s the smoothing
    (Szegedy et al. 2016). ``"mean"`` is over the targets that are not ``ignore_index``.
    Differentiable once. Under autocast the products are in its dtype, the loss in that of x and
    ``weight`` before.

    Raises:
        ValueError: shapes, dtypes or devices that do not agree, a target outside 0..V−1 that is
            not ``ignore_index``, a smoothing outside 0..1, or an unknown reduction. On a GPU a
            target out of range is not looked for: its row's loss and gradients are NaN.
    """
    dtype = torch.promote_types(x.dtype, weight.dtype)
    x, weight, bias = dispatch.autocast(x, weight, bias)
    _check(x, weight, target, bias, label_smoothing, ignore_index, reduction)
    if dispatch.choose("linear_cross_entropy", x.device, x.dtype).path == "triton":
        from . import cross_entropy_triton

        loss = cross_entropy_triton.linear_cross_entropy(
            x, weight, target, bias, label_smoothing, ignore_index, reduction
        )
    else:
        options = Options(label_smoothing, ignore_index, reduction)
        loss = LinearCrossEntropy.apply(x, weight, target, bias, options)
    return loss.to(dtype)


def _check(
    x: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    label_smoothing: float,
    ignore_index: int,
    reduction: str,
) -> None:
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(f"x: expected floats of shape [N, H], found {x.dtype} {list(x.shape)}")
    if weight.ndim != 2 or weight.shape[1] != x.shape[1] or len(weight) == 0:
        raise ValueError(
            f"weight: expected shape [V, {x.shape[1]}] with V ≥ 1, found {list(weight.shape)}"
        )
    if bias is not None and list(bias.shape) != [len(weight)]:
        raise ValueError(f"bias: expected shape [{len(weight)}], found {list(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and (tensor.dtype != x.dtype or tensor.device != x.device):
            raise ValueError(
                f"{name}: expected {x.dtype} on {x.device} like x, "
                f"found {tensor.dtype} on {tensor.device}"
            )
    if target.dtype != torch.int64 or list(target.shape) != [len(x)]:
        raise ValueError(
            f"target: expected int64 of shape [{len(x)}], found {target.dtype} {list(target.shape)}"
        )
    if target.device != x.device:
        raise ValueError(f"target: expected on {x.device} like x, found {target.device}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing: expected 0..1, found {label_smoothing}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: expected 'mean', 'sum' or 'none', found {reduction!r}")
    if target.device.type == "cpu":
        wrong = (target != ignore_index) & ((target < 0) | (target >= len(weight)))
        if wrong.any():
            raise ValueError(
                f"target: expected 0..{len(weight) - 1} or ignore_index {ignore_index}, "
                f"found {int(target[wrong][0])}"
            )
