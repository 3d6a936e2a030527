"""The pointwise passes of the gradient penalty in Triton, each one launch.

A normalisation runs along rows (LayerNorm) or columns (BatchNorm): its kernels see *lines* of
numbers, of which a program takes M, N numbers at a time. They go over their lines more than once
rather than hold them, so any size will do; after the first time they are in the cache.

All sums are made in a fixed order, in float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .compiled import Variant
from .gradient_penalty_layers import Pointwise

WARPS = 4
STAGES = 1  # nothing here is worth pipelining: most loops are of one or two rounds


@triton.jit
def penalise(v, t, penalties, scale, target, width, v_row, v_col, C: tl.constexpr):
    """A row's scale (‖v‖ − target)² and its gradient, 0 where the row is 0; a program a row."""
    row = tl.program_id(0)
    start = v + row.to(tl.int64) * v_row
    columns = tl.arange(0, C)
    squares = tl.zeros([C], tl.float32)
    for first in range(0, width, C):
        at = first + columns
        x = tl.load(start + at * v_col, at < width, other=0).to(tl.float32)
        squares += x * x
    norm = tl.sqrt(tl.sum(squares, axis=0))
    excess = norm - target
    tl.store(penalties + row, scale * excess * excess)
    # Where the norm is 0 so is the row: any finite factor gives 0.
    step = 2 * scale * excess / tl.where(norm == 0, 1.0, norm)
    out = t + row.to(tl.int64) * width
    for first in range(0, width, C):
        at = first + columns
        x = tl.load(start + at * v_col, at < width, other=0).to(tl.float32)
        tl.store(out + at, (x * step).to(t.dtype.element_ty), at < width)


@triton.jit(do_not_specialize=["height"])
def sloped_sum(t, a, out, slope, height, width, R: tl.constexpr, C: tl.constexpr):
    """Σ_b φ'(a_b) t_b of C columns, R rows at a time."""
    columns = tl.program_id(0) * C + tl.arange(0, C)[None, :]
    total = tl.zeros([R, C], tl.float32)
    for first in range(0, height, R):
        rows = first + tl.arange(0, R)[:, None]
        here = (rows < height) & (columns < width)
        at = rows.to(tl.int64) * width + columns
        g = tl.load(t + at, here, other=0).to(tl.float32)
        x = tl.load(a + at, here, other=0).to(tl.float32)
        total += tl.where(x > 0, g, g * slope)
    column = tl.program_id(0) * C + tl.arange(0, C)
    tl.store(out + column, tl.sum(total, axis=0).to(out.dtype.element_ty), column < width)


@triton.jit(do_not_specialize=["count"])
def tanh_bend(v, t, value, w, out, count, HAS_W: tl.constexpr, N: tl.constexpr):
    """(w − 2 v t φ) (1 − φ²)."""
    at = tl.program_id(0).to(tl.int64) * N + tl.arange(0, N)
    here = at < count
    y = tl.load(value + at, here).to(tl.float32)
    bend = -2 * tl.load(v + at, here).to(tl.float32) * tl.load(t + at, here).to(tl.float32) * y
    if HAS_W:
        bend += tl.load(w + at, here).to(tl.float32)
    tl.store(out + at, (bend * (1 - y * y)).to(out.dtype.element_ty), here)


@triton.jit
def _place(first, height, width, M: tl.constexpr, N: tl.constexpr, BY_ROW: tl.constexpr):
    """Where the numbers ``first`` onwards of a program's lines are [M, N], if so, and columns."""
    line = tl.program_id(0) * M + tl.arange(0, M)[:, None]
    step = first + tl.arange(0, N)[None, :]
    if BY_ROW:
        row, column = line, step
    else:
        row, column = step, line
    return row.to(tl.int64) * width + column, (row < height) & (column < width), column


@triton.jit
def _scaled(numbers, at, here, gain, column, width, HAS_GAIN: tl.constexpr):
    """Numbers times their columns' gain, 0 where there are none."""
    x = tl.load(numbers + at, here, other=0).to(tl.float32)
    if HAS_GAIN:
        x *= tl.load(gain + column, column < width, other=0).to(tl.float32)
    return x


@triton.jit
def _mean(total, count):
    return (tl.sum(total, axis=1) / count)[:, None]


@triton.jit
def _inverse(inv, height, width, M: tl.constexpr, BY_ROW: tl.constexpr):
    line = tl.program_id(0) * M + tl.arange(0, M)
    return tl.load(inv + line, line < (height if BY_ROW else width), other=0)[:, None]


@triton.jit(do_not_specialize=["height"])
def normalise(
    a, gain, bias, out, z, inv, eps, height, width, HAS_GAIN: tl.constexpr, HAS_BIAS: tl.constexpr,
    BY_ROW: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """ẑ = inv (a − mean a), inv = 1 / √(var a + ε), and γ ẑ + β."""
    lines, count = (height, width) if BY_ROW else (width, height)
    total = tl.zeros([M, N], tl.float32)
    for first in range(0, count, N):
        at, here, column = _place(first, height, width, M, N, BY_ROW)
        total += tl.load(a + at, here, other=0).to(tl.float32)
    mean = _mean(total, count)
    total = tl.zeros([M, N], tl.float32)
    for first in range(0, count, N):
        at, here, column = _place(first, height, width, M, N, BY_ROW)
        centred = tl.where(here, tl.load(a + at, here, other=0).to(tl.float32) - mean, 0)
        total += centred * centred
    scale = 1 / tl.sqrt(_mean(total, count) + eps)
    line = tl.program_id(0) * M + tl.arange(0, M)[:, None]
    tl.store(inv + line, scale, line < lines)
    for first in range(0, count, N):
        at, here, column = _place(first, height, width, M, N, BY_ROW)
        y = (tl.load(a + at, here, other=0).to(tl.float32) - mean) * scale
        tl.store(z + at, y.to(z.dtype.element_ty), here)
        if HAS_GAIN:
            y *= tl.load(gain + column, column < width, other=0).to(tl.float32)
        if HAS_BIAS:
            y += tl.load(bias + column, column < width, other=0).to(tl.float32)
        tl.store(out + at, y.to(out.dtype.element_ty), here)


@triton.jit(do_not_specialize=["height"])
def project(
    s, z, inv, before, after, projected, out, height, width, HAS_BEFORE: tl.constexpr,
    HAS_AFTER: tl.constexpr, BY_ROW: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """inv (q − mean q − ẑ mean(ẑ q)) with q = before · s, and that times after."""
    count = width if BY_ROW else height
    total, along = tl.zeros([M, N], tl.float32), tl.zeros([M, N], tl.float32)
    for first in range(0, count, N):
        at, here, column = _place(first, height, width, M, N, BY_ROW)
        q = _scaled(s, at, here, before, column, width, HAS_BEFORE)
        total += q
        along += q * tl.load(z + at, here, other=0).to(tl.float32)
    mean, slope = _mean(total, count), _mean(along, count)
    scale = _inverse(inv, height, width, M, BY_ROW)
    for first in range(0, count, N):
        at, here, column = _place(first, height, width, M, N, BY_ROW)
        q = _scaled(s, at, here, before, column, width, HAS_BEFORE)
        y = scale * (q - mean - slope * tl.load(z + at, here, other=0).to(tl.float32))
        tl.store(projected + at, y.to(projected.dtype.element_ty), here)
        if HAS_AFTER:
            y *= tl.load(after + column, column < width, other=0).to(tl.float32)
            tl.store(out + at, y.to(out.dtype.element_ty), here)


@triton.jit(do_not_specialize=["height"])
def normalise_bend(
    v, pulled, t, pushed, w, z, inv, gain, out, of_gain, height, width, HAS_GAIN: tl.constexpr,
    HAS_W: tl.constexpr, BY_ROW: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """P(γ w) − inv (mean(t P(γ v)) ẑ + mean(ẑ t) P(γ v) + mean(ẑ γ v) P(t)), and v P(t) + w ẑ."""
    count = width if BY_ROW else height
    tp, zt = tl.zeros([M, N], tl.float32), tl.zeros([M, N], tl.float32)
    zv, zw = tl.zeros([M, N], tl.float32), tl.zeros([M, N], tl.float32)
    total = tl.zeros([M, N], tl.float32)
    for first in range(0, count, N):
        at, here, column = _place(first, height, width, M, N, BY_ROW)
        y = tl.load(z + at, here, other=0).to(tl.float32)
        s = tl.load(t + at, here, other=0).to(tl.float32)
        tp += s * tl.load(pulled + at, here, other=0).to(tl.float32)
        zt += y * s
        zv += y * _scaled(v, at, here, gain, column, width, HAS_GAIN)
        if HAS_W:
            q = _scaled(w, at, here, gain, column, width, HAS_GAIN)
            total += q
            zw += y * q
    scale = _inverse(inv, height, width, M, BY_ROW)
    tp_mean, zt_mean, zv_mean = _mean(tp, count), _mean(zt, count), _mean(zv, count)
    mean, zw_mean = _mean(total, count), _mean(zw, count)
    for first in range(0, count, N):
        at, here, column = _place(first, height, width, M, N, BY_ROW)
        y = tl.load(z + at, here, other=0).to(tl.float32)
        projected_t = tl.load(pushed + at, here, other=0).to(tl.float32)
        bend = -tp_mean * y - zv_mean * projected_t
        bend -= zt_mean * tl.load(pulled + at, here, other=0).to(tl.float32)
        slope = tl.load(v + at, here, other=0).to(tl.float32) * projected_t
        if HAS_W:
            q = _scaled(w, at, here, gain, column, width, HAS_GAIN)
            bend += q - mean - zw_mean * y
            slope += tl.load(w + at, here, other=0).to(tl.float32) * y
        tl.store(out + at, (scale * bend).to(out.dtype.element_ty), here)
        tl.store(of_gain + at, slope.to(of_gain.dtype.element_ty), here)


def _lines(height: int, width: int, dim: int) -> tuple[tuple[int], dict[str, Any]]:
    """The grid and the constants of a program whose lines run along ``dim``."""
    along = min(1024, max(32, triton.next_power_of_2(width)))
    lines, numbers = (max(1, 512 // along), along) if dim == 1 else (16, 32)
    grid = (triton.cdiv(height if dim == 1 else width, lines),)
    constants = {"BY_ROW": dim == 1, "M": lines, "N": numbers}
    return grid, constants | {"num_warps": WARPS, "num_stages": STAGES}


def _across(width: int) -> dict[str, int]:
    columns = min(1024, max(128, triton.next_power_of_2(width)))
    return {"C": columns, "num_warps": WARPS, "num_stages": STAGES}


_SUM = {"R": 64, "C": 16, "num_warps": WARPS, "num_stages": STAGES}
_FLAT = {"N": 1024, "num_warps": WARPS, "num_stages": STAGES}


def _dense(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors, rows one after the other; only a critic's input and its scores' v are not so."""
    return [None if t is None else t.contiguous() for t in tensors]


class Fused(Pointwise):
    """The passes in Triton."""

    def penalise(self, v: Tensor, weight: float, target: float) -> tuple[Tensor, Tensor]:
        height, width = v.shape
        t, penalties = v.new_empty(height, width), v.new_empty(height, dtype=torch.float32)
        penalise[(height,)](
            v, t, penalties, weight / height, target, width, *v.stride(), **_across(width)
        )
        return penalties.sum(), t

    def sloped_sum(self, t: Tensor, a: Tensor, slope: float) -> Tensor:
        height, width = t.shape
        out = t.new_empty(width)
        grid = (triton.cdiv(width, _SUM["C"]),)
        sloped_sum[grid](*_dense(t, a), out, slope, height, width, **_SUM)
        return out

    def tanh_bend(self, v: Tensor, t: Tensor, value: Tensor, w: Tensor | None) -> Tensor:
        out = value.new_empty(value.shape)
        grid = (triton.cdiv(out.numel(), _FLAT["N"]),)
        tanh_bend[grid](
            *_dense(v, t, value, w), out, out.numel(), HAS_W=w is not None, **_FLAT
        )  # fmt: skip
        return out

    def normalise(
        self, a: Tensor, gain: Tensor | None, bias: Tensor | None, eps: float, dim: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        height, width = a.shape
        out, z = (a.new_empty(height, width) for _ in range(2))
        inv = a.new_empty(height if dim == 1 else width, dtype=torch.float32)
        grid, constants = _lines(height, width, dim)
        normalise[grid](
            *_dense(a, gain, bias), out, z, inv, eps, height, width,
            HAS_GAIN=gain is not None, HAS_BIAS=bias is not None, **constants,
        )  # fmt: skip
        return out, z, inv

    def project(
        self, s: Tensor, z: Tensor, inv: Tensor, before: Tensor | None, after: Tensor | None,
        dim: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        height, width = z.shape
        projected = torch.empty_like(z)
        out = projected if after is None else torch.empty_like(z)
        grid, constants = _lines(height, width, dim)
        project[grid](
            *_dense(s, z, inv, before, after), projected, out, height, width,
            HAS_BEFORE=before is not None, HAS_AFTER=after is not None, **constants,
        )  # fmt: skip
        return projected, out

    def normalise_bend(
        self, v: Tensor, pulled: Tensor, t: Tensor, pushed: Tensor, w: Tensor | None, z: Tensor,
        inv: Tensor, gain: Tensor | None, dim: int,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        height, width = z.shape
        out, of_gain = torch.empty_like(z), torch.empty_like(z)
        grid, constants = _lines(height, width, dim)
        normalise_bend[grid](
            *_dense(v, pulled, t, pushed, w, z, inv, gain), out, of_gain, height, width,
            HAS_GAIN=gain is not None, HAS_W=w is not None, **constants,
        )  # fmt: skip
        return out, of_gain


def variants() -> list[Variant]:
    """Both dtypes; rows and columns; odd widths; what may be absent."""
    found = []

    def add(name: str, kernel: Any, dtype: str, width: int, **constants: object) -> None:
        known = dict(constants)
        warps, stages = int(known.pop("num_warps")), int(known.pop("num_stages"))  # type: ignore[call-overload]
        kinds = {
            "width": "i32" if width % 16 else "i32:16",
            "height": "i32",
            "count": "i32",
            "v_row": "i32" if width % 16 else "i32:16",
            "inv": "*fp32",
            "penalties": "*fp32",
        } | dict.fromkeys(("scale", "target", "slope", "eps"), "fp32")
        signature = {n: kinds.get(n, f"*{dtype}") for n in kernel.arg_names if n not in known}
        name = f"gradient_penalty/{name} {dtype}"
        found.append(Variant(name, kernel, signature, known, warps, stages))

    for dtype in ("fp32", "bf16"):
        for width in (300, 1024):
            add(f"penalise C{width}", penalise, dtype, width, v_col=1, **_across(width))
        add("sloped sum", sloped_sum, dtype, 512, **_SUM)
        add("tanh bend", tanh_bend, dtype, 512, HAS_W=True, **_FLAT)
        for dim, way in ((1, "rows"), (0, "columns")):
            both: dict[str, object] = _lines(64, 512, dim)[1]
            add(f"normalise {way}", normalise, dtype, 512, HAS_GAIN=True, HAS_BIAS=True, **both)
            add(f"project {way}", project, dtype, 512, HAS_BEFORE=True, HAS_AFTER=True, **both)
            add(f"bend {way}", normalise_bend, dtype, 512, HAS_GAIN=True, HAS_W=True, **both)
    return found
