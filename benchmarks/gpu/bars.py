"""The bars that the kernels are to clear, read off the rows of a run.

Each bar is a worst case over the sizes it speaks of: the least speed-up, or the largest share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.bench import Row

Which = Callable[[Row], bool]


@dataclass(frozen=True)
class Bar:
    """``key`` of the rows that ``where`` chooses is to be at least, or ``most``, ``wanted``."""

    name: str
    key: str
    wanted: float
    where: Which
    most: bool = False

    def judge(self, rows: Iterable[Row]) -> Row:
        """The worst row; ``met`` is None where there is none."""
        found = [row for row in rows if self.key in row and self.where(row)]
        result: Row = {"bar": self.name, "wanted": f"{'≤' if self.most else '≥'} {self.wanted:g}"}
        if not found:
            return result | {"found": None, "at": "", "met": None}
        worst = (max if self.most else min)(found, key=lambda row: float(row[self.key]))
        value = worst[self.key]
        met = value <= self.wanted if self.most else value >= self.wanted
        return result | {"found": value, "at": sizes(worst), "met": met}


_MEASURES = {
    "section", "op", "contestant", "ms", "low", "high", "timed", "repeats", "not_captured",
    "floor_ms", "of_floor", "kernel_speedup", "difference", "peak_mb", "results_mb", "note",
    "rate", "of", "memory_share", "working_share",
}  # fmt: skip


def sizes(row: Row) -> str:
    """What distinguishes a row's comparison from others of its operation."""
    return " ".join(
        f"{name}{value}" if isinstance(value, int) else str(value)
        for name, value in row.items()
        if name not in _MEASURES
    )


def _of(op: str, contestants: Iterable[str], **limits: Any) -> Which:
    """Rows of ``op`` against ``contestants``, within (low, high) or equal to each of ``limits``."""
    named = tuple(contestants)

    def chosen(row: Row) -> bool:
        def within(name: str, limit: Any) -> bool:
            value = row.get(name)
            if isinstance(limit, tuple) and isinstance(value, int):
                return bool(limit[0] <= value <= limit[1])
            return value in limit if isinstance(limit, set) else bool(value == limit)

        in_op = row["op"] == op and row.get("contestant") in named
        return in_op and all(within(name, limit) for name, limit in limits.items())

    return chosen


_CUDNN = ("nn.LSTM", "nn.LSTM packed")


def _persistent(row: Row) -> bool:
    """Whether cuDNN has its persistent kernel for it: one layer, fp16, not packed, I = H."""
    whole = row.get("H", 1) % 128 == 0 and row.get("B", 1) % 8 == 0 and row.get("B", 0) <= 128
    fp16 = row["op"] == "lstm forward+backward" and row.get("dtype") == "fp16"
    return fp16 and whole and row.get("contestant") == "nn.LSTM"


def _anywhere(row: Row) -> bool:
    return row["op"].startswith("lstm forward") and row.get("contestant") in _CUDNN


BARS = [
    Bar(
        "LSTM forward+backward, H 300–512, B 64–256, bf16 and tf32, over nn.LSTM",
        "kernel_speedup",
        2.0,
        _of("lstm forward+backward", _CUDNN, H=(300, 512), B=(64, 256), dtype={"bf16", "tf32"}),
    ),
    Bar("LSTM over nn.LSTM anywhere", "kernel_speedup", 0.95, _anywhere),
    Bar("LSTM over cuDNN's fp16 persistent kernel", "kernel_speedup", 0.9, _persistent),
    Bar(
        "LSTM double backward over a loop over cells, under a graph",
        "kernel_speedup",
        10.0,
        _of("lstm double backward", ["loop over cells"]),
    ),
    Bar(
        "LSTM double backward over a loop over cells, eager",
        "kernel_speedup",
        10.0,
        _of("lstm double backward", ["loop over cells, eager"]),
    ),
    Bar(
        "reparameterize forward, share of the copy bandwidth",
        "of_floor",
        0.85,
        _of("reparameterize forward", ["kernel"]),
    ),
    Bar(
        "reparameterize forward+backward, share of the copy bandwidth",
        "of_floor",
        0.85,
        _of("reparameterize forward+backward", ["kernel"]),
    ),
    Bar(
        "reparameterize forward+backward over torch.compile",
        "kernel_speedup",
        1.2,
        _of("reparameterize forward+backward", ["torch.compile"]),
    ),
    Bar(
        "gradient penalty over double backward, under a graph",
        "kernel_speedup",
        3.0,
        _of("gradient_penalty", ["double backward"]),
    ),
    *(
        Bar(
            f"cross-entropy of {words:,} words, memory as a share of eager's",
            "memory_share",
            share,
            _of("linear_cross_entropy", ["kernel"], V=words),
            most=True,
        )
        for words, share in ((30_000, 0.15), (800_000, 0.02))
    ),
    Bar(
        "cross-entropy over eager",
        "kernel_speedup",
        1.0,
        _of("linear_cross_entropy", ["eager"]),
    ),
    Bar(
        "cross-entropy over Liger Kernel and cut-cross-entropy",
        "kernel_speedup",
        1.0,
        _of("linear_cross_entropy", ["Liger Kernel", "cut-cross-entropy"]),
    ),
]


def judged(rows: list[Row]) -> list[Row]:
    """Every bar, judged; that of the stress test first."""
    stressed, failed = stress_outcome(rows)
    stress: Row = {
        "bar": "barrier: right, and the same bits every time", "wanted": "all",
        "found": f"{len(stressed) - len(failed)} of {len(stressed)}" if stressed else None,
        "at": "; ".join(row.get("note") or sizes(row) for row in failed[:3]),
        "met": not failed if stressed else None,
    }  # fmt: skip
    with_shares = list(memory_shares(rows))
    return [stress, *(bar.judge(with_shares) for bar in BARS)]


def stress_outcome(rows: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """What the stress test gave, and what of that is no pass; a case that died is none either."""
    found = [row for row in rows if "passed" in row or row.get("section") == "stress"]
    return found, [row for row in found if not row.get("passed")]


def memory_shares(rows: Iterable[Row]) -> Iterable[Row]:
    """The rows, the kernel's memory as a share of eager's beside it.

    ``memory_share`` is of everything that the step takes; ``working_share`` leaves out its results,
    the gradients, which no implementation can do without.
    """
    rows = list(rows)
    eager = {sizes(row): row for row in rows if row.get("contestant") == "eager"}
    for row in rows:
        other = eager.get(sizes(row))
        if row.get("contestant") != "kernel" or "peak_mb" not in row or other is None:
            yield row
            continue
        if "peak_mb" not in other:
            yield row
            continue
        work, theirs = (max(r["peak_mb"] - r["results_mb"], 0.1) for r in (row, other))
        yield row | {
            "memory_share": round(row["peak_mb"] / other["peak_mb"], 4),
            "working_share": round(work / theirs, 4),
        }
