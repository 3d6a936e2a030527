"""The LSTM's four sweeps over time in Triton: forward, backward, tangent and second order.

A program owns BH hidden units, all four of their gates, and BB rows of the batch. Launched
persistently (``RESIDENT``) it holds its slice of W_hh on chip from the first step to the last and
its cells in registers; after every step the programs of one batch tile wait for each other, since
each needs what all of them wrote. Launched for one step at a time it streams the slice instead and
the launches are the barrier: for shapes that don't fit, and for the interpreter, in which a barrier
would wait for ever. Both are the same code.

Each step is one product [BB, K] × [K, N] and pointwise work. Forward and tangent take
h_{t−1} W_hhᵀ, a column of the tile being one gate of one unit; backward and second order take
dgates_{t+1} W_hh. All loads of a step's operand come before its first product, so that their
latencies overlap.

Time steps of a row at or beyond its length are passed over: outputs there stay as the caller made
them (zero). A row whose length is not in 1..T is filled with NaN rather than read wrongly.
"""

from __future__ import annotations

import triton
import triton.language as tl

_VARYING = ["t_begin", "t_end", "time", "batch"]


@triton.jit
def _tanh(x):
    # exp(−2x) would overflow where σ saturates.
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _by_gate(tile, BB: tl.constexpr, BH: tl.constexpr):
    """A tile [BB, 4·BH] of columns gate·BH + unit as its four gates [BB, BH]."""
    paired = tl.permute(tl.reshape(tile, (BB, 2, 2, BH)), (0, 3, 1, 2))
    first, second = tl.split(paired)
    i, g = tl.split(first)
    f, o = tl.split(second)
    return i, f, g, o


@triton.jit
def _lengths(lengths, rows, batch, time, HAS_LENGTHS: tl.constexpr):
    """The rows' lengths, 0 for rows that are not there, and which of them are out of range."""
    if HAS_LENGTHS:
        given = tl.load(lengths + rows, mask=rows < batch, other=0).to(tl.int32)
        wrong = ((given < 1) | (given > time)) & (rows < batch)
        length = tl.where(wrong, time, given)
    else:
        length = tl.where(rows < batch, time, 0)
        wrong = rows < 0
    return length, wrong


@triton.jit
def _weights(w, outer, inner, outer_stride, inner_stride, outer_end, inner_ok,
             BK: tl.constexpr, TILES: tl.constexpr):  # fmt: skip
    """TILES tiles [BK, N] of W_hh: rows ``outer`` onwards, columns ``inner``."""
    tiles = ()
    for j in tl.static_range(TILES):
        k = outer + j * BK + tl.arange(0, BK)
        at = w + k[:, None] * outer_stride + inner[None, :] * inner_stride
        mask = (k < outer_end)[:, None] & inner_ok[None, :]
        loaded = tl.load(at, mask=mask, other=0.0)
        tiles = tiles + (loaded,)  # type: ignore[assignment]  # noqa: RUF005
    return tiles


@triton.jit
def _product(acc, a, rows, rows_ok, a_stride, resident, w, inner, outer_stride, inner_stride,
             outer_end, inner_ok, RESIDENT: tl.constexpr, GROUP: tl.constexpr, BK: tl.constexpr,
             TILES: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """acc + a[rows, 0:outer_end] · W: all tiles of W on chip, or streamed."""
    if RESIDENT:
        for start in tl.static_range(0, TILES, GROUP):
            operands = ()
            for j in tl.static_range(start, min(start + GROUP, TILES)):
                k = j * BK + tl.arange(0, BK)
                mask = rows_ok[:, None] & (k < outer_end)[None, :]
                # Other programs wrote this a step ago: read it past the first-level cache.
                at = a + rows[:, None] * a_stride + k[None, :]
                loaded = tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
                operands = operands + (loaded,)  # type: ignore[assignment]  # noqa: RUF005
            for j in tl.static_range(start, min(start + GROUP, TILES)):
                acc = tl.dot(operands[j - start], resident[j], acc, input_precision=PRECISION)
    else:
        for j in range(TILES):
            k = j * BK + tl.arange(0, BK)
            mask = rows_ok[:, None] & (k < outer_end)[None, :]
            operand = tl.load(a + rows[:, None] * a_stride + k[None, :], mask=mask, other=0.0)
            tile = tl.load(
                w + k[:, None] * outer_stride + inner[None, :] * inner_stride,
                mask=(k < outer_end)[:, None] & inner_ok[None, :],
                other=0.0,
            )
            acc = tl.dot(operand, tile, acc, input_precision=PRECISION)
    return acc


@triton.jit
def _kept(gates, gates_row, gates_step, cell, cell_row, cell_step, c0, c0_row, t, rows, units,
          hidden, alive):  # fmt: skip
    """What the forward sweep kept of step t: i, f, g, o, tanh c_t and c_{t−1}."""
    at = gates + t * gates_step + rows[:, None] * gates_row + units[None, :]
    i = tl.load(at, mask=alive, other=0.0).to(tl.float32)
    f = tl.load(at + hidden, mask=alive, other=0.0).to(tl.float32)
    g = tl.load(at + 2 * hidden, mask=alive, other=0.0).to(tl.float32)
    o = tl.load(at + 3 * hidden, mask=alive, other=0.0).to(tl.float32)
    at = cell + t * cell_step + rows[:, None] * cell_row + units[None, :]
    s = _tanh(tl.load(at, mask=alive, other=0.0))
    if t == 0:
        first = c0 + rows[:, None] * c0_row + units[None, :]
        before = tl.load(first, mask=alive, other=0.0).to(tl.float32)
    else:
        before = tl.load(at - cell_step, mask=alive, other=0.0)
    return i, f, g, o, s, before


@triton.jit
def _wait(counter, target):
    """Let no program of the batch tile go on before all have come here ``target`` times in all."""
    tl.debug_barrier()
    seen = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") + 1
    while seen < target:
        seen = tl.atomic_add(counter, 0, sem="acquire", scope="gpu")
    tl.debug_barrier()


@triton.jit(do_not_specialize=_VARYING)
def forward(
    p, bias, w, h0, c0, lengths, y, gates, cell, h_last, c_last, counters,
    t_begin, t_end, time, batch, hidden,
    p_row, p_step, bias_row, w_out, w_in, h0_row, c0_row, y_row, y_step,
    gates_row, gates_step, cell_row, cell_step,
    HAS_LENGTHS: tl.constexpr, BIAS_ROWS: tl.constexpr, KEEP: tl.constexpr, RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr, BB: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    TILES: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """c_t = f c_{t−1} + i g, h_t = o tanh c_t from p = W_ih x + b; i, f, g, o kept if KEEP."""
    rows = tl.program_id(1) * BB + tl.arange(0, BB)
    units = tl.program_id(0) * BH + tl.arange(0, BH)
    here = (rows < batch)[:, None] & (units < hidden)[None, :]
    n = tl.arange(0, 4 * BH)
    unit = tl.program_id(0) * BH + n % BH
    column, column_ok = n // BH * hidden + unit, unit < hidden
    wide = (rows < batch)[:, None] & column_ok[None, :]
    length, wrong = _lengths(lengths, rows, batch, time, HAS_LENGTHS)
    last = tl.minimum(tl.max(length, axis=0), t_end)
    resident = ()
    if RESIDENT:
        resident = _weights(w, 0, column, w_in, w_out, hidden, column_ok, BK, TILES)
    offset = tl.zeros((BB, 4 * BH), tl.float32)
    if BIAS_ROWS:
        per_row = bias + rows[:, None] * bias_row + column[None, :]
        offset = tl.load(per_row, mask=wide, other=0.0).to(tl.float32)
    if t_begin == 0:
        first = c0 + rows[:, None] * c0_row + units[None, :]
        c = tl.load(first, mask=here, other=0.0).to(tl.float32)
        c = tl.where(wrong[:, None], float("nan"), c)
    else:
        later = cell + (t_begin - 1) * cell_step + rows[:, None] * cell_row + units[None, :]
        c = tl.load(later, mask=here & (t_begin <= length)[:, None], other=0.0)
    for t in range(t_begin, last):
        if t == 0:
            h, h_row = h0, h0_row
        else:
            h, h_row = y + (t - 1) * y_step, y_row
        inputs = p + t * p_step + rows[:, None] * p_row + column[None, :]
        acc = tl.load(inputs, mask=wide, other=0.0).to(tl.float32) + offset
        acc = _product(acc, h, rows, rows < batch, h_row, resident, w, column, w_in, w_out, hidden,
                       column_ok, RESIDENT, GROUP, BK, TILES, PRECISION)  # fmt: skip
        i, f, g, o = _by_gate(acc, BB, BH)
        i, f, g, o = tl.sigmoid(i), tl.sigmoid(f), _tanh(g), tl.sigmoid(o)
        c = f * c + i * g
        out = o * _tanh(c)
        alive = here & (t < length)[:, None]
        at = y + t * y_step + rows[:, None] * y_row + units[None, :]
        tl.store(at, out.to(y.dtype.element_ty), mask=alive)
        # Where nothing is kept this carries the state from one launch to the next.
        if KEEP or not RESIDENT:
            at = cell + t * cell_step + rows[:, None] * cell_row + units[None, :]
            tl.store(at, c, mask=alive)
        if KEEP:
            at = gates + t * gates_step + rows[:, None] * gates_row + units[None, :]
            kind = gates.dtype.element_ty
            tl.store(at, i.to(kind), mask=alive)
            tl.store(at + hidden, f.to(kind), mask=alive)
            tl.store(at + 2 * hidden, g.to(kind), mask=alive)
            tl.store(at + 3 * hidden, o.to(kind), mask=alive)
        ends = here & (t + 1 == length)[:, None]
        at = rows[:, None] * hidden + units[None, :]
        tl.store(h_last + at, out.to(h_last.dtype.element_ty), mask=ends)
        tl.store(c_last + at, c.to(c_last.dtype.element_ty), mask=ends)
        if RESIDENT:
            _wait(counters + tl.program_id(1), (t + 1 - t_begin) * tl.num_programs(0))


@triton.jit(do_not_specialize=_VARYING)
def backward(
    dy, dh_last, dc_last, w, c0, lengths, gates, cell, dgates, dc_state, dh_kept, dc_kept, counters,
    t_begin, t_end, time, batch, hidden,
    dy_row, dy_step, dy_unit, dh_row, dc_row, w_out, w_in, c0_row, gates_row, gates_step,
    cell_row, cell_step, dgates_row, dgates_step, kept_row, kept_step,
    HAS_LENGTHS: tl.constexpr, HAS_DY: tl.constexpr, KEEP: tl.constexpr, RESIDENT: tl.constexpr,
    PRECISION: tl.constexpr, BB: tl.constexpr, BH: tl.constexpr, BK: tl.constexpr,
    TILES: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """dgates of every step, from the last to the first; dc of the first state in ``dc_state``.

    dc += dh o (1 − tanh² c); dgates = (dc g i(1−i), dc c_{t−1} f(1−f), dc i (1−g²), dh tanh c ·
    o(1−o)); dh_{t−1} = dgates W_hh; dc_{t−1} = dc f. KEEP stores dh and dc for the second order.
    """
    rows = tl.program_id(1) * BB + tl.arange(0, BB)
    units = tl.program_id(0) * BH + tl.arange(0, BH)
    units_ok = units < hidden
    here = (rows < batch)[:, None] & units_ok[None, :]
    length, _ = _lengths(lengths, rows, batch, time, HAS_LENGTHS)
    start = tl.minimum(tl.max(length, axis=0), t_end)
    resident = ()
    if RESIDENT:
        resident = _weights(w, 0, units, w_out, w_in, 4 * hidden, units_ok, BK, TILES)
    state = dc_state + rows[:, None] * hidden + units[None, :]
    dc = tl.load(state, mask=here, other=0.0)
    for back in range(t_begin, start):
        t = start - 1 - (back - t_begin)
        alive = here & (t < length)[:, None]
        acc = tl.zeros((BB, BH), tl.float32)
        if t + 1 < time:
            later = dgates + (t + 1) * dgates_step
            acc = _product(acc, later, rows, rows < batch, dgates_row, resident, w, units, w_out,
                           w_in, 4 * hidden, units_ok, RESIDENT, GROUP, BK, TILES,
                           PRECISION)  # fmt: skip
        if HAS_DY:
            at = dy + t * dy_step + rows[:, None] * dy_row + units[None, :] * dy_unit
            acc += tl.load(at, mask=alive, other=0.0).to(tl.float32)
        ends = here & (t + 1 == length)[:, None]
        at = dh_last + rows[:, None] * dh_row + units[None, :]
        dh = acc + tl.load(at, mask=ends, other=0.0).to(tl.float32)
        at = dc_last + rows[:, None] * dc_row + units[None, :]
        dc += tl.load(at, mask=ends, other=0.0).to(tl.float32)
        i, f, g, o, s, before = _kept(gates, gates_row, gates_step, cell, cell_row, cell_step, c0,
                                      c0_row, t, rows, units, hidden, alive)  # fmt: skip
        dc += dh * o * (1 - s * s)
        at = dgates + t * dgates_step + rows[:, None] * dgates_row + units[None, :]
        kind = dgates.dtype.element_ty
        tl.store(at, (dc * g * i * (1 - i)).to(kind), mask=alive)
        tl.store(at + hidden, (dc * before * f * (1 - f)).to(kind), mask=alive)
        tl.store(at + 2 * hidden, (dc * i * (1 - g * g)).to(kind), mask=alive)
        tl.store(at + 3 * hidden, (dh * s * o * (1 - o)).to(kind), mask=alive)
        if KEEP:
            at = t * kept_step + rows[:, None] * kept_row + units[None, :]
            tl.store(dh_kept + at, dh, mask=alive)
            tl.store(dc_kept + at, dc, mask=alive)
        dc = tl.where(alive, dc * f, dc)
        if RESIDENT:
            _wait(counters + tl.program_id(1), (back + 1 - t_begin) * tl.num_programs(0))
    tl.store(state, dc, mask=here)


@triton.jit(do_not_specialize=_VARYING)
def tangent(
    p, w, h0, c0_tangent, c0, lengths, gates, cell, y, cell_tangent, h_last, c_last, counters,
    t_begin, t_end, time, batch, hidden,
    p_row, p_step, w_out, w_in, h0_row, c0_tangent_row, c0_row, gates_row, gates_step,
    cell_row, cell_step, y_row, y_step,
    HAS_LENGTHS: tl.constexpr, RESIDENT: tl.constexpr, PRECISION: tl.constexpr, BB: tl.constexpr,
    BH: tl.constexpr, BK: tl.constexpr, TILES: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The derivative of the forward sweep along a direction: ṗ in, completed in place; ḣ, ċ out.

    ṗ_t += ḣ_{t−1} W_hhᵀ; i̇ = i(1−i) ṗ_i and so on; ċ_t = ḟ c_{t−1} + f ċ_{t−1} + i̇ g + i ġ;
    ḣ_t = ȯ tanh c + o (1 − tanh² c) ċ.
    """
    rows = tl.program_id(1) * BB + tl.arange(0, BB)
    units = tl.program_id(0) * BH + tl.arange(0, BH)
    here = (rows < batch)[:, None] & (units < hidden)[None, :]
    n = tl.arange(0, 4 * BH)
    unit = tl.program_id(0) * BH + n % BH
    column, column_ok = n // BH * hidden + unit, unit < hidden
    length, _ = _lengths(lengths, rows, batch, time, HAS_LENGTHS)
    last = tl.minimum(tl.max(length, axis=0), t_end)
    resident = ()
    if RESIDENT:
        resident = _weights(w, 0, column, w_in, w_out, hidden, column_ok, BK, TILES)
    if t_begin == 0:
        first = c0_tangent + rows[:, None] * c0_tangent_row + units[None, :]
        dc = tl.load(first, mask=here, other=0.0).to(tl.float32)
    else:
        step = cell_tangent + (t_begin - 1) * cell_step
        later = step + rows[:, None] * cell_row + units[None, :]
        dc = tl.load(later, mask=here & (t_begin <= length)[:, None], other=0.0)
    for t in range(t_begin, last):
        if t == 0:
            h, h_row = h0, h0_row
        else:
            h, h_row = y + (t - 1) * y_step, y_row
        alive = here & (t < length)[:, None]
        wide = ((rows < batch) & (t < length))[:, None] & column_ok[None, :]
        inputs = p + t * p_step + rows[:, None] * p_row + column[None, :]
        acc = tl.load(inputs, mask=wide, other=0.0).to(tl.float32)
        acc = _product(acc, h, rows, rows < batch, h_row, resident, w, column, w_in, w_out, hidden,
                       column_ok, RESIDENT, GROUP, BK, TILES, PRECISION)  # fmt: skip
        tl.store(inputs, acc.to(p.dtype.element_ty), mask=wide)
        di, df, dg, do = _by_gate(acc, BB, BH)
        i, f, g, o, s, before = _kept(gates, gates_row, gates_step, cell, cell_row, cell_step, c0,
                                      c0_row, t, rows, units, hidden, alive)  # fmt: skip
        di, df, dg, do = di * i * (1 - i), df * f * (1 - f), dg * (1 - g * g), do * o * (1 - o)
        dc = tl.where(alive, df * before + f * dc + di * g + i * dg, dc)
        out = do * s + o * (1 - s * s) * dc
        at = y + t * y_step + rows[:, None] * y_row + units[None, :]
        tl.store(at, out.to(y.dtype.element_ty), mask=alive)
        at = cell_tangent + t * cell_step + rows[:, None] * cell_row + units[None, :]
        tl.store(at, dc, mask=alive)
        ends = here & (t + 1 == length)[:, None]
        at = rows[:, None] * hidden + units[None, :]
        tl.store(h_last + at, out.to(h_last.dtype.element_ty), mask=ends)
        tl.store(c_last + at, dc.to(c_last.dtype.element_ty), mask=ends)
        if RESIDENT:
            _wait(counters + tl.program_id(1), (t + 1 - t_begin) * tl.num_programs(0))


@triton.jit(do_not_specialize=_VARYING)
def second(
    extra, w, c0, c0_tangent, lengths, gates, cell, p_tangent, cell_tangent, dh_kept, dc_kept,
    dgates, dc_state, counters,
    t_begin, t_end, time, batch, hidden,
    extra_row, extra_step, w_out, w_in, c0_row, c0_tangent_row, gates_row, gates_step,
    cell_row, cell_step, p_row, p_step, kept_row, kept_step, dgates_row, dgates_step,
    HAS_LENGTHS: tl.constexpr, RESIDENT: tl.constexpr, PRECISION: tl.constexpr, BB: tl.constexpr,
    BH: tl.constexpr, BK: tl.constexpr, TILES: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The reverse sweep of ``tangent`` towards what the forward sweep computed.

    With (dh, dc) the adjoints of (ḣ, ċ), which the backward sweep kept, and (χ, γ) those of
    (h, c): χ = η_{t+1} W_hh + δ_{t+1} V_hh, the latter in ``extra``; s = tanh c, s' = 1 − s²;
    γ += χ o s' + dh (ȯ s' − 2 o s s' ċ);
    η_i = i(1−i) (γ g + dc ġ + dc g (1−2i) ṗ_i) and alike for f with c_{t−1}, ċ_{t−1};
    η_g = (1−g²) (γ i + dc i̇ − 2 dc i g ṗ_g);
    η_o = o(1−o) (χ s + dh s' ċ + dh s (1−2o) ṗ_o);  γ_{t−1} = γ f + dc ḟ.
    """
    rows = tl.program_id(1) * BB + tl.arange(0, BB)
    units = tl.program_id(0) * BH + tl.arange(0, BH)
    units_ok = units < hidden
    here = (rows < batch)[:, None] & units_ok[None, :]
    length, _ = _lengths(lengths, rows, batch, time, HAS_LENGTHS)
    start = tl.minimum(tl.max(length, axis=0), t_end)
    resident = ()
    if RESIDENT:
        resident = _weights(w, 0, units, w_out, w_in, 4 * hidden, units_ok, BK, TILES)
    state = dc_state + rows[:, None] * hidden + units[None, :]
    gamma = tl.load(state, mask=here, other=0.0)
    for back in range(t_begin, start):
        t = start - 1 - (back - t_begin)
        alive = here & (t < length)[:, None]
        chi = tl.zeros((BB, BH), tl.float32)
        if t + 1 < time:
            at = extra + (t + 1) * extra_step + rows[:, None] * extra_row + units[None, :]
            chi = tl.load(at, mask=here, other=0.0).to(tl.float32)
            later = dgates + (t + 1) * dgates_step
            chi = _product(chi, later, rows, rows < batch, dgates_row, resident, w, units, w_out,
                           w_in, 4 * hidden, units_ok, RESIDENT, GROUP, BK, TILES,
                           PRECISION)  # fmt: skip
        i, f, g, o, s, before = _kept(gates, gates_row, gates_step, cell, cell_row, cell_step, c0,
                                      c0_row, t, rows, units, hidden, alive)  # fmt: skip
        at = p_tangent + t * p_step + rows[:, None] * p_row + units[None, :]
        pi = tl.load(at, mask=alive, other=0.0).to(tl.float32)
        pf = tl.load(at + hidden, mask=alive, other=0.0).to(tl.float32)
        pg = tl.load(at + 2 * hidden, mask=alive, other=0.0).to(tl.float32)
        po = tl.load(at + 3 * hidden, mask=alive, other=0.0).to(tl.float32)
        at = cell_tangent + t * cell_step + rows[:, None] * cell_row + units[None, :]
        ct = tl.load(at, mask=alive, other=0.0)
        if t == 0:
            first = c0_tangent + rows[:, None] * c0_tangent_row + units[None, :]
            ct_before = tl.load(first, mask=alive, other=0.0).to(tl.float32)
        else:
            ct_before = tl.load(at - cell_step, mask=alive, other=0.0)
        at = t * kept_step + rows[:, None] * kept_row + units[None, :]
        dh = tl.load(dh_kept + at, mask=alive, other=0.0)
        dc = tl.load(dc_kept + at, mask=alive, other=0.0)
        si, sf, sg, so, slope = i * (1 - i), f * (1 - f), 1 - g * g, o * (1 - o), 1 - s * s
        gamma += chi * o * slope + dh * slope * (so * po - 2 * o * s * ct)
        at = dgates + t * dgates_step + rows[:, None] * dgates_row + units[None, :]
        kind = dgates.dtype.element_ty
        eta = si * (gamma * g + dc * (sg * pg + g * (1 - 2 * i) * pi))
        tl.store(at, eta.to(kind), mask=alive)
        eta = sf * (gamma * before + dc * (ct_before + before * (1 - 2 * f) * pf))
        tl.store(at + hidden, eta.to(kind), mask=alive)
        eta = sg * (gamma * i + dc * (si * pi - 2 * i * g * pg))
        tl.store(at + 2 * hidden, eta.to(kind), mask=alive)
        eta = so * (chi * s + dh * (slope * ct + s * (1 - 2 * o) * po))
        tl.store(at + 3 * hidden, eta.to(kind), mask=alive)
        gamma = tl.where(alive, gamma * f + dc * sf * pf, gamma)
        if RESIDENT:
            _wait(counters + tl.program_id(1), (back + 1 - t_begin) * tl.num_programs(0))
    tl.store(state, gamma, mask=here)
