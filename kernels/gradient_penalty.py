"""The gradient penalty of an MLP critic in closed form: no second-order autograd graph.

Let g = ∂ΣD/∂x and t₀ = ∂penalty/∂g. With t₀ held fixed, ∂penalty/∂θ = ∂/∂θ ⟨t₀, g⟩, and ⟨t₀, g⟩
is the derivative of ΣD in the direction t₀. So four sweeps over the layers, all first-order, do:

1. forward: a_k = f_k(a_{k−1});
2. pull: v_{k−1} = J_kᵀ v_k from v_L = 1, which ends in g = v₀ and gives t₀;
3. push: t_k = J_k t_{k−1}, the tangent;
4. collect: w_{k−1} = J_kᵀ w_k + ∂⟨v_k, J_k t_{k−1}⟩/∂a_{k−1} from w_L = 0, with each layer's
   parameter gradients ∂⟨v_k, J_k t_{k−1}⟩/∂θ_k + ∂⟨w_k, f_k⟩/∂θ_k on the way.

w stays empty below piecewise-linear layers, so a ReLU critic needs 8 GEMMs where double backward
takes 14. Being first-order, the result also works under gradient hooks and inside compilation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from . import dispatch, reference
from .gradient_penalty_layers import SLOTS, Pointwise, build


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Walk nested Sequentials in order; anything else is a leaf."""
    if (
        isinstance(module, nn.Sequential)
        and type(module).forward is nn.Sequential.forward
        and not _hooked(module)
    ):
        for child in module:
            yield from _leaves(child)
    else:
        yield module


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _Plan(NamedTuple):
    """A critic as the closed form takes it: layers by name, a constant and four tensors of each."""

    kinds: list[str]
    constants: list[float]
    tensors: list[Tensor | None]


def _plan(critic: nn.Module) -> _Plan | None:
    """Translate the critic layer by layer; None where it holds something without a closed form."""
    plan = _Plan([], [], [])
    for module in _leaves(critic):
        kind = type(module)
        if _hooked(module):
            return None
        layer: tuple[str, float]
        tensors: tuple[Tensor | None, ...] = (None,) * SLOTS
        if isinstance(module, nn.Linear) and kind is nn.Linear:
            layer, tensors = ("linear", 0.0), (module.weight, module.bias, None, None)
        elif isinstance(module, nn.ReLU) and kind is nn.ReLU:
            layer = "slope", 0.0
        elif isinstance(module, nn.LeakyReLU) and kind is nn.LeakyReLU:
            layer = "slope", module.negative_slope
        elif kind is nn.Tanh:
            layer = "tanh", 0.0
        elif isinstance(module, nn.LayerNorm) and kind is nn.LayerNorm:
            if len(module.normalized_shape) != 1:
                return None
            layer, tensors = ("layer", module.eps), (module.weight, module.bias, None, None)
        elif isinstance(module, nn.BatchNorm1d) and kind is nn.BatchNorm1d:
            own = module.training or module.running_mean is None
            layer = "batch" if own else "affine", module.eps
            statistics = (None, None) if own else (module.running_mean, module.running_var)
            tensors = (module.weight, module.bias, *statistics)
        elif kind is nn.Identity or (isinstance(module, nn.Dropout) and not module.training):
            continue
        else:
            return None
        plan.kinds.append(layer[0])
        plan.constants.append(layer[1])
        plan.tensors.extend(tensors)
    return _with_score(plan)


def _with_score(plan: _Plan) -> _Plan | None:
    """Take the last Linear(·, 1) and a piecewise-linear layer below it together."""
    weight = plan.tensors[-SLOTS] if plan.kinds and plan.kinds[-1] == "linear" else None
    if weight is None or len(weight) != 1:
        return None
    kinds, constants, tensors = plan
    slope, below = 1.0, len(kinds) - 1
    if below and kinds[below - 1] == "slope":
        below -= 1
        slope = constants[below]
    return _Plan(
        [*kinds[:below], "score"],
        [*constants[:below], slope],
        [*tensors[: SLOTS * below], *tensors[-SLOTS:]],
    )


def _closed_form(
    x: Tensor, plan: _Plan, needs: list[bool], weight: float, target: float, per_sample: bool
) -> list[Tensor | None]:
    """The penalty and the gradients of x and the plan's tensors, None where zero or not needed."""
    with _as_given(x):
        tensors = [
            t if t is None or t.dtype == x.dtype or k % SLOTS > 1 else t.to(x.dtype)
            for k, t in enumerate(plan.tensors)
        ]
        layers, score = build(plan.kinds, plan.constants, tensors, _pointwise(x))
        a = x
        for layer in layers:
            a = layer.forward(a)
        v = score.pull(a, 1.0 if per_sample else 1.0 / len(x))
        for layer in reversed(layers):
            v = layer.pull(v)
        penalty, t = score.pointwise.penalise(v, weight, target)
        gradients: list[Tensor | None] = [None] * len(plan.tensors)
        if not any(needs):
            return [penalty, None, *gradients]
        for layer in layers:
            t = layer.push(t)
        if needs[1 + SLOTS * len(layers)]:
            gradients[-SLOTS] = score.collect(t)
        w: Tensor | None = None
        for k, layer in reversed(list(enumerate(layers))):
            at = SLOTS * k
            below = k > 0 or needs[0]
            w, *gradients[at : at + 2] = layer.collect(w, below, (needs[at + 1], needs[at + 2]))
        found: list[Tensor | None] = [penalty]
        for g, need, like in zip((w, *gradients), needs, (x, *plan.tensors), strict=True):
            if not need or g is None or like is None:
                found.append(None)
            else:
                found.append(g if g.dtype == like.dtype else g.to(like.dtype))
        return found


def _as_given(x: Tensor) -> AbstractContextManager[Any]:
    """Compute on the device of x, in the types that tensors have."""
    if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        return nullcontext()  # the others take as long as a layer of a small critic
    held = ExitStack()
    held.enter_context(torch.autocast(x.device.type, enabled=False))
    held.enter_context(torch.cuda.device_of(x))
    return held


# Where torch does not say, as before 2.2, the graph may be wanted again.
_keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


class _GradientPenalty(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        plan: _Plan,
        needs: list[bool],
        weight: float,
        target: float,
        per_sample: bool,
        *tensors: Tensor,
    ) -> Tensor:
        penalty, *gradients = _closed_form(x, plan, needs, weight, target, per_sample)
        assert penalty is not None
        slots = (x, *plan.tensors)
        present = [k for k, t in enumerate(slots) if t is not None]
        ctx.zero = [
            slots[k].shape if needs[k] and gradients[k] is None else None  # type: ignore[union-attr]
            for k in present
        ]
        ctx.gradients = [gradients[k] for k in present]
        return penalty

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        gradients = ctx.gradients
        if gradients is None:
            raise RuntimeError("gradient_penalty: backward a second time needs retain_graph=True")
        if not _keeps_graph():
            # Nobody else holds them now, so a parameter takes its gradient as it is, uncopied.
            ctx.gradients = None
        present = [g for g in gradients if g is not None]
        if present and (grad.device.type != "cpu" or grad.item() != 1):
            scaled = iter(torch._foreach_mul(present, grad))
            gradients = [None if g is None else next(scaled) for g in gradients]
        dx, *rest = [
            g if shape is None else grad.new_zeros(shape)
            for g, shape in zip(gradients, ctx.zero, strict=True)
        ]
        return dx, None, None, None, None, None, *rest


@torch.library.custom_op(
    "lvtrain::gradient_penalty",
    mutates_args=(),
    schema="(Tensor x, str kinds, float[] constants, int[] slots, Tensor[] tensors, bool[] needs, "
    "float weight, float target, bool per_sample) -> Tensor[]",
)
def _compiled(
    x: Tensor,
    kinds: str,
    constants: list[float],
    slots: list[int],
    tensors: list[Tensor],
    needs: list[bool],
    weight: float,
    target: float,
    per_sample: bool,
) -> list[Tensor]:
    """The same for ``torch.compile``: the penalty and the gradients that are needed."""
    plan = _Plan(kinds.split(), constants, [None] * (SLOTS * len(constants)))
    for slot, tensor in zip(slots, tensors, strict=True):
        plan.tensors[slot] = tensor
    penalty, *gradients = _closed_form(x, plan, needs, weight, target, per_sample)
    assert penalty is not None
    found = [penalty]
    for g, need, t in zip(gradients, needs, (x, *plan.tensors), strict=True):
        if need and t is not None:
            found.append(torch.zeros_like(t) if g is None else g)
    return found


@_compiled.register_fake
def _(
    x: Tensor,
    kinds: str,
    constants: list[float],
    slots: list[int],
    tensors: list[Tensor],
    needs: list[bool],
    weight: float,
    target: float,
    per_sample: bool,
) -> list[Tensor]:
    penalty = x.new_empty((), dtype=torch.promote_types(x.dtype, torch.float32))
    given = [(x, needs[0]), *((t, needs[1 + s]) for s, t in zip(slots, tensors, strict=True))]
    return [penalty, *(torch.empty_like(t) for t, need in given if need)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    slots, needs = inputs[3], inputs[5]
    ctx.needs = [needs[0], *(needs[1 + slot] for slot in slots)]
    ctx.save_for_backward(*output[1:])


def _differentiate(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    _refuse_second_derivative()
    scaled = (g * grads[0] for g in ctx.saved_tensors)
    dx, *rest = [next(scaled) if need else None for need in ctx.needs]
    return dx, None, None, None, rest, *(None,) * 4


_compiled.register_autograd(_differentiate, setup_context=_keep)


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError("gradient_penalty can be differentiated once only")


def gradient_penalty(
    critic: nn.Module,
    x: Float[Tensor, "B C"],
    weight: float,
    target: float = 1.0,
    per_sample: bool = True,
) -> Float[Tensor, ""]:
    """Give λ mean_b (‖∂D(x_b)/∂x_b‖₂ − target)² (Gulrajani et al. 2017), λ = ``weight``.

    In closed form where ``critic`` is an ``nn.Sequential`` (nested ones too) of Linear, LayerNorm,
    BatchNorm1d, ReLU, LeakyReLU and Tanh ending in Linear(·, 1); by autograd's double backward for
    any other module. BatchNorm in training mode takes the batch's statistics, whose coupling of
    the rows is part of the gradient, and its running statistics are left as they are. Where a
    row's gradient is zero, so is its contribution to the parameters' gradients.

    Args:
        x: the points, such as the interpolates between real and generated codes.
        per_sample: False averages the scores over the batch before differentiating, as the 2018
            reference of ARAE does: the norms are 1/B of the rows' own, so a target of 1 pulls a
            row's slope to B.

    Raises:
        ValueError: ``x`` is not a matrix of floats with at least one row.
    """
    if x.ndim != 2 or len(x) == 0 or not x.is_floating_point():
        raise ValueError(
            f"x: expected floats of shape [B, C] with B ≥ 1, found {x.dtype} {list(x.shape)}"
        )
    plan = _plan(critic)
    if plan is None:
        buffers = {name: buffer.clone() for name, buffer in critic.named_buffers()}
        return reference.gradient_penalty(
            lambda points: functional_call(critic, buffers, (points,)),
            x,
            weight,
            target,
            per_sample,
        )
    _check_first(plan, x)
    (points,) = dispatch.autocast(x)
    assert points is not None
    kinds, constants, tensors = plan
    needs = [
        torch.is_grad_enabled() and t is not None and t.requires_grad for t in (points, *tensors)
    ]
    present = [t for t in tensors if t is not None]
    if torch.compiler.is_compiling():
        slots = [slot for slot, t in enumerate(tensors) if t is not None]
        described = (" ".join(kinds), constants, slots, present, needs)
        return _compiled(points, *described, weight, target, per_sample)[0]
    return _GradientPenalty.apply(points, plan, needs, weight, target, per_sample, *present)


def _pointwise(x: Tensor) -> Pointwise:
    if dispatch.choose("gradient_penalty", x.device, x.dtype).path == "triton":
        from .gradient_penalty_triton import Fused

        return Fused()
    return Pointwise()


def _check_first(plan: _Plan, x: Tensor) -> None:
    """Find a mismatch between the points and the critic before a layer's own error would."""
    first = next(k for k, kind in enumerate(plan.kinds) if kind in ("linear", "score"))
    weight = plan.tensors[SLOTS * first]
    assert weight is not None
    if first == 0 and weight.shape[1] != x.shape[1]:
        raise ValueError(f"x: expected shape [B, {weight.shape[1]}], found {list(x.shape)}")
    same = weight.dtype == x.dtype or torch.is_autocast_enabled(x.device.type)
    if not same or weight.device != x.device:
        raise ValueError(
            f"x: expected {weight.dtype} on {weight.device} like the critic, "
            f"found {x.dtype} on {x.device}"
        )
