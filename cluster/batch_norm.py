"""Batch normalisation whose batch is that of all ranks, so that it is what one process computes.

y = (x − E x) / √(Var x + ε) · γ + β with the mean and variance of the rows of the whole group
(Ioffe & Szegedy 2015, arXiv 1502.03167). torch's own synchronised one runs on GPUs alone.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


class GroupBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the rows of every rank; its parameters have the same names."""

    def forward(self, input: Float[Tensor, "B F"]) -> Float[Tensor, "B F"]:
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        # One message a layer. In float64, where E x² − (E x)² loses nothing that float32 could see.
        x = input.double()
        rows = torch.full((1,), len(x), dtype=x.dtype, device=x.device)
        sums = _Sum.apply(torch.cat([x.sum(dim=0), x.square().sum(dim=0), rows]))
        first, second, count = sums.split([x.shape[1], x.shape[1], 1])
        mean = first / count
        variance = (second / count - mean.square()).clamp_min(0)
        with torch.no_grad():
            unbiased = variance * count / (count - 1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked += 1
        y = (x - mean) * torch.rsqrt(variance + self.eps)
        if self.affine:
            y = y * self.weight + self.bias
        return y.to(input.dtype)


class _Sum(torch.autograd.Function):
    """The sum over ranks; what every rank's loss has to say about it is summed on the way back."""

    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def over_the_group(module: nn.Module) -> None:
    """Have the batch normalisations inside `module` take the rows of every rank for their batch."""
    for part in module.modules():
        if type(part) is nn.BatchNorm1d:
            part.__class__ = GroupBatchNorm
