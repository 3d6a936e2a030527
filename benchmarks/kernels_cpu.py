"""Each operation of `lvtrain.kernels` on a CPU against straightforward PyTorch, both passes.

The shapes are those of the SNLI configuration: 64 sentences of 4 to 16 words, E = H = 300,
V = 11,004. Medians of interleaved repeats, in milliseconds, with the share of the machine's sgemm
rate where the operation is matrix products.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.arithmetic import lstm_flops, mlp_flops
from lvtrain.kernels import reference
from lvtrain.kernels.cross_entropy import linear_cross_entropy
from lvtrain.kernels.gradient_penalty import gradient_penalty
from lvtrain.kernels.lstm import embedding_lstm, lstm
from lvtrain.kernels.reparameterize import reparameterize
from lvtrain.modules.mlp import mlp
from lvtrain.training.memory import keep_freed_memory

BATCH, HIDDEN, VOCABULARY = 64, 300, 11004
SQUARE = 2048

OPERATIONS = ("lstm", "linear_cross_entropy", "gradient_penalty", "reparameterize")

CRITICS = {
    "gradient_penalty": (300, 300, 300, 1),
    "gradient_penalty wide": (512, 1024, 1024, 1),
}
"""Sizes of the layers of critics."""

Work = Callable[[], object]


def measure(work: dict[str, Work], repeats: int) -> dict[str, float]:
    """Median milliseconds of each, taken in turn.

    Each is done once before it is timed: the first call after a large allocation of another's is
    freed pays for mapping memory anew.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, do in work.items():
            do()
            start = time.perf_counter()
            do()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def sentences(seed: int) -> tuple[Tensor, Tensor]:
    """Words of Zipf's frequencies, by descending length: about 270 distinct of 640."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 17, (BATCH,), generator=generator).sort(descending=True).values
    frequencies = 1 / torch.arange(1, VOCABULARY + 1)
    count = BATCH * int(lengths[0])
    words = torch.multinomial(frequencies, count, replacement=True, generator=generator)
    return words.view(BATCH, -1), lengths


def recurrent() -> tuple[dict[str, Work], dict[str, float]]:
    """The LSTM over words, over vectors, and packed as `nn.LSTM` has it; the last state is read."""
    words, lengths = sentences(0)
    table = (torch.randn(VOCABULARY, HIDDEN) / 10).requires_grad_()
    layer = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
    w_ih, w_hh, bias, _ = layer.parameters()
    along = torch.randn(BATCH, HIDDEN)

    def over_words() -> Tensor:
        return embedding_lstm(words, table, w_ih, w_hh, bias, lengths=lengths, sparse=True)[1]

    def over_vectors() -> Tensor:
        x = F.embedding(words, table, sparse=True)
        return lstm(x, w_ih, w_hh, bias, lengths=lengths)[1]

    def packed() -> Tensor:
        x = F.embedding(words, table, sparse=True)
        return layer(pack_padded_sequence(x, lengths, batch_first=True))[1][0][0]

    def without_graph(f: Callable[[], Tensor]) -> Work:
        return torch.no_grad()(f)

    def both(f: Callable[[], Tensor]) -> Work:
        return lambda: torch.autograd.grad(f(), [table, w_ih, w_hh, bias], along)

    flops = lstm_flops(int(lengths.sum()), BATCH, HIDDEN, HIDDEN)
    variants = {"words": over_words, "vectors": over_vectors, "eager": packed}
    work: dict[str, Work] = {}
    for name, f in variants.items():
        work[f"lstm forward/{name}"] = without_graph(f)
        work[f"lstm/{name}"] = both(f)
    return work, {"lstm forward": flops, "lstm": 3 * flops}


def vocabulary() -> tuple[dict[str, Work], dict[str, float]]:
    words, lengths = sentences(0)
    count = int(lengths.sum())
    target = words.reshape(-1)[:count]
    x = torch.randn(count, HIDDEN).requires_grad_()
    weight = (torch.randn(VOCABULARY, HIDDEN) / 20).requires_grad_()
    bias = torch.zeros(VOCABULARY).requires_grad_()

    def rounded(x: Tensor, weight: Tensor, target: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return linear_cross_entropy(x, weight, target, bias)

    work: dict[str, Work] = {
        f"linear_cross_entropy/{name}": lambda f=f: torch.autograd.grad(  # type: ignore[misc]
            f(x, weight, target, bias), [x, weight, bias]
        )
        for name, f in {
            "kernel": linear_cross_entropy,
            "bf16": rounded,
            "eager": reference.linear_cross_entropy,
        }.items()
    }
    return work, {"linear_cross_entropy": 3 * 2.0 * count * HIDDEN * VOCABULARY}


def penalties() -> tuple[dict[str, Work], dict[str, float]]:
    work: dict[str, Work] = {}
    flops = {}
    for name, sizes in CRITICS.items():
        critic = mlp(list(sizes), "leaky_relu")
        points = F.normalize(torch.randn(BATCH, sizes[0]))

        def penalised(f: Callable[..., Tensor], critic: nn.Module, points: Tensor) -> Work:
            def work() -> object:
                critic.zero_grad()
                return f(critic, points, 10.0).backward()

            return work

        work[f"{name}/kernel"] = penalised(gradient_penalty, critic, points)
        work[f"{name}/eager"] = penalised(reference.gradient_penalty, critic, points)
        flops[name] = 4 * mlp_flops(BATCH, list(sizes))
    return work, flops


def latent() -> tuple[dict[str, Work], dict[str, float]]:
    mu, logvar = torch.randn(2, BATCH, HIDDEN).requires_grad_().unbind(0)
    seed = torch.tensor(0)

    def sampled(f: Callable[..., tuple[Tensor, Tensor]]) -> Work:
        def work() -> object:
            z, kl = f(mu, logvar, seed)
            return torch.autograd.grad(z.sum() + kl.sum(), [mu, logvar])

        return work

    work: dict[str, Work] = {
        "reparameterize/kernel": sampled(reparameterize),
        "reparameterize/eager": sampled(reference.reparameterize),
    }
    return work, {}


def compare(only: str, repeats: int) -> list[dict[str, str | float]]:
    """Measure the operations with ``only`` in their names; the sgemm rate beside them.

    Freed memory is kept, as it is in a training.
    """
    keep_freed_memory()
    torch.manual_seed(0)
    a, out = torch.randn(SQUARE, SQUARE), torch.empty(SQUARE, SQUARE)
    work: dict[str, Work] = {}
    flops = {"sgemm": 2.0 * SQUARE**3}
    for group in (recurrent, vocabulary, penalties, latent):
        more, counts = group()
        work |= {name: do for name, do in more.items() if only in name}
        flops |= counts
    took = measure({"sgemm/kernel": lambda: torch.mm(a, a, out=out), **work}, repeats)
    rate = flops["sgemm"] / took["sgemm/kernel"]
    rows = []
    for name, ms in took.items():
        op, variant = name.split("/")
        row: dict[str, str | float] = {"op": op, "variant": variant, "ms": round(ms, 3)}
        if f"{op}/eager" in took:
            row["speedup"] = round(took[f"{op}/eager"] / ms, 2)
        if op in flops:
            row["sgemm_share"] = round(flops[op] / ms / rate, 3)
        rows.append(row)
    return rows


def show(rows: list[dict[str, str | float]]) -> None:
    """Print the rows as a table."""
    print(f"{'operation':24}{'variant':10}{'ms':>10}{'speedup':>10}{'of sgemm':>10}")
    for row in rows:
        speedup, share = row.get("speedup", ""), row.get("sgemm_share", "")
        print(f"{row['op']:24}{row['variant']:10}{row['ms']:10.3f}{speedup:>10}{share:>10}")
