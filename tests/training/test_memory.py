"""Freed memory is kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from lvtrain.training.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
kept = keep_freed_memory()
# The first few blocks find no freed one that fits; the typical one does.
typical = sorted(faults() for _ in range(40))[20]
sys.exit(0 if not kept or typical < 100 else 1)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of glibc")
def test_what_is_allocated_again_does_not_fault_again() -> None:
    """In a process of its own: the setting cannot be taken back."""
    assert subprocess.run([sys.executable, "-c", PROGRAM], check=False).returncode == 0
