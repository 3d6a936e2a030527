"""The LSTM on a GPU: large products by cuBLAS around the sweeps of ``lstm_sweeps_triton``.

    p = x W_ihᵀ + b                                    one product for all steps
    forward sweep                                      y, h, c; gates and cells kept
    backward sweep                                     δ = ∂/∂p of every step
    dx = δ W_ih,  dW_ih = δᵀ x,  dW_hh = δᵀ h₋₁        one product each

The backward pass can itself be differentiated. For cotangents v of its results,
⟨v, J(θ)ᵀ u⟩ = ⟨J(θ) v, u⟩: the gradient towards u is the tangent J v, a sweep forward in time, and
the gradient towards θ is that sweep's own reverse, in which δ takes the place of u:

    ṗ = v_x W_ihᵀ + x V_ihᵀ + v_b + h₋₁ V_hhᵀ          before the tangent sweep
    tangent sweep                                      ḣ, ċ
    second-order sweep, with δ V_hh                    η = the adjoint of p
    dx = η W_ih + δ V_ih,  dW_ih = ηᵀ x + δᵀ v_x,  dW_hh = ηᵀ h₋₁ + δᵀ ḣ₋₁

Buffers take the order of x in memory, time first or batch first, so that neither x nor its gradient
is copied into another layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from . import lstm_sweeps_triton as sweeps
from .compiled import Variant
from .dispatch import as_given
from .lstm_plan import Chip, Direction, Plan, chip_of, plan

Grid = tuple[int, int]


def lstm(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer over checked arguments."""
    tensors = (x, w_ih, w_hh, bias, h0, c0)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    return _lstm(x, w_ih, w_hh, bias, h0, c0, lengths, keep)[:3]


def embedding_lstm(
    tokens: Tensor,
    table: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    sparse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer over the words of checked arguments."""
    if lengths is not None:
        # What stands beyond a row's length may be no word at all.
        clock = torch.arange(tokens.shape[1], device=tokens.device)
        tokens = tokens.where(clock < lengths.unsqueeze(1), 0)
    x = F.embedding(tokens.T.contiguous(), table, sparse=sparse).transpose(0, 1)
    return lstm(x.to(w_ih.dtype), w_ih, w_hh, bias, h0, c0, lengths)


def _time_first(x: Tensor) -> bool:
    return x.transpose(0, 1).is_contiguous() and not x.is_contiguous()


def _buffer(x: Tensor, width: int, dtype: torch.dtype, fill: float | None = 0.0) -> Tensor:
    """[B, T, width] in the order of x, each row of it aligned to 16 numbers."""
    batch, time, _ = x.shape
    aligned = -(-width // 16) * 16
    outer = (time, batch) if _time_first(x) else (batch, time)
    make = torch.zeros if fill == 0.0 else torch.empty
    buffer = make((*outer, aligned), dtype=dtype, device=x.device)[..., :width]
    return buffer.transpose(0, 1) if _time_first(x) else buffer


def _flat(values: Tensor, like: Tensor) -> Tensor:
    """[B, T, N] as [B·T, N] in the order of ``like``."""
    return (values.transpose(0, 1) if _time_first(like) else values).flatten(0, 1)


def _unflat(values: Tensor, like: Tensor) -> Tensor:
    batch, time, _ = like.shape
    if _time_first(like):
        return values.unflatten(0, (time, batch)).transpose(0, 1)
    return values.unflatten(0, (batch, time))


def _state(state: Tensor | None, x: Tensor, hidden: int) -> Tensor:
    """A state [B, H] whose rows lie whole in memory, zeros where none is given."""
    return x.new_zeros(len(x), hidden) if state is None else state.contiguous()


def _precision(dtype: torch.dtype) -> str:
    """How a product of float32 is taken: as torch is told to take its own."""
    if dtype != torch.float32:
        return "ieee"
    settings = torch.backends.cuda.matmul
    if hasattr(settings, "fp32_precision"):
        return "tf32" if settings.fp32_precision == "tf32" else "ieee"
    return "tf32" if settings.allow_tf32 else "ieee"


def _sweep(
    kernel: Any,
    direction: Direction,
    w_hh: Tensor,
    batch: int,
    time: int,
    pointers: Sequence[Tensor | None],
    strides: Sequence[int],
    **flags: Any,
) -> None:
    """Launch a sweep: once for as many rows as can run at a time, or once for every step."""
    hidden = w_hh.shape[1]
    cut = plan(direction, hidden, batch, w_hh.dtype, chip_of(w_hh))
    options = _options(cut, w_hh.dtype) | flags
    columns = triton.cdiv(hidden, cut.BH)
    # A launch goes to the current device, which need not be the tensors'.
    with torch.cuda.device_of(w_hh):
        if cut.resident:
            for first in range(0, batch, cut.rows):
                rows = min(cut.rows, batch - first)
                tiles = triton.cdiv(rows, cut.BB)
                counters = w_hh.new_zeros(tiles, dtype=torch.int32)
                part = [t if t is None or t is w_hh else t[first:] for t in pointers]
                kernel[columns, tiles](
                    *part, counters, 0, time, time, rows, hidden, *strides, **options,
                    launch_cooperative_grid=True,
                )  # fmt: skip
            return
        steps = range(time) if direction == "forward" else range(time - 1, -1, -1)
        for t in steps:
            kernel[columns, triton.cdiv(batch, cut.BB)](
                *pointers, None, t, t + 1, time, batch, hidden, *strides, **options
            )


def _options(cut: Plan, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "RESIDENT": cut.resident, "PRECISION": _precision(dtype), "BB": cut.BB, "BH": cut.BH,
        "BK": cut.BK, "TILES": cut.tiles, "GROUP": cut.group, "num_warps": cut.warps,
        "num_stages": cut.stages,
    }  # fmt: skip


@torch.library.custom_op("lvtrain::lstm", mutates_args=())
def _lstm(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, h, c, and what backward needs: gates [B, T, 4H] and cells [B, T, H]."""
    y, h, c, gates, cell = _outputs(x, w_hh, keep)
    flat = _flat(x, x)
    p = torch.addmm(bias, flat, w_ih.T) if bias.ndim == 1 else flat @ w_ih.T
    p = _unflat(p, x)
    batch, time, _ = x.shape
    hidden = w_hh.shape[1]
    first, start = _state(h0, x, hidden), _state(c0, x, hidden)
    rows = bias if bias.ndim == 2 else None
    # Without a graph the cells of one step carry the state.
    cells = cell if keep else c.new_empty(batch, 1, hidden, dtype=torch.float32).expand_as(y)
    _sweep(
        sweeps.forward, "forward", w_hh, batch, time,
        [p, rows, w_hh, first, start, lengths, y, gates, cells, h, c],
        [*p.stride()[:2], 0 if rows is None else rows.stride(0), *w_hh.stride(), first.stride(0),
         start.stride(0), *y.stride()[:2], *gates.stride()[:2], *cells.stride()[:2]],
        HAS_LENGTHS=lengths is not None, BIAS_ROWS=rows is not None, KEEP=keep,
    )  # fmt: skip
    return y, h, c, gates, cell


@_lstm.register_fake
def _outputs_fake(x, w_ih, w_hh, bias, h0, c0, lengths, keep):  # type: ignore[no-untyped-def]
    return _outputs(x, w_hh, keep)


def _outputs(x: Tensor, w_hh: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    hidden = w_hh.shape[1]
    h, c = x.new_empty(len(x), hidden), x.new_empty(len(x), hidden)
    kept = x if keep else x[:, :0]
    gates = _buffer(kept, 4 * hidden, x.dtype, None)
    return _buffer(x, hidden, x.dtype), h, c, gates, _buffer(kept, hidden, torch.float32, None)


@torch.library.custom_op("lvtrain::lstm_backward", mutates_args=())
def _backward(
    dy: Tensor | None,
    dh: Tensor | None,
    dc: Tensor | None,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    y: Tensor,
    gates: Tensor,
    cell: Tensor,
    needed: Sequence[bool],
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dx, dW_ih, dW_hh, db, dh₀, dc₀ (empty where not needed), and δ, dh, dc of every step."""
    batch, time, _ = x.shape
    hidden = w_hh.shape[1]
    delta, dh_kept, dc_kept = _adjoints(x, hidden, keep)
    dc_state = x.new_zeros(batch, hidden, dtype=torch.float32)
    dh_last, dc_last, start = (_state(s, x, hidden) for s in (dh, dc, c0))
    _sweep(
        sweeps.backward, "backward", w_hh, batch, time,
        [dy, dh_last, dc_last, w_hh, start, lengths, gates, cell, delta, dc_state, dh_kept,
         dc_kept],
        [*((0, 0, 0) if dy is None else dy.stride()), dh_last.stride(0), dc_last.stride(0),
         *w_hh.stride(), start.stride(0), *gates.stride()[:2], *cell.stride()[:2],
         *delta.stride()[:2], *dh_kept.stride()[:2]],
        HAS_LENGTHS=lengths is not None, HAS_DY=dy is not None, KEEP=keep,
    )  # fmt: skip
    flat = _flat(delta, x)
    dx, dw_ih, dw_hh, dbias, dh0, dc0 = (x.new_empty(0) for _ in range(6))
    if needed[0]:
        dx = _unflat(flat @ w_ih, x)
    if needed[1]:
        dw_ih = flat.T @ _flat(x, x)
    if needed[2]:
        dw_hh = _recurrent(delta, y, h0, x)
    if needed[3]:
        dbias = flat.sum(0) if bias.ndim == 1 else delta.sum(1)
    if needed[4]:
        dh0 = delta[:, 0] @ w_hh
    if needed[5]:
        dc0 = dc_state.to(x.dtype)
    return dx, dw_ih, dw_hh, dbias, dh0, dc0, delta, dh_kept, dc_kept


@_backward.register_fake
def _(dy, dh, dc, x, w_ih, w_hh, bias, h0, c0, lengths, y, gates, cell, needed, keep):  # type: ignore[no-untyped-def]
    batch, hidden = len(x), w_hh.shape[1]
    shapes = [w_ih.shape, w_hh.shape, bias.shape, (batch, hidden), (batch, hidden)]
    rest = (x.new_empty(s if n else 0) for s, n in zip(shapes, needed[1:], strict=True))
    dx = torch.empty_like(x) if needed[0] else x.new_empty(0)
    return dx, *rest, *_adjoints(x, hidden, keep)


def _adjoints(x: Tensor, hidden: int, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    kept = x if keep else x[:, :0]
    dh, dc = (_buffer(kept, hidden, torch.float32) for _ in range(2))
    return _buffer(x, 4 * hidden, x.dtype), dh, dc


def _recurrent(delta: Tensor, y: Tensor, h0: Tensor | None, x: Tensor) -> Tensor:
    """Σ_t δ_tᵀ h_{t−1}, without a copy of y."""
    first, flat, states = delta[:, 0], _flat(delta, x), _flat(y, x)
    batch = len(x)
    if _time_first(x):
        total = flat[batch:].T @ states[:-batch]
    else:
        # The flat rows of h, one later than those of δ, are right but where a sentence begins:
        # there the row before is another sentence's last, which is taken off again.
        total = flat[1:].T @ states[:-1] - first[1:].T @ y[:-1, -1]
    return total if h0 is None else total.addmm_(first.T, h0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, w_ih, w_hh, bias, h0, c0, lengths, _ = inputs
    y, _, _, gates, cell = output
    ctx.save_for_backward(x, w_ih, w_hh, bias, h0, c0, lengths, y, gates, cell)
    ctx.set_materialize_grads(False)


@as_given
def _differentiate(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor, *_: Any) -> tuple[Any, ...]:
    if dy is None and dh is None and dc is None:
        return (None,) * 8
    needed = list(ctx.needs_input_grad[:6])
    found = _backward(dy, dh, dc, *ctx.saved_tensors, needed, torch.is_grad_enabled())[:6]
    grads = (grad if n else None for grad, n in zip(found, needed, strict=True))
    return *grads, None, None


torch.library.register_autograd("lvtrain::lstm", _differentiate, setup_context=_save)


@torch.library.custom_op("lvtrain::lstm_second", mutates_args=())
def _second(
    cotangents: Sequence[Tensor | None],
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    y: Tensor,
    gates: Tensor,
    cell: Tensor,
    delta: Tensor,
    dh_kept: Tensor,
    dc_kept: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients towards dy, dh, dc and then x, W_ih, W_hh, b, h₀, c₀ of ⟨v, Jᵀ u⟩."""
    batch, time, _ = x.shape
    hidden = w_hh.shape[1]
    vx, vw_ih, vw_hh, vb, vh0, vc0 = cotangents
    first, first_tangent = _state(h0, x, hidden), _state(vh0, x, hidden)
    start, start_tangent = _state(c0, x, hidden), _state(vc0, x, hidden)

    p = _tangent_input(x, w_ih, y, first, vx, vw_ih, vw_hh, vb)
    y_tangent, h_tangent, c_tangent, _, cell_tangent = _outputs(x, w_hh, True)
    _sweep(
        sweeps.tangent, "forward", w_hh, batch, time,
        [p, w_hh, first_tangent, start_tangent, start, lengths, gates, cell, y_tangent,
         cell_tangent, h_tangent, c_tangent],
        [*p.stride()[:2], *w_hh.stride(), first_tangent.stride(0), start_tangent.stride(0),
         start.stride(0), *gates.stride()[:2], *cell.stride()[:2], *y_tangent.stride()[:2]],
        HAS_LENGTHS=lengths is not None,
    )  # fmt: skip

    flat_delta = _flat(delta, x)
    extra = torch.zeros_like(y) if vw_hh is None else _unflat(flat_delta @ vw_hh, x)
    eta = _buffer(x, 4 * hidden, x.dtype)
    dc_state = x.new_zeros(batch, hidden, dtype=torch.float32)
    _sweep(
        sweeps.second, "backward", w_hh, batch, time,
        [extra, w_hh, start, start_tangent, lengths, gates, cell, p, cell_tangent, dh_kept,
         dc_kept, eta, dc_state],
        [*extra.stride()[:2], *w_hh.stride(), start.stride(0), start_tangent.stride(0),
         *gates.stride()[:2], *cell.stride()[:2], *p.stride()[:2], *dh_kept.stride()[:2],
         *eta.stride()[:2]],
        HAS_LENGTHS=lengths is not None,
    )  # fmt: skip

    flat = _flat(eta, x)
    dx, dw_ih = flat @ w_ih, flat.T @ _flat(x, x)
    if vw_ih is not None:
        dx = dx + flat_delta @ vw_ih
    if vx is not None:
        dw_ih = dw_ih + flat_delta.T @ _flat(vx, x)
    dw_hh = _recurrent(eta, y, first, x) + _recurrent(delta, y_tangent, first_tangent, x)
    dbias = flat.sum(0) if bias.ndim == 1 else eta.sum(1)
    dh0 = eta[:, 0] @ w_hh + extra[:, 0]
    dc0 = dc_state.to(x.dtype)
    return y_tangent, h_tangent, c_tangent, _unflat(dx, x), dw_ih, dw_hh, dbias, dh0, dc0


def _tangent_input(
    x: Tensor,
    w_ih: Tensor,
    y: Tensor,
    first: Tensor,
    vx: Tensor | None,
    vw_ih: Tensor | None,
    vw_hh: Tensor | None,
    vb: Tensor | None,
) -> Tensor:
    """ṗ before the sweep adds ḣ₋₁ W_hhᵀ to it."""
    p = _buffer(x, w_ih.shape[0], x.dtype)
    flat = _flat(p, x)
    if vx is not None:
        flat += _flat(vx, x) @ w_ih.T
    if vw_ih is not None:
        flat += _flat(x, x) @ vw_ih.T
    if vb is not None:
        p += vb if vb.ndim == 1 else vb.unsqueeze(1)
    if vw_hh is not None:
        p[:, 0] += first @ vw_hh.T
        p[:, 1:] += _unflat(_flat(y, x) @ vw_hh.T, x)[:, :-1]
    return p


@_second.register_fake
def _(cotangents, x, w_ih, w_hh, bias, h0, c0, lengths, y, gates, cell, delta, dh_kept, dc_kept):  # type: ignore[no-untyped-def]
    state = x.new_empty(len(x), w_hh.shape[1])
    y_tangent, h_tangent, c_tangent, _, _ = _outputs(x, w_hh, False)
    dx = _unflat(x.new_empty(x.shape[0] * x.shape[1], x.shape[2]), x)
    weights = (w_ih.new_empty(w.shape) for w in (w_ih, w_hh, bias))
    return y_tangent, h_tangent, c_tangent, dx, *weights, state, torch.empty_like(state)


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    dy, dh, dc, *tensors, _, keep = inputs
    ctx.given, ctx.keep = tuple(g is not None for g in (dy, dh, dc)), keep
    ctx.given_state = tensors[4] is not None, tensors[5] is not None
    ctx.save_for_backward(*tensors, *output[6:])
    ctx.set_materialize_grads(False)


@as_given
def _differentiate_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
    if not ctx.keep:
        raise RuntimeError("lstm: the backward pass was taken without create_graph=True")
    dy, dh, dc, *rest = _second(list(cotangents[:6]), *ctx.saved_tensors)
    outer = (g if given else None for g, given in zip((dy, dh, dc), ctx.given, strict=True))
    *weights, dh0, dc0 = rest
    states = (g if given else None for g, given in zip((dh0, dc0), ctx.given_state, strict=True))
    return *outer, *weights, *states, *[None] * 6


torch.library.register_autograd(
    "lvtrain::lstm_backward", _differentiate_backward, setup_context=_save_backward
)


_CHIPS = {
    "sm_80": Chip(108, 163 * 1024),
    "sm_90": Chip(132, 227 * 1024),
    "sm_100": Chip(148, 227 * 1024),
    "gfx942": Chip(0, 64 * 1024),
}
_SWEEPS: tuple[tuple[Any, Direction, dict[str, bool]], ...] = (
    (sweeps.forward, "forward", {"HAS_LENGTHS": True, "BIAS_ROWS": True, "KEEP": True}),
    (sweeps.backward, "backward", {"HAS_LENGTHS": True, "HAS_DY": True, "KEEP": True}),
    (sweeps.tangent, "forward", {"HAS_LENGTHS": True}),
    (sweeps.second, "backward", {"HAS_LENGTHS": True}),
)
_SIZES = (
    (torch.bfloat16, 512, 64), (torch.bfloat16, 300, 512), (torch.float32, 300, 64),
)  # fmt: skip
_WIDE = {"cell", "cell_tangent", "dh_kept", "dc_kept", "dc_state"}  # float32 whatever x is


def variants() -> list[Variant]:
    """The sweeps as they are launched on each chip, for the record of what they take of it."""
    found = []
    for target, chip in _CHIPS.items():
        for kernel, direction, flags in _SWEEPS:
            for dtype, hidden, batch in _SIZES:
                cut = plan(direction, hidden, batch, dtype, chip)
                options = _options(cut, dtype) | flags
                warps, stages = options.pop("num_warps"), options.pop("num_stages")
                if dtype == torch.float32 and target != "gfx942":
                    options["PRECISION"] = "tf32"
                short = {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
                signature = {
                    name: _kind(name, short, hidden)
                    for name in kernel.arg_names
                    if name not in options
                }
                name = f"lstm/{kernel.fn.__name__} {short} H{hidden} B{batch} {target}"
                found.append(Variant(name, kernel, signature, options, warps, stages, (target,)))
    return found


def _kind(name: str, dtype: str, hidden: int) -> str:
    if name.endswith(("_row", "_step", "w_out")):
        return "i32:16" if hidden % 16 == 0 else "i32"
    if name in ("t_begin", "t_end", "time", "batch", "dy_unit"):
        return "i32"
    if name == "hidden":
        return "i32:16" if hidden % 16 == 0 else "i32"
    if name == "w_in":
        return "i32"
    if name in ("lengths", "counters"):
        return {"lengths": "*i64", "counters": "*i32"}[name]
    return "*fp32" if name in _WIDE else f"*{dtype}"
