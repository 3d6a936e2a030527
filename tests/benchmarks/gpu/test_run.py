"""Sections run in processes of their own: one that dies or hangs costs its case, not the run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.run import apart, compile_first

SECTION = """
import os
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    label: str

    def kernels(self):
        return self.label[0]

    def warm(self, bench):
        if self.label == "fails":
            raise ValueError("no such thing\\nat all")

    def rows(self, bench):
        if self.label == "dies":
            os._exit(7)
        if self.label == "hangs":
            time.sleep(600)
        if self.label == "fails":
            raise ValueError("no such thing\\nat all")
        yield {"op": self.label, "ms": 1.0}


def cases(bench):
    return [Case(label) for label in LABELS]
"""


@pytest.fixture
def section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a section whose cases do what their labels say; gives its name."""

    def write(name: str, *labels: str) -> str:
        folder = tmp_path / "sections"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(SECTION + f"\n\nLABELS = {labels!r}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        return f"sections.{name}"

    return write


def test_what_dies_or_fails_is_noted_and_the_rest_is_run(section) -> None:
    name = section("dying", "first", "dies", "fails", "last")
    rows = list(apart(name, Bench(device="cpu", deadline=time.time() + 60)))
    assert [(row["op"], row.get("note", "")) for row in rows] == [
        ("first", ""),
        ("dies", "process ended with 7"),
        ("fails", "ValueError: no such thing"),
        ("last", ""),
    ]
    assert all(row["section"] == name for row in rows)


def test_what_hangs_is_stopped(section, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.gpu.run.GRACE", 0.0)
    name = section("hanging", "first", "hangs")
    began = time.time()
    rows = list(apart(name, Bench(device="cpu", deadline=began + 8)))
    assert [(row["op"], row.get("note", "")) for row in rows] == [
        ("first", ""),
        ("hangs", "stopped: over its time"),
    ]
    assert time.time() - began < 60


def test_what_there_is_no_time_for_is_counted(section) -> None:
    name = section("late", "first", "second")
    (row,) = apart(name, Bench(device="cpu", deadline=time.time() - 1))
    assert row["note"] == "no time left for 2 more cases"


def test_kernels_are_compiled_once_each_and_problems_are_told(section) -> None:
    name = section("compiled", "a1", "a2", "b1", "fails")
    rows = list(compile_first(Bench(device="cpu", deadline=time.time() + 60), [name], jobs=2))
    assert rows[0] | {"section": ""} == {
        "section": "",
        "op": "fails",
        "note": "ValueError: no such thing",
    }
    assert rows[1]["cases"] == 3
