"""The results of a run as text."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from benchmarks.gpu.bars import sizes
from benchmarks.gpu.bench import Row

_COLUMNS = [
    ("operation", 41), ("size", 40), ("contestant", 24), ("ms", 10), ("kernel", 9),
    ("floor ms", 10), ("of floor", 9), ("timed", 11), ("peak MB", 10),
]  # fmt: skip


def line(row: Row) -> str:
    """One row in a line, for whoever watches."""
    if "passed" in row:
        return stress_line(row)
    if row["op"] == "compile" and "seconds" in row:
        return f"compiled {row['cases']} cases in {row['seconds']} s"
    if "note" in row:
        shown = " ".join(str(row[k]) for k in ("contestant", "op") if k in row)
        return f"{shown} {sizes(row)}: {row['note']}".replace("  ", " ")
    faster = f" ({row['kernel_speedup']}×)" if "kernel_speedup" in row else ""
    return f"{row['op']} {sizes(row)}: {row['contestant']} {row['ms']} ms{faster}"


def stress_line(row: Row) -> str:
    outcome = "passed" if row["passed"] else f"FAILED: {row['differing'] or row['at']}"
    return (
        f"stress H{row['H']} B{row['B']} T{row['T']} {row['dtype']}, tiles {row['forward']} and "
        f"{row['backward']}: {row['sweeps']} sweeps, error {row['error']} of what is allowed "
        f"({row['at']}), {outcome}"
    )


def text(rows: list[Row], bars: list[Row]) -> Iterator[str]:
    """All rows by operation, then the bars."""
    yield "".join(f"{name:{width}}" for name, width in _COLUMNS)
    timed = [row for row in rows if "ms" in row or row.get("note")]
    for _, group in groupby(timed, key=lambda row: (row["op"], sizes(row))):
        for row in group:
            yield _cells(row)
    for row in rows:
        if "passed" in row:
            yield stress_line(row)
    if bars:
        yield ""
    for bar in bars:
        met = {None: "not measured", True: "met", False: "NOT MET"}[bar["met"]]
        found = "" if bar["found"] is None else f"{bar['found']} (wanted {bar['wanted']}) "
        yield f"{met:13}{bar['bar']}: {found}{bar['at']}".rstrip(": ")


def _cells(row: Row) -> str:
    faster = row.get("kernel_speedup")
    values = [
        row["op"], sizes(row), row.get("contestant", ""), row.get("ms", row.get("note", "")),
        "" if faster is None else f"{faster:.2f}×", row.get("floor_ms", ""),
        row.get("of_floor", ""), row.get("timed", ""), row.get("peak_mb", ""),
    ]  # fmt: skip
    shown = zip(values, _COLUMNS, strict=True)
    return "".join(f"{value!s:{width}}" for value, (_, width) in shown).rstrip()
