"""The LSTM against `nn.LSTM`, padded and packed, and against its definition compiled by PyTorch.

All read the same vectors, which lie time first, as `nn.LSTM` has them. Its weights are one piece in
memory, in bfloat16 too, where it leaves them apart and gathers them at every call.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.gpu.bench import DTYPES, Bench, Row, input_sets, precision
from benchmarks.gpu.stress import plans
from benchmarks.gpu.timing import Contest, Step, measure
from lvtrain.kernels import reference
from lvtrain.kernels.dispatch import forced
from lvtrain.kernels.lstm import lstm

Results = tuple[Tensor, ...]


@dataclass(frozen=True)
class Inputs:
    """One set: vectors [B, T, I] that lie time first, a gradient alike, and the layer."""

    x: Tensor
    dy: Tensor
    module: nn.LSTM
    lengths: Tensor | None
    """On the CPU, descending, as packing takes them."""
    on_device: Tensor | None

    @property
    def weights(self) -> Sequence[Tensor]:
        """W_ih, W_hh and the one bias of ours."""
        return list(self.module.parameters())[:3]


def draw(
    hidden: int, batch: int, time: int, dtype: str, ragged: bool, bench: Bench, seed: int
) -> Inputs:
    torch.manual_seed(seed)
    kind, device = DTYPES[dtype], bench.device
    module = nn.LSTM(hidden, hidden, device=device, dtype=kind)
    nn.init.zeros_(list(module.parameters())[3])  # ours has one bias
    if device == "cuda":
        _in_one_piece(module)
    lengths = None
    if ragged:
        lengths = torch.randint(1, time + 1, (batch,)).sort(descending=True).values
        lengths[0] = time
    x, dy = (torch.randn(time, batch, hidden, device=device).to(kind) for _ in range(2))
    if lengths is not None:
        # What a gradient says of steps beyond a row's end, padded rows would otherwise heed.
        beyond = torch.arange(time).unsqueeze(1) >= lengths
        dy[beyond.to(device)] = 0
    on_device = None if lengths is None else lengths.to(device)
    return Inputs(x.requires_grad_(), dy, module, lengths, on_device)


def _in_one_piece(module: nn.LSTM) -> None:
    """`flatten_parameters`, which passes bfloat16 by."""
    from torch.backends.cudnn import rnn

    with torch.no_grad():
        torch._cudnn_rnn_flatten_weight(
            list(module.parameters()), 4, module.input_size, rnn.get_cudnn_mode(module.mode),
            module.hidden_size, 0, 1, False, False,
        )  # fmt: skip


def ours(given: Inputs) -> Tensor:
    w_ih, w_hh, bias = given.weights
    return lstm(given.x.transpose(0, 1), w_ih, w_hh, bias, lengths=given.on_device)[0]


def padded(given: Inputs) -> Tensor:
    return given.module(given.x)[0].transpose(0, 1)


def packed(given: Inputs) -> Tensor:
    assert given.lengths is not None
    rows = pack_padded_sequence(given.x, given.lengths)
    y, _ = pad_packed_sequence(given.module(rows)[0], total_length=len(given.x))
    return y.transpose(0, 1)


def _forward(layer: Callable[[Inputs], Tensor], given: Inputs) -> Step:
    def step() -> Results:
        with torch.no_grad():
            return (layer(given),)

    return step


def _both(layer: Callable[[Inputs], Tensor], given: Inputs) -> Step:
    def step() -> Results:
        y = layer(given)
        wanted = [given.x, *given.weights]
        return (y, *torch.autograd.grad(y, wanted, given.dy.transpose(0, 1)))

    return step


def _with_second_bias(given: Inputs) -> Step:
    """As ``_both``, of `nn.LSTM`, whose other bias is a parameter too."""

    def step() -> Results:
        y = padded(given) if given.lengths is None else packed(given)
        wanted = [given.x, *given.module.parameters()]
        grads = torch.autograd.grad(y, wanted, given.dy.transpose(0, 1))
        return (y, *grads[:-1])

    return step


@dataclass(frozen=True)
class Recurrent:
    """Forward, and forward with backward, at one size."""

    hidden: int
    batch: int
    time: int
    dtype: str
    ragged: bool = False
    compiled: bool = False

    @property
    def label(self) -> str:
        return f"lstm H{self.hidden} B{self.batch} T{self.time} {self.dtype}"

    def kernels(self) -> object:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        cuts = plans(self.hidden, self.batch, self.dtype, device).values()
        tiles = tuple(cut._replace(rows=0) for cut in cuts)
        time = self.time if self.compiled else 0
        return "lstm", self.hidden, self.dtype, self.ragged, tiles, time

    def warm(self, bench: Bench) -> None:
        given = self._inputs(bench, 0)
        with precision(self.dtype), forced("triton"):
            _forward(ours, given)()
            _both(ours, given)()
            if self.compiled:
                definition = self._compiled(bench)
                _forward(definition, given)()
                _both(definition, given)()

    def rows(self, bench: Bench) -> Iterator[Row]:
        weights = 2 * 4 * self.hidden * self.hidden
        tokens = self.batch * self.time
        size = DTYPES[self.dtype].itemsize * (2.0 * tokens * self.hidden + weights)
        sets = [self._inputs(bench, seed) for seed in range(input_sets(bench, size))]
        with precision(self.dtype), forced("triton"):
            for contest in self._contests(sets, bench):
                yield from measure(contest, bench)

    def _inputs(self, bench: Bench, seed: int) -> Inputs:
        return draw(
            self.hidden, self.batch, self.time, self.dtype, self.ragged, bench, seed
        )  # fmt: skip

    def _compiled(self, bench: Bench) -> Callable[[Inputs], Tensor]:
        definition = torch.compile(reference.lstm, dynamic=False, backend=bench.backend)
        return lambda given: definition(given.x.transpose(0, 1), *given.weights)[0]

    def _contests(self, sets: list[Inputs], bench: Bench) -> Iterator[Contest]:
        theirs = packed if self.ragged else padded
        name = "nn.LSTM packed" if self.ragged else "nn.LSTM"
        forward: dict[str, Any] = {
            "kernel": lambda: [_forward(ours, s) for s in sets],
            name: lambda: [_evaluating(_forward(theirs, s), s) for s in sets],
        }
        both: dict[str, Any] = {
            "kernel": lambda: [_both(ours, s) for s in sets],
            name: lambda: [_with_second_bias(s) for s in sets],
        }
        if self.ragged:
            # Packing needs the host; what the kernel gains by its graph is seen beside it.
            both["kernel, eager"] = both["kernel"]
            both[f"{name}, eager"] = both[name]
        if self.compiled:
            definition = self._compiled(bench)
            forward["torch.compile"] = lambda: [_forward(definition, s) for s in sets]
            both["torch.compile"] = lambda: [_both(definition, s) for s in sets]
        flops, moved = self._work(sets)
        sizes: dict[str, int | str] = {
            "H": self.hidden, "B": self.batch, "T": self.time, "dtype": self.dtype,
            "rows": "ragged" if self.ragged else "full",
        }  # fmt: skip
        # Backward reads all of it again, and dy, and writes gradients of x and the weights.
        for passes, contestants, times in (("forward", forward, 1), ("forward+backward", both, 3)):
            yield Contest(
                op=f"lstm {passes}",
                sizes=sizes,
                contestants=contestants,
                flops=times * flops,
                moved=times * moved,
                rate=self.dtype,
            )

    def _work(self, sets: list[Inputs]) -> tuple[float, float]:
        """FLOPs forward over the real tokens; bytes of x, y and the weights, each once."""
        counts = [s.lengths.sum().item() for s in sets if s.lengths is not None]
        tokens = statistics.mean(counts) if counts else self.batch * self.time
        size = DTYPES[self.dtype].itemsize
        flops = 2.0 * tokens * 4 * self.hidden * 2 * self.hidden
        return flops, size * (2.0 * tokens * self.hidden + 8 * self.hidden * self.hidden)


def _evaluating(step: Step, given: Inputs) -> Step:
    """Without a graph `nn.LSTM` keeps nothing if it is told that it does not train."""

    def evaluate() -> Results:
        given.module.eval()
        try:
            return step()
        finally:
            given.module.train()

    return evaluate


def cases(bench: Bench) -> list[Recurrent]:
    if bench.size == "toy":
        return [Recurrent(5, 3, 2, "fp32", compiled=True), Recurrent(5, 3, 2, "fp32", ragged=True)]
    # The sizes of sentences first, then the corners, then where the host takes part.
    dtypes = ("bf16", "tf32", "fp16")
    middle = [(h, b, t) for t in (15, 50) for h in (300, 512) for b in (64, 256)]
    if bench.size == "quick":
        found = [Recurrent(512, 64, 30, d) for d in dtypes]
        return [*found, Recurrent(300, 64, 30, "bf16"), Recurrent(512, 64, 30, "bf16", True)]
    corners = [
        (h, b, t)
        for t in (15, 50)
        for h in (128, 300, 512, 1024)
        for b in (16, 64, 128, 256, 1024)
        if (h, b, t) not in middle
    ]
    found = [Recurrent(*size, d) for size in middle for d in dtypes]
    found += [Recurrent(*size, d) for size in corners for d in dtypes]
    found += [Recurrent(512, 64, 15, d, compiled=True) for d in ("bf16", "tf32")]
    ragged = [(300, 64, 30), (512, 256, 30)]
    return found + [Recurrent(*size, d, ragged=True) for size in ragged for d in dtypes]
