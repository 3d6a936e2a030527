"""The reparameterised sample and its KL in Triton.

ε of row b and column j comes from Philox4x32-10 (Salmon et al. 2011) with the seed's 64 bits as key
and the counter (j, ⌊b / 4⌋, 0, 0), whose four words make the normals of rows 4⌊b / 4⌋ … + 3 by
Box–Muller. So the noise depends on the seed, the row and the column, not on tiles, strides or the
size of the batch; nothing of it is stored, and one Philox call serves four elements. With a call
for each element the kernels would be bound by integer arithmetic, not by memory.

Row i of rank r of w is row b = r + i·w of the whole batch; others of its four are other ranks'. So
where w > 1 (``DEALT``) each element has a call of its own, and the ranks together draw what one
process would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .compiled import Variant

# A program takes four sub-tiles of TILE elements, one to a thread: loads and noise are laid out
# alike then, nothing goes through shared memory, and rows of any alignment cost the same. Where
# there is enough to fill a chip it does so UNROLL times: sharing Philox's keys and the addresses
# among 16 elements takes the instructions of one (sm_90, float32, forward) from 88 to 76.
TILE = 256
UNROLL = 4
LARGE = 1 << 22  # elements
LANES = 64 if torch.version.hip else 32
STAGES = 3  # Triton's own choice; no loop here is pipelined


@triton.jit
def philox(seed, rows, columns):
    zero = rows * 0 + columns * 0
    return tl.philox(seed, columns + zero, rows + zero, zero, zero)


@triton.jit
def box_muller(a, b):
    """Two normals from two words (Box & Muller 1958).

    The second word's top two bits choose the quadrant, the others the angle in it, so that sine and
    cosine are short series: Triton's own reduce any argument, through a table on the stack.
    """
    x = ((b & 0x3FFFFFFF).to(tl.int32) - 0x20000000).to(tl.float32) * 1.4629180792671596e-09
    square = x * x
    sine = square * (1 / 362880) - 1 / 5040
    sine = sine * square + 1 / 120
    sine = sine * square - 1 / 6
    sine = sine * square * x + x
    cosine = square * (1 / 40320) - 1 / 720
    cosine = cosine * square + 1 / 24
    cosine = cosine * square - 1 / 2
    cosine = cosine * square + 1
    radius = tl.sqrt(-1.3862943611198906 * tl.log2(a.to(tl.float32) * 2**-32 + 2**-33))
    radius = tl.where((b & 0x40000000) == 0, radius, -radius)
    swap = (b & 0x80000000) == 0
    return radius * tl.where(swap, cosine, sine), radius * tl.where(swap, sine, cosine)


@triton.jit
def normal(seed, rows, columns):
    """ε of these rows of the whole batch, at a Philox call for each element."""
    a, b, c, d = philox(seed, rows // 4, columns)
    even, odd = box_muller(tl.where(rows % 4 < 2, a, c), tl.where(rows % 4 < 2, b, d))
    return tl.where(rows % 2 == 0, even, odd)


@triton.jit
def _normals(seed, groups, columns, rank, world, DEALT: tl.constexpr):
    """ε of this rank's rows 4g, 4g + 1, 4g + 2 and 4g + 3."""
    if DEALT:
        rows = rank + 4 * groups * world
        e0 = normal(seed, rows, columns)
        e1 = normal(seed, rows + world, columns)
        e2 = normal(seed, rows + 2 * world, columns)
        e3 = normal(seed, rows + 3 * world, columns)
    else:
        a, b, c, d = philox(seed, groups, columns)
        e0, e1 = box_muller(a, b)
        e2, e3 = box_muller(c, d)
    return e0, e1, e2, e3


@triton.jit
def _bend(x, exp_x):
    """eˣ − 1 − x; by its series near 0, where the difference would cancel."""
    series = x * (1 / 5040) + 1 / 720
    series = series * x + 1 / 120
    series = series * x + 1 / 24
    series = series * x + 1 / 6
    series = series * x + 1 / 2
    return tl.where(tl.abs(x) < 0.5, x * x * series, exp_x - 1 - x)


@triton.jit
def _start(pointer, row, stride):
    return pointer + row.to(tl.int64) * stride


@triton.jit
def std(logvar):
    return tl.exp2(logvar * 0.7213475204444817)  # 1 / (2 ln 2)


@triton.jit
def _forward_part(mu, logvar, z, kl, rows, columns, eps, height, width,
                  mu_row, mu_col, logvar_row, logvar_col):  # fmt: skip
    here = (rows < height) & (columns < width)
    m = tl.load(mu + (rows * mu_row + columns * mu_col), here).to(tl.float32)
    s = tl.load(logvar + (rows * logvar_row + columns * logvar_col), here).to(tl.float32)
    sigma = std(s)
    out = rows * width + columns
    tl.store(z + out, (m + sigma * eps).to(z.dtype.element_ty), here)
    tl.store(kl + out, 0.5 * (m * m + _bend(s, sigma * sigma)), here)


@triton.jit(do_not_specialize=["height", "rank", "world"])
def forward(
    mu, logvar, seed, z, kl, height, width, mu_row, mu_col, logvar_row, logvar_col, rank, world,
    DEALT: tl.constexpr, R: tl.constexpr, C: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """z = μ + exp(log σ² / 2) ε and KL = (μ² + σ² − 1 − log σ²) / 2."""
    first = tl.program_id(0) * (4 * R * U)
    columns = tl.program_id(1) * C + tl.arange(0, C)[None, :]
    mu, logvar = _start(mu, first, mu_row), _start(logvar, first, logvar_row)
    z, kl = _start(z, first, width), _start(kl, first, width)
    key = tl.load(seed)
    for u in tl.static_range(U):
        groups = u * R + tl.arange(0, R)[:, None]
        noise = _normals(key, first // 4 + groups, columns, rank, world, DEALT)
        for k in tl.static_range(4):
            _forward_part(mu, logvar, z, kl, 4 * groups + k, columns, noise[k], height - first,
                          width, mu_row, mu_col, logvar_row, logvar_col)  # fmt: skip


@triton.jit
def _backward_part(mu, logvar, dz, dkl, dmu, dlogvar, rows, columns, eps, height, width,
                   mu_row, mu_col, logvar_row, logvar_col, dz_row, dz_col, dkl_row, dkl_col,
                   HAS_DZ: tl.constexpr, HAS_DKL: tl.constexpr):  # fmt: skip
    here = (rows < height) & (columns < width)
    s = tl.load(logvar + (rows * logvar_row + columns * logvar_col), here).to(tl.float32)
    sigma = std(s)
    to_mu, to_logvar = tl.zeros_like(s), tl.zeros_like(s)
    if HAS_DZ:
        g = tl.load(dz + (rows * dz_row + columns * dz_col), here).to(tl.float32)
        to_mu, to_logvar = g, g * eps * sigma
    if HAS_DKL:
        m = tl.load(mu + (rows * mu_row + columns * mu_col), here).to(tl.float32)
        g = tl.load(dkl + (rows * dkl_row + columns * dkl_col), here).to(tl.float32)
        to_mu += g * m
        to_logvar += g * (_bend(s, sigma * sigma) + s)
    out = rows * width + columns
    tl.store(dmu + out, to_mu.to(dmu.dtype.element_ty), here)
    tl.store(dlogvar + out, (0.5 * to_logvar).to(dlogvar.dtype.element_ty), here)


@triton.jit(do_not_specialize=["height", "rank", "world"])
def backward(
    mu, logvar, seed, dz, dkl, dmu, dlogvar, height, width, mu_row, mu_col, logvar_row, logvar_col,
    dz_row, dz_col, dkl_row, dkl_col, rank, world, HAS_DZ: tl.constexpr, HAS_DKL: tl.constexpr,
    DEALT: tl.constexpr, R: tl.constexpr, C: tl.constexpr, U: tl.constexpr,
):  # fmt: skip
    """dμ = dz + μ dKL and dlog σ² = (ε σ dz + (σ² − 1) dKL) / 2."""
    first = tl.program_id(0) * (4 * R * U)
    columns = tl.program_id(1) * C + tl.arange(0, C)[None, :]
    mu, logvar = _start(mu, first, mu_row), _start(logvar, first, logvar_row)
    dmu, dlogvar = _start(dmu, first, width), _start(dlogvar, first, width)
    if HAS_DZ:
        dz = _start(dz, first, dz_row)
        key = tl.load(seed)
    if HAS_DKL:
        dkl = _start(dkl, first, dkl_row)
    for u in tl.static_range(U):
        groups = u * R + tl.arange(0, R)[:, None]
        noise = (0, 0, 0, 0)
        if HAS_DZ:
            noise = _normals(key, first // 4 + groups, columns, rank, world, DEALT)
        for k in tl.static_range(4):
            _backward_part(mu, logvar, dz, dkl, dmu, dlogvar, 4 * groups + k, columns, noise[k],
                           height - first, width, mu_row, mu_col, logvar_row, logvar_col,
                           dz_row, dz_col, dkl_row, dkl_col, HAS_DZ, HAS_DKL)  # fmt: skip


def warps_for(elements: int, lanes: int) -> int:
    """As many warps as give each thread one of the elements, but from 4 to 16."""
    return max(4, min(16, elements // lanes))


def _tiles(height: int, width: int, lanes: int = LANES) -> tuple[tuple[int, int], dict[str, Any]]:
    """The grid, and constants and warps of a program, of ``forward`` and ``backward``."""
    across = min(128, max(32, triton.next_power_of_2(width)))
    groups = TILE // across
    unroll = UNROLL if height * width >= LARGE else 1
    grid = triton.cdiv(height, 4 * groups * unroll), triton.cdiv(width, across)
    return grid, {"R": groups, "C": across, "U": unroll, "num_warps": warps_for(TILE, lanes)}


@torch.library.custom_op("lvtrain::reparameterize", mutates_args=())
def sample(
    mu: Tensor, logvar: Tensor, seed: Tensor, rank: int, world: int
) -> tuple[Tensor, Tensor]:
    """z in μ's dtype and the KL of each element in float32."""
    height, width = mu.shape
    z, kl = mu.new_empty(height, width), mu.new_empty(height, width, dtype=torch.float32)
    grid, constants = _tiles(height, width)
    with torch.cuda.device_of(mu):
        forward[grid](
            mu, logvar, seed, z, kl, height, width, *mu.stride(), *logvar.stride(), rank, world,
            DEALT=world > 1, **constants,
        )  # fmt: skip
    return z, kl


@sample.register_fake
def _(mu: Tensor, logvar: Tensor, seed: Tensor, rank: int, world: int) -> tuple[Tensor, Tensor]:
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape, dtype=torch.float32)


@torch.library.custom_op("lvtrain::reparameterize_backward", mutates_args=())
def sample_backward(
    mu: Tensor,
    logvar: Tensor,
    seed: Tensor,
    dz: Tensor | None,
    dkl: Tensor | None,
    rank: int,
    world: int,
) -> tuple[Tensor, Tensor]:
    """The gradients of μ and log σ² from those of z and of the KL, of which one may be absent."""
    height, width = mu.shape
    dmu, dlogvar = mu.new_empty(height, width), mu.new_empty(height, width)
    grid, constants = _tiles(height, width)
    strides = [s for t in (mu, logvar, dz, dkl) for s in ((0, 0) if t is None else t.stride())]
    with torch.cuda.device_of(mu):
        backward[grid](
            mu, logvar, seed, dz, dkl, dmu, dlogvar, height, width, *strides, rank, world,
            HAS_DZ=dz is not None, HAS_DKL=dkl is not None, DEALT=world > 1, **constants,
        )  # fmt: skip
    return dmu, dlogvar


@sample_backward.register_fake
def _(
    mu: Tensor,
    logvar: Tensor,
    seed: Tensor,
    dz: Tensor | None,
    dkl: Tensor | None,
    rank: int,
    world: int,
) -> tuple[Tensor, Tensor]:
    return mu.new_empty(mu.shape), mu.new_empty(mu.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, rank, world = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)
    ctx.place = rank, world


def _differentiate(ctx: Any, dz: Tensor | None, dkl: Tensor | None) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("reparameterize can be differentiated once only")
    if dz is None and dkl is None:
        return None, None, None, None, None
    return *sample_backward(*ctx.saved_tensors, dz, dkl, *ctx.place), None, None, None


sample.register_autograd(_differentiate, setup_context=_keep)


Case = tuple[str, Any, str, int, dict[str, object]]
"""Name, kernel, dtype, Z and constants of a variant, absent gradients among them."""

_IN_FLOAT32 = ("kl", "dkl", "log_prior", "sums", "weights", "mean", "component_logvar", "logit")


def variants_of(
    op: str, cases: tuple[Case, ...], tiles: Callable[[int, int], dict[str, Any]]
) -> list[Variant]:
    """The cases as they are launched for 32 lanes and for 64; ``tiles`` is of Z and lanes."""
    found = []
    for lanes, targets in ((32, ("sm_80", "sm_90", "sm_100")), (64, ("gfx942",))):
        for name, kernel, dtype, width, flags in cases:
            constants = tiles(width, lanes)
            warps = constants.pop("num_warps")
            known = constants | flags | {n: 1 for n in kernel.arg_names if n.endswith("_col")}
            kinds = dict.fromkeys(("height", "components", "rank", "world"), "i32")
            kinds["seed"] = "*i64"
            kinds |= dict.fromkeys(_IN_FLOAT32, "*fp32")
            stride = "i32" if width % 16 else "i32:16"
            signature = {
                n: stride if n == "width" or n.endswith("_row") else kinds.get(n, f"*{dtype}")
                for n in kernel.arg_names
                if n not in known
            }
            name = f"{op}/{name} {dtype} Z{width} {lanes} lanes"
            found.append(Variant(name, kernel, signature, known, warps, STAGES, targets))
    return found


def variants() -> list[Variant]:
    """Aligned and odd rows, many and few of them, a rank's, absent gradients."""
    whole, dealt = {"DEALT": False}, {"DEALT": True}
    both = {"HAS_DZ": True, "HAS_DKL": True, "DEALT": False}
    cases: tuple[Case, ...] = (
        ("forward", forward, "fp32", 1024, {**whole}),
        ("forward", forward, "bf16", 1024, {**whole}),
        ("forward of odd rows", forward, "bf16", 300, {**whole}),
        ("forward of few rows", forward, "bf16", 300, {**whole, "U": 1}),
        ("forward of a rank", forward, "bf16", 1024, {**dealt}),
        ("forward of few rows of a rank", forward, "bf16", 300, {**dealt, "U": 1}),
        ("backward", backward, "fp32", 1024, {**both}),
        ("backward", backward, "bf16", 1024, {**both}),
        ("backward of odd rows", backward, "bf16", 300, {**both}),
        ("backward of few rows", backward, "bf16", 300, {**both, "U": 1}),
        ("backward of a rank", backward, "bf16", 1024, {**both, **dealt}),
        ("backward of few rows of a rank", backward, "bf16", 300, {**both, **dealt, "U": 1}),
        ("backward of z", backward, "bf16", 1024, {**both, "HAS_DKL": False, "dkl": None}),
        ("backward of KL", backward, "bf16", 1024, {**both, "HAS_DZ": False, "dz": None}),
    )
    return variants_of("reparameterize", cases, lambda z, lanes: _tiles(LARGE, z, lanes)[1])
