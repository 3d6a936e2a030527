"""The LSTM on a CPU: real tokens packed, one fused sweep, first derivatives by hand.

The real tokens alone are packed, time-major, rows by descending length, so step t works on a
prefix of rows. x·W_ihᵀ of all steps is one GEMM before the sweep; dW_ih, dW_hh and dx are GEMMs
after it; the sweep itself is one GEMM and a few in-place pointwise calls a step, with whatever does
not depend on the sweep computed for all steps at once.

tanh(a) is 2σ(2a) − 1: a vectorised σ costs a third of a tanh, and one call then serves all four
gates. So σ(2a_g) − ½ = g/2 and σ(2c) − ½ = tanh(c)/2 are what is kept, and the cell is carried
doubled, C = 2c. The absolute error stays within 1.2e-7 in float32.

Second derivatives differentiate the definition.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from .dispatch import as_given


def lstm(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: list[int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer over checked arguments."""
    batch, time, inputs = x.shape
    counts, order = _order(lengths, x.device)
    if order is not None:
        x, bias, h0, c0 = _reordered(order, x, bias, h0, c0)
    layout = _lay_out(counts, batch, time, x.device)
    return _run(x.reshape(batch * time, inputs), w_ih, w_hh, bias, h0, c0, layout, order)


def embedding_lstm(
    tokens: Tensor,
    table: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: list[int] | None,
    sparse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer over the words of checked arguments, each distinct word projected once.

    Half of an LSTM's arithmetic is in the input GEMMs, and a batch of 64 captions has 760 words of
    which 290 are distinct, so this saves a third of the whole.

    Raises:
        ValueError: a word outside 0..V−1.
    """
    batch, time = tokens.shape
    counts, order = _order(lengths, tokens.device)
    if order is not None:
        tokens, bias, h0, c0 = _reordered(order, tokens, bias, h0, c0)
    layout = _lay_out(counts, batch, time, tokens.device)
    packed = tokens.reshape(-1).index_select(0, layout.position)
    words, source = torch.unique(packed, return_inverse=True)
    if int(words[0]) < 0 or int(words[-1]) >= len(table):
        raise ValueError(
            f"tokens: expected each in 0..{len(table) - 1}, found {int(words[0])}..{int(words[-1])}"
        )
    layout = layout._replace(source=source, shared=True)
    x = F.embedding(words, table, sparse=sparse).to(w_ih.dtype)
    return _run(x, w_ih, w_hh, bias, h0, c0, layout, order)


def _order(
    counts: list[int] | None, device: torch.device
) -> tuple[list[int] | None, Tensor | None]:
    """Give the lengths in descending order, and the rows in that order where it is not theirs."""
    if counts is None or all(a >= b for a, b in pairwise(counts)):
        return counts, None
    order = sorted(range(len(counts)), key=lambda row: -counts[row])
    return [counts[row] for row in order], torch.tensor(order, device=device)


def _reordered(
    order: Tensor, x: Tensor, bias: Tensor, h0: Tensor | None, c0: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    return (
        x[order],
        bias[order] if bias.ndim == 2 else bias,
        None if h0 is None else h0[order],
        None if c0 is None else c0[order],
    )


def _run(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
    layout: _Layout,
    order: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (x, w_ih, w_hh, bias, h0, c0)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    y, h, c = _LSTM.apply(*tensors, layout, keep)
    if order is None:
        return y, h, c
    back = torch.argsort(order)
    return y[back], h[back], c[back]


class _Layout(NamedTuple):
    """Which input each real token takes and where its output goes; rows by descending length.

    Packed tokens are time-major: all rows' first tokens, then the second tokens of the rows that
    have one, and so on.
    """

    batch: int
    time: int
    sizes: list[int]  # active rows at each step
    position: Tensor  # [N] in the flattened [B*T] of each packed token
    last: Tensor  # [B] in the flattened [T*B] of each row's last token
    counts: list[int] | None  # tokens of each row; None: all have T
    source: Tensor  # [N] input row of each packed token
    shared: bool  # whether several tokens take one input row


def _lay_out(counts: list[int] | None, batch: int, time: int, device: torch.device) -> _Layout:
    rows = torch.arange(batch, device=device)
    clock = torch.arange(time, device=device).unsqueeze(1)
    position = clock + rows * time
    if counts is None or counts[-1] == time:
        sizes = [batch] * time
        last = (time - 1) * batch + rows
        position = position.reshape(-1)
    else:
        sizes, active = [], batch
        for t in range(counts[0]):
            while counts[active - 1] <= t:
                active -= 1
            sizes.append(active)
        lengths = torch.tensor(counts, device=device)
        last = (lengths - 1) * batch + rows
        position = position[clock < lengths]
    return _Layout(batch, time, sizes, position, last, counts, position, False)


class _LSTM(torch.autograd.Function):
    """The operation over input rows [R, I] from which each packed token takes one."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        bias: Tensor,
        h0: Tensor | None,
        c0: Tensor | None,
        layout: _Layout,
        keep: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        hidden = w_hh.shape[1]
        batch, time, sizes = layout.batch, layout.time, layout.sizes
        inputs = x if layout.shared else x.index_select(0, layout.source)
        projected = torch.addmm(bias, inputs, w_ih.T) if bias.ndim == 1 else inputs @ w_ih.T
        count = len(layout.source)
        y = (x.new_empty if count == batch * time else x.new_zeros)(time, batch, hidden)
        room = count if keep else batch
        cell, squashed = x.new_empty(room, hidden), x.new_empty(room, hidden)
        gates = x.new_empty(room, 4 * hidden) if layout.shared else projected

        def by_step(whole: Tensor) -> tuple[Tensor, ...]:
            """Each step's own part of what is kept, or the same rows again where nothing is."""
            return whole.split(sizes) if len(whole) == count else tuple(whole[:n] for n in sizes)

        half = x.new_tensor(0.5)
        h = h0
        c = None if c0 is None else c0 + c0
        w_hh_t = w_hh.T
        steps = zip(
            sizes,
            layout.source.split(sizes),
            by_step(gates),
            *map(by_step, gates.view(-1, 4, hidden).unbind(1)),
            by_step(cell),
            by_step(squashed),
            y.unbind(0),
            strict=False,
        )
        for n, source, step, i, f, g, o, c_next, s, h_next in steps:
            if layout.shared:
                torch.index_select(projected, 0, source, out=step)
            if bias.ndim == 2:
                step += bias[:n]
            if h is not None:
                step.addmm_(h[:n], w_hh_t)
            g += g
            step.sigmoid_()
            g -= half
            if c is None:
                torch.mul(i, g, out=c_next).mul_(4)
            else:
                torch.mul(f, c[:n], out=c_next).addcmul_(i, g, value=4)
            torch.sigmoid(c_next, out=s)
            s -= half
            h = torch.mul(o, s, out=h_next[:n])
            h += h
            c = c_next
        h_last = y.view(time * batch, hidden).index_select(0, layout.last)
        c_last = (_ends(cell.split(sizes), sizes) if keep else cell) * half
        y = y.transpose(0, 1)
        if keep:
            ctx.layout = layout
            ctx.save_for_backward(x, w_ih, w_hh, bias, h0, c0, inputs, gates, cell, squashed, y)
        return y, h_last, c_last

    @staticmethod
    @as_given
    def backward(
        ctx: Any, dy: Tensor | None, dh_last: Tensor | None, dc_last: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if dy is None and dh_last is None and dc_last is None:
            return (None,) * 8
        grads, saved = (dy, dh_last, dc_last), ctx.saved_tensors
        if torch.is_grad_enabled():
            return _through_reference(ctx.needs_input_grad, saved[:6], ctx.layout, grads)
        return _backward(ctx.needs_input_grad, ctx.layout, saved, *grads)


def _ends(steps: tuple[Tensor, ...], sizes: list[int]) -> Tensor:
    """Collect each row's last state, in order of the rows, from the packed states of all steps."""
    ended = zip(steps, [*sizes[1:], 0], strict=True)
    return torch.cat([states[left:] for states, left in ended if left < len(states)][::-1])


def _backward(
    needed: tuple[bool, ...],
    layout: _Layout,
    saved: tuple[Any, ...],
    dy: Tensor | None,
    dh_last: Tensor | None,
    dc_last: Tensor | None,
) -> tuple[Tensor | None, ...]:
    x, w_ih, w_hh, bias, h0, c0, inputs, gates, cell, squashed, y = saved
    batch, hidden = layout.batch, w_hh.shape[1]
    sizes = layout.sizes
    dh = x.new_zeros(batch, hidden) if dh_last is None else dh_last.clone()
    dc = x.new_zeros(batch, hidden) if dc_last is None else dc_last.clone()
    dbias = torch.zeros_like(bias) if needed[3] and bias.ndim == 2 else None

    # What each gate's gradient is a multiple of: dc for i, f and g; dh for o.
    dgates = torch.addcmul(gates, gates, gates, value=-1)
    i, f, g, o = gates.view(-1, 4, hidden).unbind(1)
    di, df, dg, do = dgates.view(-1, 4, hidden).unbind(1)
    di.mul_(g).mul_(2)
    torch.mul(g, g, out=dg).mul_(-4).add_(1).mul_(i)
    do.mul_(squashed).mul_(2)
    if c0 is None:
        df[:batch].zero_()
    else:
        df[:batch].mul_(c0)
    if len(sizes) > 1:
        cells = zip(cell.split(sizes), sizes[1:], strict=False)
        df[batch:].mul_(torch.cat([c[:n] for c, n in cells])).mul_(0.5)
    through = squashed.square().mul_(-4).add_(1).mul_(o)  # ∂h/∂c = o (1 − tanh² c)

    forget, slopes, steps = f.split(sizes), through.split(sizes), dgates.split(sizes)
    for t in range(len(sizes) - 1, -1, -1):
        n = sizes[t]
        dh_t, dc_t, step = dh[:n], dc[:n], steps[t]
        if dy is not None:
            dh_t += dy[:n, t]
        dc_t.addcmul_(dh_t, slopes[t])
        by_gate = step.view(n, 4, hidden)
        by_gate[:, :3] *= dc_t.unsqueeze(1)
        by_gate[:, 3] *= dh_t
        if dbias is not None:
            dbias[:n] += step
        if t > 0 or needed[5]:
            dc_t *= forget[t]
        if t > 0 or needed[4]:
            torch.mm(step, w_hh, out=dh_t)

    dx = dw_ih = dw_hh = None
    if needed[2]:
        dw_hh = torch.zeros_like(w_hh) if h0 is None else dgates[:batch].T @ h0
        if len(sizes) > 1:
            earlier = torch.cat([y[:n, t] for t, n in enumerate(sizes[1:])])
            dw_hh = torch.addmm(dw_hh, dgates[batch:].T, earlier, beta=0 if h0 is None else 1)
    if layout.shared and (needed[0] or needed[1] or (needed[3] and bias.ndim == 1)):
        dgates = _sum_by_source(dgates, layout.source, len(x))
    if needed[0]:
        dx = dgates @ w_ih
        if not layout.shared:
            dense = len(dx) == len(x)
            whole = torch.empty_like(x) if dense else torch.zeros_like(x)
            dx = whole.index_copy_(0, layout.source, dx)
    if needed[1]:
        dw_ih = dgates.T @ inputs
    if needed[3] and bias.ndim == 1:
        dbias = dgates.sum(dim=0)
    return dx, dw_ih, dw_hh, dbias, dh if needed[4] else None, dc if needed[5] else None, None, None


def _sum_by_source(values: Tensor, source: Tensor, rows: int) -> Tensor:
    """Add up the values [N, K] of the tokens that share an input row, into [R, K]."""
    order = torch.argsort(source, stable=True)
    counts = torch.bincount(source, minlength=rows)
    return F.embedding_bag(order, values, counts.cumsum(0) - counts, mode="sum")


def _through_reference(
    needed: tuple[bool, ...],
    saved: tuple[Any, ...],
    layout: _Layout,
    grads: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:
    """Differentiate the definition, so that the result can be differentiated again."""
    x, w_ih, w_hh, bias, h0, c0 = saved
    batch, time = layout.batch, layout.time
    padded = x.new_zeros(batch * time, x.shape[1])
    padded = padded.index_copy(0, layout.position, x.index_select(0, layout.source))
    lengths = None if layout.counts is None else torch.tensor(layout.counts, device=x.device)
    outputs = reference.lstm(padded.view(batch, time, -1), w_ih, w_hh, bias, h0, c0, lengths)
    given = [(out, grad) for out, grad in zip(outputs, grads, strict=True) if grad is not None]
    wanted = [k for k in range(6) if needed[k]]
    found = torch.autograd.grad(
        [out for out, _ in given],
        [saved[k] for k in wanted],
        [grad for _, grad in given],
        create_graph=True,
        allow_unused=True,
    )
    result: list[Tensor | None] = [None] * 8
    for k, grad in zip(wanted, found, strict=True):
        result[k] = grad
    return tuple(result)
