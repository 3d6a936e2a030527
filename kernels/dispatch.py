"""Which implementation an operation runs on which device, and why.

``"triton"`` is the path of the kernels ``*_triton.py``, ``"torch"`` the one in PyTorch. The first
needs a GPU, or Triton's interpreter where a test forces it on a CPU.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeGuard

import torch
from torch import Tensor

OPERATIONS = ("lstm", "reparameterize", "gradient_penalty", "linear_cross_entropy", "noise")

Path = Literal["torch", "triton"]

VARIABLE = "LVTRAIN_KERNELS"
"""Environment variable that holds ``torch`` where Triton's kernels are not wanted."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What the Triton kernels compute in; float64 runs in PyTorch."""

_ON_CPU = {
    "lstm": "packed rows, one fused sweep",
    "reparameterize": "noise recomputed from the seed in backward",
    "gradient_penalty": "closed form, first-order backward",
    "linear_cross_entropy": "chunked logits, gradients made in forward",
    "noise": "the generator of torch",
}
_ON_GPU = {
    "lstm": "persistent sweep, W_hh on chip; double backward by sweeps",
    "reparameterize": "sample and KL in one pass, noise recomputed from the seed in backward",
    "gradient_penalty": "closed form; cuBLAS products, row work fused",
    "linear_cross_entropy": "chunked logits, softmax and gradient in one pass over a chunk",
    "noise": "Philox from a seed that stays on the device",
}

_forced: Path | None = None


class Choice(NamedTuple):
    """The implementation an operation runs, and the reason in words."""

    path: Path
    reason: str


def choose(op: str, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Choice:
    """Name the implementation that ``op`` runs on ``device`` in ``dtype``.

    Raises:
        ValueError: ``op`` is not one of ``OPERATIONS``.
    """
    if op not in OPERATIONS:
        raise ValueError(f"op: expected one of {', '.join(OPERATIONS)}, found {op!r}")
    kind = torch.device(device).type
    if _forced is not None:
        return Choice(_forced, "forced")
    if kind == "cpu":
        return Choice("torch", _ON_CPU[op])
    if kind != "cuda":
        return Choice("torch", f"no kernel of its own for {kind}: PyTorch's operations")
    if os.environ.get(VARIABLE) == "torch":
        return Choice("torch", f"{VARIABLE}=torch")
    if importlib.util.find_spec("triton") is None:
        return Choice("torch", "Triton is not installed")
    if dtype not in DTYPES:
        return Choice("torch", f"{str(dtype).removeprefix('torch.')} runs in PyTorch")
    return Choice("triton", _ON_GPU[op])


@contextmanager
def forced(path: Path) -> Iterator[None]:
    """Run every operation by one path inside, whatever the device: for tests and comparisons."""
    global _forced
    before, _forced = _forced, path
    try:
        yield
    finally:
        _forced = before


def autocast(*tensors: Tensor | None, single: bool = False) -> tuple[Any, ...]:
    """Cast floats, but float64, to autocast's dtype where it is on for their device; to float32
    instead where they are wanted ``single``."""
    kind = next(t.device.type for t in tensors if t is not None)
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.float32 if single else torch.get_autocast_dtype(kind)
    return tuple(t.to(dtype) if _eligible(t) else t for t in tensors)


def as_given(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let a backward compute in the types that its tensors have, even where whoever differentiates
    does so under autocast, which would round the products of what was computed in single."""

    @functools.wraps(backward)
    def run(ctx: Any, *grads: Tensor | None) -> Any:
        kind = next((g.device.type for g in grads if g is not None), None)
        if kind is None or not torch.is_autocast_enabled(kind):
            return backward(ctx, *grads)
        with torch.autocast(kind, enabled=False):
            return backward(ctx, *grads)

    return run


def _eligible(tensor: Tensor | None) -> TypeGuard[Tensor]:
    return tensor is not None and tensor.is_floating_point() and tensor.dtype != torch.float64


def table() -> list[dict[str, str]]:
    """List op, device, path and reason for every operation and device type at hand."""
    kinds = ["cpu"]
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None:
        kinds.append(accelerator.type)
    rows = []
    for op in OPERATIONS:
        for kind in kinds:
            path, reason = choose(op, kind)
            rows.append({"op": op, "device": kind, "path": path, "reason": reason})
    return rows
