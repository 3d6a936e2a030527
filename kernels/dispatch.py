"""Which implementation an operation runs on which device, and why.

``"torch"`` is the path of this package in PyTorch. A faster path for a device is an entry in
``_PATHS`` and, in the operation, another autograd function to apply where ``choose`` names it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

OPERATIONS = ("lstm", "reparameterize", "gradient_penalty", "linear_cross_entropy")


class Choice(NamedTuple):
    """The implementation an operation runs, and the reason in words."""

    path: str
    reason: str


_PATHS: dict[tuple[str, str], Choice] = {
    ("lstm", "cpu"): Choice("torch", "packed rows, one fused sweep"),
    ("reparameterize", "cpu"): Choice("torch", "noise recomputed from the seed in backward"),
    ("gradient_penalty", "cpu"): Choice("torch", "closed form, first-order backward"),
    ("linear_cross_entropy", "cpu"): Choice("torch", "chunked logits, gradients made in forward"),
}


def choose(op: str, device: torch.device | str) -> Choice:
    """Name the implementation that ``op`` runs on ``device``.

    Raises:
        ValueError: ``op`` is not one of ``OPERATIONS``.
    """
    if op not in OPERATIONS:
        raise ValueError(f"op: expected one of {', '.join(OPERATIONS)}, found {op!r}")
    kind = torch.device(device).type
    fallback = Choice("torch", f"no kernel of its own for {kind} yet: PyTorch's operations")
    return _PATHS.get((op, kind), fallback)


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
