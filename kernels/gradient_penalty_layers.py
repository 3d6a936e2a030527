"""The layers of the gradient penalty's closed form: forward, pull, push and collect of each.

``collect`` takes w above the layer and gives the one below together with the gradients of the
layer's parameters; None stands for a w of zero, as it is below piecewise-linear layers.

The products are PyTorch's. What else a layer does over [B, C] is one of PyTorch's operations or one
of ``Pointwise``, each of which is a launch or two of Triton kernels on a GPU.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Needs = tuple[bool, bool]
"""Whether the gradients of a layer's weight and bias are asked for."""

Collected = tuple[Tensor | None, Tensor | None, Tensor | None]
"""w below a layer, dweight and dbias; None where it is zero or not asked for."""


def sloped(values: Tensor, a: Tensor, slope: float) -> Tensor:
    """φ'(a) · values, φ' 1 above zero and ``slope`` elsewhere."""
    return torch.ops.aten.leaky_relu_backward(values, a, slope, False)


class Pointwise:
    """The passes over [B, C] that take several of PyTorch's operations, made of these."""

    def penalise(self, v: Tensor, weight: float, target: float) -> tuple[Tensor, Tensor]:
        """λ mean (‖v_b‖ − target)², and its gradient towards v, which is 0 where v_b is."""
        wide = torch.float32 if v.dtype in (torch.float16, torch.bfloat16) else v.dtype
        norm = torch.linalg.vector_norm(v, dim=1, dtype=wide)
        excess = norm - target
        penalty = torch.dot(excess, excess) * (weight / len(v))
        # Of a norm of 0 it makes ∞.
        step = excess.div_(torch.threshold_(norm, 0.0, math.inf)).mul_(2 * weight / len(v))
        step = step.unsqueeze(1)
        return penalty, v * step if v.dtype == wide else (v * step).to(v.dtype)

    def sloped_sum(self, t: Tensor, a: Tensor, slope: float) -> Tensor:
        """Σ_b φ'(a_b) t_b."""
        return sloped(t, a, slope).sum(dim=0)

    def tanh_bend(self, v: Tensor, t: Tensor, value: Tensor, w: Tensor | None) -> Tensor:
        """(w − 2 v t φ) φ' for φ = tanh, φ' = 1 − φ²."""
        bend = torch.mul(v, t).mul_(value).mul_(-2)
        if w is not None:
            bend += w
        return torch.ops.aten.tanh_backward(bend, value)

    def normalise(
        self, a: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, dim: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """γ ẑ + β, ẑ and inv = 1 / √(var a + ε), mean and variance along ``dim``."""
        centred = a - a.mean(dim=dim, keepdim=True)
        inv = torch.rsqrt(centred.square().mean(dim=dim, keepdim=True) + eps)
        z = centred.mul_(inv)
        out = _scaled(z, gain)
        return out if bias is None else out + bias, z, inv

    def project(
        self, s: Tensor, z: Tensor, inv: Tensor, before: Tensor | None, after: Tensor | None,
        dim: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """P(before · s), with P of ``Normalise``, and after · P(before · s)."""
        s = _scaled(s, before)
        out = s - s.mean(dim=dim, keepdim=True)
        out -= z * (z * s).mean(dim=dim, keepdim=True)
        out *= inv
        return out, _scaled(out, after)

    def normalise_bend(
        self, v: Tensor, pulled: Tensor, t: Tensor, pushed: Tensor, w: Tensor | None, z: Tensor,
        inv: Tensor, gain: Tensor | None, dim: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """w below a normalisation, with P(γ v) and P(t), and v P(t) + w ẑ for ∂/∂γ."""
        bend = (t * pulled).mean(dim=dim, keepdim=True) * z
        bend += (z * t).mean(dim=dim, keepdim=True) * pulled
        bend += (z * _scaled(v, gain)).mean(dim=dim, keepdim=True) * pushed
        bend *= -inv
        of_gain = v * pushed
        if w is not None:
            bend += self.project(w, z, inv, gain, None, dim)[0]
            of_gain += w * z
        return bend, of_gain


def _scaled(a: Tensor, gain: Tensor | None) -> Tensor:
    return a if gain is None else a * gain


class Linear:
    """a ↦ W a + b."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def forward(self, a: Tensor) -> Tensor:
        self.a = a
        return F.linear(a, self.weight, self.bias)

    def pull(self, v: Tensor) -> Tensor:
        self.v = v
        return v @ self.weight

    def push(self, t: Tensor) -> Tensor:
        self.t = t
        return t @ self.weight.T

    def collect(self, w: Tensor | None, below: bool, needs: Needs) -> Collected:
        dw = self.v.T @ self.t if needs[0] else None
        if w is None:
            return None, dw, None
        if dw is not None:
            dw.addmm_(w.T, self.a)
        return w @ self.weight if below else None, dw, w.sum(dim=0) if needs[1] else None


class Score:
    """a ↦ w·φ(a) + b, the last layer with the piecewise-linear φ below it; its slope is 1 for none.

    The scores themselves are not needed, and of the tangent only its sum over the batch, so neither
    φ(a) nor φ'(a) t is made.
    """

    def __init__(self, weight: Tensor, slope: float, pointwise: Pointwise) -> None:
        self.weight, self.slope, self.pointwise = weight, slope, pointwise

    def pull(self, a: Tensor, seed: float) -> Tensor:
        """v below the layer, where it is ``seed`` above."""
        self.a, self.seed = a, seed
        v = (self.weight if seed == 1 else self.weight * seed).expand_as(a)
        return v if self.slope == 1 else sloped(v, a, self.slope)

    def collect(self, t: Tensor) -> Tensor:
        """dweight; dbias and the w below are zero."""
        linear = self.slope == 1
        dw = t.sum(dim=0) if linear else self.pointwise.sloped_sum(t, self.a, self.slope)
        return (dw if self.seed == 1 else dw * self.seed).unsqueeze(0)


class PiecewiseLinear:
    """ReLU and LeakyReLU: slope 1 above zero, a constant at and below it."""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def forward(self, a: Tensor) -> Tensor:
        self.a = a
        return F.leaky_relu(a, self.slope)

    def pull(self, v: Tensor) -> Tensor:
        return sloped(v, self.a, self.slope)

    def push(self, t: Tensor) -> Tensor:
        return sloped(t, self.a, self.slope)

    def collect(self, w: Tensor | None, below: bool, needs: Needs) -> Collected:
        return None if w is None else sloped(w, self.a, self.slope), None, None


class Tanh:
    """φ = tanh, φ' = 1 − φ², φ'' = −2 φ φ'."""

    def __init__(self, pointwise: Pointwise) -> None:
        self.pointwise = pointwise

    def forward(self, a: Tensor) -> Tensor:
        self.value = torch.tanh(a)
        return self.value

    def pull(self, v: Tensor) -> Tensor:
        self.v = v
        return torch.ops.aten.tanh_backward(v, self.value)

    def push(self, t: Tensor) -> Tensor:
        self.t = t
        return torch.ops.aten.tanh_backward(t, self.value)

    def collect(self, w: Tensor | None, below: bool, needs: Needs) -> Collected:
        return self.pointwise.tanh_bend(self.v, self.t, self.value, w), None, None


class Normalise:
    """LayerNorm (``dim`` 1) and BatchNorm with the batch's own statistics (``dim`` 0).

    ẑ = (z − mean z) / √(var z + ε), whose Jacobian is the symmetric
    P(s) = inv · (s − mean s − ẑ mean(ẑ s)), inv = 1 / √(var z + ε).
    """

    def __init__(
        self, gain: Tensor | None, bias: Tensor | None, eps: float, dim: int, pointwise: Pointwise
    ) -> None:
        self.gain, self.bias, self.eps, self.dim = gain, bias, eps, dim
        self.pointwise = pointwise

    def forward(self, a: Tensor) -> Tensor:
        out, self.z, self.inv = self.pointwise.normalise(
            a, self.gain, self.bias, self.eps, self.dim
        )
        return out

    def pull(self, v: Tensor) -> Tensor:
        self.v = v
        self.pulled, _ = self.pointwise.project(v, self.z, self.inv, self.gain, None, self.dim)
        return self.pulled

    def push(self, t: Tensor) -> Tensor:
        self.t = t
        self.pushed, out = self.pointwise.project(t, self.z, self.inv, None, self.gain, self.dim)
        return out

    def collect(self, w: Tensor | None, below: bool, needs: Needs) -> Collected:
        bend, of_gain = self.pointwise.normalise_bend(
            self.v, self.pulled, self.t, self.pushed, w, self.z, self.inv, self.gain, self.dim
        )
        dgain = of_gain.sum(dim=0) if needs[0] else None
        return bend, dgain, w.sum(dim=0) if w is not None and needs[1] else None


class Affine:
    """BatchNorm with its running statistics: an affine map of each feature."""

    def __init__(
        self, gain: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, eps: float
    ) -> None:
        self.gain, self.bias, self.mean = gain, bias, mean
        self.inv = torch.rsqrt(variance + eps)

    def forward(self, a: Tensor) -> Tensor:
        self.scale = (self.inv if self.gain is None else self.inv * self.gain).to(a.dtype)
        self.z = ((a - self.mean) * self.inv).to(a.dtype)
        if self.gain is None or self.bias is None:
            return self.z
        return torch.addcmul(self.bias, self.z, self.gain)

    def pull(self, v: Tensor) -> Tensor:
        self.v = v
        return v * self.scale

    def push(self, t: Tensor) -> Tensor:
        self.t = t
        return t * self.scale

    def collect(self, w: Tensor | None, below: bool, needs: Needs) -> Collected:
        dgain = (self.v * self.t).sum(dim=0) * self.inv if needs[0] else None
        if w is None:
            return None, dgain, None
        if dgain is not None:
            dgain += (w * self.z).sum(dim=0)
        return w * self.scale, dgain, w.sum(dim=0) if needs[1] else None


Layer = Linear | PiecewiseLinear | Tanh | Normalise | Affine

SLOTS = 4
"""Tensors of a layer: weight, bias, running mean and running variance."""


def build(
    kinds: list[str], constants: list[float], tensors: list[Tensor | None], pointwise: Pointwise
) -> tuple[list[Layer], Score]:
    """Make the layers of ``kinds``, each of one constant and ``SLOTS`` tensors."""
    layers: list[Layer] = []
    for k, (kind, constant) in enumerate(zip(kinds[:-1], constants[:-1], strict=True)):
        weight, bias, mean, variance = tensors[SLOTS * k : SLOTS * (k + 1)]
        if kind == "linear":
            assert weight is not None
            layers.append(Linear(weight, bias))
        elif kind == "slope":
            layers.append(PiecewiseLinear(constant))
        elif kind == "tanh":
            layers.append(Tanh(pointwise))
        elif kind == "affine":
            assert mean is not None and variance is not None
            layers.append(Affine(weight, bias, mean, variance, constant))
        else:
            dim = {"layer": 1, "batch": 0}[kind]
            layers.append(Normalise(weight, bias, constant, dim, pointwise))
    weight = tensors[-SLOTS]
    assert weight is not None
    return layers, Score(weight, constants[-1], pointwise)
