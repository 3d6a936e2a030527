"""One LSTM layer over rows of unequal length, as a single differentiable operation.

``lstm`` takes vectors, ``embedding_lstm`` words. On a CPU the work is done by ``lstm_packed``, on a
GPU by ``lstm_triton``.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from . import lstm_packed
from .dispatch import autocast, choose


def lstm(
    x: Float[Tensor, "B T I"],
    w_ih: Float[Tensor, "G I"],
    w_hh: Float[Tensor, "G H"],
    bias: Float[Tensor, "G"] | Float[Tensor, "B G"],
    h0: Float[Tensor, "B H"] | None = None,
    c0: Float[Tensor, "B H"] | None = None,
    lengths: Int[Tensor, "B"] | None = None,
) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H"], Float[Tensor, "B H"]]:
    """Run one LSTM layer, G = 4H; differentiable twice.

    i, f, o = σ(·), g = tanh(·) of W_ih x_t + W_hh h_{t−1} + b, in the order i, f, g, o;
    c_t = f c_{t−1} + i g;  h_t = o tanh(c_t)  (Hochreiter & Schmidhuber 1997).

    Args:
        bias: one vector, or one a row: what is the same at every step of a row (a code's
            projection, say) is added here once instead of being multiplied at every step.
        lengths: real steps of each row, in 1..T; all T where not given. Fastest in descending
            order.

    Returns:
        y, zero beyond each row's length, and h, c at each row's last real step.

    Raises:
        ValueError: shapes, dtypes or devices that do not agree, or a length outside 1..T.
    """
    if x.ndim != 3 or 0 in x.shape[:2]:
        raise ValueError(f"x: expected shape [B, T, I] with B, T ≥ 1, found {list(x.shape)}")
    batch, time, inputs = x.shape
    x, w_ih, w_hh, bias, h0, c0 = _cast(x, w_ih, w_hh, bias, h0, c0)
    _check("x", x, (batch, inputs), w_ih, w_hh, bias, h0, c0)
    if _on_kernels(x, batch * time * len(w_hh)):
        from . import lstm_triton

        return lstm_triton.lstm(
            x, w_ih, w_hh, bias, h0, c0, _on_device(lengths, batch, time, x.device)
        )
    counts = _counts(lengths, batch, time)
    with torch.autocast(x.device.type, enabled=False):
        return lstm_packed.lstm(x, w_ih, w_hh, bias, h0, c0, counts)


def embedding_lstm(
    tokens: Int[Tensor, "B T"],
    table: Float[Tensor, "V E"],
    w_ih: Float[Tensor, "G E"],
    w_hh: Float[Tensor, "G H"],
    bias: Float[Tensor, "G"] | Float[Tensor, "B G"],
    h0: Float[Tensor, "B H"] | None = None,
    c0: Float[Tensor, "B H"] | None = None,
    lengths: Int[Tensor, "B"] | None = None,
    sparse: bool = False,
) -> tuple[Float[Tensor, "B T H"], Float[Tensor, "B H"], Float[Tensor, "B H"]]:
    """Run one LSTM layer over words: ``lstm(table[tokens], …)``, each distinct word projected once.

    Args:
        tokens: words; what stands beyond a row's length is not read.
        sparse: give the table's gradient as a sparse tensor.

    Raises:
        ValueError: as ``lstm``; or a word outside 0..V−1.
    """
    if tokens.ndim != 2 or 0 in tokens.shape or tokens.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"tokens: expected whole numbers of shape [B, T] with B, T ≥ 1, "
            f"found {tokens.dtype} {list(tokens.shape)}"
        )
    if table.ndim != 2:
        raise ValueError(f"table: expected shape [V, E], found {list(table.shape)}")
    if tokens.device != table.device:
        raise ValueError(f"tokens: expected on {table.device} like table, found {tokens.device}")
    batch, time = tokens.shape
    # The words that are looked up are cast, not the whole table: a row stands for it here.
    row, w_ih, w_hh, bias, h0, c0 = _cast(table[:1], w_ih, w_hh, bias, h0, c0)
    _check("table", row, (batch, table.shape[1]), w_ih, w_hh, bias, h0, c0)
    if _on_kernels(row, batch * time * len(w_hh)):
        from . import lstm_triton

        on_device = _on_device(lengths, batch, time, tokens.device)
        return lstm_triton.embedding_lstm(
            tokens, table, w_ih, w_hh, bias, h0, c0, on_device, sparse
        )
    counts = _counts(lengths, batch, time)
    with torch.autocast(tokens.device.type, enabled=False):
        return lstm_packed.embedding_lstm(tokens, table, w_ih, w_hh, bias, h0, c0, counts, sparse)


def _cast(like: Tensor, *others: Tensor | None) -> tuple[Any, ...]:
    """Cast as autocast says. PyTorch's sweep stays in float32, which its cell state needs: a step's
    product is too small for halves to save what casting them costs."""
    single = choose("lstm", like.device, like.dtype).path == "torch"
    return autocast(like, *others, single=single)


def _on_kernels(like: Tensor, gates: int) -> bool:
    """Whether the Triton sweeps run: they address the gates of a batch by 32 bits."""
    return choose("lstm", like.device, like.dtype).path == "triton" and gates < 2**31


def _check_lengths(lengths: Tensor, batch: int) -> None:
    if lengths.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"lengths: expected whole numbers, found {lengths.dtype}")
    if list(lengths.shape) != [batch]:
        raise ValueError(f"lengths: expected shape [{batch}], found {list(lengths.shape)}")


def _counts(lengths: Tensor | None, batch: int, time: int) -> list[int] | None:
    """Read the lengths and see that they are in 1..T."""
    if lengths is None:
        return None
    _check_lengths(lengths, batch)
    counts: list[int] = lengths.tolist()
    if min(counts) < 1 or max(counts) > time:
        raise ValueError(f"lengths: expected each in 1..{time}, found {min(counts)}..{max(counts)}")
    return counts


def _on_device(
    lengths: Tensor | None, batch: int, time: int, device: torch.device
) -> Tensor | None:
    """Give the lengths to a kernel; those that are on a GPU already are not read back, which would
    make the host wait: the kernel itself fills a row with NaN where its length is out of range."""
    if lengths is None:
        return None
    _check_lengths(lengths, batch)
    if lengths.device.type == "cpu":
        _counts(lengths, batch, time)
    return lengths.to(device, non_blocking=True).contiguous()


def _check(
    like: str,
    x: Tensor,
    sizes: tuple[int, int],
    w_ih: Tensor,
    w_hh: Tensor,
    bias: Tensor,
    h0: Tensor | None,
    c0: Tensor | None,
) -> None:
    if not x.is_floating_point():
        raise ValueError(f"{like}: expected a floating-point tensor, found {x.dtype}")
    if w_hh.ndim != 2 or w_hh.shape[0] != 4 * w_hh.shape[1]:
        raise ValueError(f"w_hh: expected shape [4H, H], found {list(w_hh.shape)}")
    batch, inputs = sizes
    hidden = w_hh.shape[1]
    expected = {
        "w_ih": (w_ih, [[4 * hidden, inputs]]),
        "w_hh": (w_hh, [[4 * hidden, hidden]]),
        "bias": (bias, [[4 * hidden], [batch, 4 * hidden]]),
        "h0": (h0, [[batch, hidden]]),
        "c0": (c0, [[batch, hidden]]),
    }
    for name, (tensor, shapes) in expected.items():
        if tensor is None:
            continue
        if list(tensor.shape) not in shapes:
            shown = " or ".join(str(shape) for shape in shapes)
            raise ValueError(f"{name}: expected shape {shown}, found {list(tensor.shape)}")
        if tensor.dtype != x.dtype or tensor.device != x.device:
            raise ValueError(
                f"{name}: expected {x.dtype} on {x.device} like {like}, "
                f"found {tensor.dtype} on {tensor.device}"
            )
