"""An LSTM that looks at a memory before each step: one sweep, first derivatives by hand.

What does not depend on the sweep is done for all steps at once, before or after it: the input's
projection, the keys, and the gradients of memory and weights, a GEMM each. A step is four products
and a few pointwise calls in place, over the rows that have it: rows by descending length.

tanh(a) is 2σ(2a) − 1, and a softmax does not feel a constant: the scores are (2v)ᵀ σ(2a). So the
queries and keys are doubled once, and what is kept is σ, whose derivative is a product.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .dispatch import as_given, autocast


def attention_lstm(
    x: Float[Tensor, "B T G"],
    memory: Float[Tensor, "B S M"],
    keys: Float[Tensor, "B S A"],
    mask: Bool[Tensor, "B S"],
    w_query: Float[Tensor, "A H"],
    v: Float[Tensor, "A"],
    w_context: Float[Tensor, "G M"],
    w_hh: Float[Tensor, "G H"],
    h0: Float[Tensor, "B H"],
    c0: Float[Tensor, "B H"],
    lengths: Int[Tensor, "B"] | None = None,
) -> tuple[
    Float[Tensor, "B T H"], Float[Tensor, "B T M"], Float[Tensor, "B T S"], Float[Tensor, "B T H"]
]:
    """Run an LSTM with additive attention (Bahdanau et al. 2015), G = 4H; differentiable once.

    e_ti = vᵀ tanh(W_q h_{t−1} + k_i);  α_t = softmax(e_t) over the real i;  a_t = Σ_i α_ti m_i;
    gates i, f, g, o of x_t + W_a a_t + W_hh h_{t−1};  c_t = f c_{t−1} + i g;  h_t = o tanh(c_t).

    Args:
        x: the projected inputs, biases included.
        keys: U m_i, projected once for all steps.
        mask: which places of the memory are real; at least one in each row.
        lengths: real steps of each row, in 1..T; all T where not given. Nothing is computed beyond.

    Returns:
        h, a, α and c of every step, zero beyond each row's length; α and c without a gradient.

    Raises:
        ValueError: shapes that do not agree, or a length outside 1..T.
    """
    x, memory, keys, w_query, v, w_context, w_hh, h0, c0 = autocast(
        x, memory, keys, w_query, v, w_context, w_hh, h0, c0, single=True
    )
    _check(x, memory, keys, mask, w_query, v, w_context, w_hh, h0, c0)
    batch, time = x.shape[:2]
    counts = [time] * batch
    if lengths is not None:
        counts = lengths.tolist()
        if len(counts) != batch or min(counts) < 1 or max(counts) > time:
            raise ValueError(f"lengths: expected {batch} in 1..{time}, found {counts}")
    order = sorted(range(batch), key=lambda row: -counts[row])
    sizes = [sum(count > t for count in counts) for t in range(max(counts))]
    given = [x, memory, keys, mask, h0, c0]
    back = None
    if order != list(range(batch)):
        rows = torch.tensor(order, device=x.device)
        given = [tensor.index_select(0, rows) for tensor in given]
        back = torch.argsort(rows)
    x, memory, keys, mask, h0, c0 = given
    with torch.autocast(x.device.type, enabled=False):
        found = _AttentionLSTM.apply(
            x, memory, keys, mask, w_query, v, w_context, w_hh, h0, c0, sizes
        )
    h, context, weights, c = found if back is None else (of[back] for of in found)
    return h, context, weights, c


class _AttentionLSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        memory: Tensor,
        keys: Tensor,
        mask: Tensor,
        w_query: Tensor,
        v: Tensor,
        w_context: Tensor,
        w_hh: Tensor,
        h0: Tensor,
        c0: Tensor,
        sizes: list[int],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch, time, width = x.shape
        places, hidden = memory.shape[1], w_hh.shape[1]
        keep = any(ctx.needs_input_grad)
        memory, keys = memory.contiguous(), keys + keys
        doubled, twice = (w_query + w_query).t(), v + v
        w_context_t, w_hh_t = w_context.t(), w_hh.t()
        absent = torch.zeros_like(keys[:, :, 0]).masked_fill_(~mask, float("-inf"))
        ragged = len(sizes) < time or sizes[-1] < batch
        new = x.new_zeros if ragged else x.new_empty
        h, c = new(time, batch, hidden), new(time, batch, hidden)
        context, weights = new(time, batch, memory.shape[2]), new(time, batch, places)
        squashed = x.new_empty(len(sizes) if keep else 1, batch, places, len(v))
        gates = x.new_empty(len(sizes) if keep else 1, batch, width)
        tanh = x.new_empty(len(sizes) if keep else 1, batch, hidden)
        query, before = x.new_empty(batch, len(v)), (h0, c0)
        for t, n in enumerate(sizes):
            slot = t if keep else 0
            s, step, tanh_t = squashed[slot, :n], gates[slot, :n], tanh[slot, :n]
            h_before, c_before = before[0][:n], before[1][:n]
            torch.mm(h_before, doubled, out=query[:n])
            torch.add(keys[:n], query[:n].unsqueeze(1), out=s).sigmoid_()
            scores = torch.mv(s.view(n * places, -1), twice).view(n, places)
            torch.softmax(scores.add_(absent[:n]), 1, out=weights[t, :n])
            torch.bmm(weights[t, :n].unsqueeze(1), memory[:n], out=context[t, :n].unsqueeze(1))
            step.copy_(x[:n, t]).addmm_(context[t, :n], w_context_t).addmm_(h_before, w_hh_t)
            i, f, g, o = step.view(n, 4, hidden).unbind(1)
            g.tanh_()
            step.view(n, 4, hidden)[:, :2].sigmoid_()
            o.sigmoid_()
            torch.mul(f, c_before, out=c[t, :n]).addcmul_(i, g)
            torch.tanh(c[t, :n], out=tanh_t)
            torch.mul(o, tanh_t, out=h[t, :n])
            before = h[t], c[t]
        if keep:
            ctx.sizes = sizes
            ctx.save_for_backward(
                memory, w_query, v, w_context, w_hh, h0, c0, h, c, context, weights, squashed,
                gates, tanh,
            )  # fmt: skip
        found = tuple(of.transpose(0, 1) for of in (h, context, weights, c))
        ctx.mark_non_differentiable(found[2], found[3])
        return found  # type: ignore[return-value]

    @staticmethod
    @as_given
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor, dcontext: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        sizes = ctx.sizes
        (memory, w_query, v, w_context, w_hh, h0, c0, h, c, context, weights, squashed, gates,
         tanh) = ctx.saved_tensors  # fmt: skip
        time, batch, hidden = h.shape
        dh, dc = torch.zeros_like(h0), torch.zeros_like(c0)
        ragged = len(sizes) < time or sizes[-1] < batch
        new = gates.new_zeros if ragged else gates.new_empty
        dgates, dqueries = new(time, batch, 4 * hidden), new(time, batch, len(v))
        dcontexts = new(time, batch, memory.shape[2])
        dkeys, dv = torch.zeros_like(squashed[0]), torch.zeros_like(v)
        slope = torch.empty_like(dkeys)
        for t in range(len(sizes) - 1, -1, -1):
            n = sizes[t]
            dh_t, dc_t, step, tanh_t = dh[:n], dc[:n], dgates[t, :n], tanh[t, :n]
            i, f, g, o = gates[t, :n].view(n, 4, hidden).unbind(1)
            di, df, dg, do = step.view(n, 4, hidden).unbind(1)
            c_before = (c[t - 1] if t else c0)[:n]
            dh_t += dy[:n, t]
            dc_t.addcmul_(dh_t, torch.addcmul(o, o * tanh_t, tanh_t, value=-1))
            torch.mul(dh_t, tanh_t, out=do).mul_(torch.addcmul(o, o, o, value=-1))
            torch.mul(dc_t, g, out=di).mul_(torch.addcmul(i, i, i, value=-1))
            torch.mul(dc_t, c_before, out=df).mul_(torch.addcmul(f, f, f, value=-1))
            torch.mul(dc_t, i, out=dg).mul_((g * g).neg_().add_(1))
            dc_t *= f
            da = torch.addmm(dcontext[:n, t], step, w_context, out=dcontexts[t, :n])
            dweights = torch.bmm(memory[:n], da.unsqueeze(2)).squeeze(2)
            alpha = weights[t, :n]
            dweights.mul_(alpha)
            de = dweights.addcmul_(alpha, dweights.sum(1, keepdim=True), value=-1)
            # The factor 2v of the scores, and 2 of the doubled keys, are left to the end.
            s, slope_t = squashed[t, :n], slope[:n]
            dv.addmv_(s.view(-1, len(v)).t(), de.reshape(-1))
            torch.addcmul(s, s, s, value=-1, out=slope_t)
            dkeys[:n].addcmul_(slope_t, de.unsqueeze(2))
            dq = dqueries[t, :n]
            torch.bmm(de.unsqueeze(1), slope_t, out=dq.unsqueeze(1)).squeeze(1)
            dq *= 4 * v
            torch.mm(step, w_hh, out=dh_t).addmm_(dq, w_query)
        before = torch.cat([h0.unsqueeze(0), h[:-1]]).view(-1, hidden)
        flat = dgates.view(-1, 4 * hidden)
        return (
            dgates.transpose(0, 1),
            torch.bmm(weights.permute(1, 2, 0), dcontexts.transpose(0, 1)),
            dkeys * (4 * v),
            None,
            dqueries.view(-1, len(v)).t() @ before,
            2 * dv,
            flat.t() @ context.view(-1, context.shape[2]),
            flat.t() @ before,
            dh,
            dc,
            None,
        )


def _check(
    x: Tensor,
    memory: Tensor,
    keys: Tensor,
    mask: Tensor,
    w_query: Tensor,
    v: Tensor,
    w_context: Tensor,
    w_hh: Tensor,
    h0: Tensor,
    c0: Tensor,
) -> None:
    if x.ndim != 3 or memory.ndim != 3 or 0 in x.shape or 0 in memory.shape:
        raise ValueError(
            f"x, memory: expected shapes [B, T, G] and [B, S, M], none of them 0, found "
            f"{list(x.shape)} and {list(memory.shape)}"
        )
    (batch, _, gates), (_, places, width) = x.shape, memory.shape
    hidden, heads = gates // 4, len(v)
    expected = {
        "memory": (memory, [batch, places, width]),
        "keys": (keys, [batch, places, heads]),
        "mask": (mask, [batch, places]),
        "w_query": (w_query, [heads, hidden]),
        "w_context": (w_context, [4 * hidden, width]),
        "w_hh": (w_hh, [4 * hidden, hidden]),
        "h0": (h0, [batch, hidden]),
        "c0": (c0, [batch, hidden]),
    }
    for name, (tensor, shape) in expected.items():
        if list(tensor.shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, found {list(tensor.shape)}")
