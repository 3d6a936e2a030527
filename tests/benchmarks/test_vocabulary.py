"""The memory of a training step is that of the tables, and of no copies of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VOCABULARY, HIDDEN = 200_000, 128
TABLE = VOCABULARY * HIDDEN * 4
"""Bytes: 102 MB; and so are those of every dense gradient that should not be there."""
CHUNK = 64 * VOCABULARY * 4
"""Bytes of the logits that the whole softmax holds at a time."""


@pytest.mark.parametrize(("samples", "gradients"), [(1000, 0), (0, 1)], ids=["sampled", "whole"])
def test_a_step_holds_the_tables_and_the_gradient_of_the_whole_softmax_alone(
    samples: int, gradients: int
) -> None:
    command = f"""-m benchmarks.vocabulary --vocab-size {VOCABULARY} --hidden {HIDDEN} --here
        --sampled-softmax {samples} --batch-size 8 --words 8 --steps 3"""
    done = subprocess.run(
        [sys.executable, *command.split()], check=True, stdout=subprocess.PIPE, cwd=ROOT
    )
    figures = json.loads(done.stdout)
    grown = figures["peak_bytes"] - figures["peak_bytes_before"]
    assert 3 * TABLE < figures["parameter_bytes"] < 3.1 * TABLE
    # A chunk may be allocated beside the hole that the one before has left.
    allowed = gradients * (TABLE + 2 * CHUNK) + 0.3 * TABLE
    assert grown < figures["parameter_bytes"] + allowed
