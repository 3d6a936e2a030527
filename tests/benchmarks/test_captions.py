"""The table of reverse perplexities, at toy size."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from benchmarks import captions
from lvtrain.grammar.grammar import Grammar

SIZES = {"train": 300, "val": 60, "test": 60}
FLAGS = """--seeds 0 --columns real lm arae --steps 3 --samples 40 --trial-samples 20
    --hidden 16 --code 8 --jobs 1 --min-count 1 --judge.epochs 1 --judge.min-steps 2
    --judge.embedding 16 --judge.hidden 16""".split()


def test_a_table_is_made_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, (name, n) in enumerate(SIZES.items()):
        text = "\n".join(Grammar().sample(n, seed)) + "\n"
        (tmp_path / f"{name}.en.gz").write_bytes(gzip.compress(text.encode()))
    out = tmp_path / "out"
    kept = tmp_path / "results"
    argv = ["captions", "--data", str(tmp_path), "--out", str(out), "--results", str(kept), *FLAGS]
    monkeypatch.setattr("sys.argv", argv)
    captions.main()
    table = (kept / "table.md").read_text()
    assert table in capsys.readouterr().out
    for column in ("real", "lm", "arae"):
        figures = json.loads((kept / f"{column}-0.json").read_text())
        assert figures["reverse_perplexity"] > 1
        assert f"| {column} | {figures['reverse_perplexity']:.1f} |" in table
    before = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.json")}
    captions.main()
    assert before == {path.name: path.stat().st_mtime_ns for path in kept.glob("*.json")}
    # What depends on a setting that changed is done again, and nothing else.
    monkeypatch.setattr("sys.argv", [*argv, "--noise", "0.3"])
    (out / "run-arae-0").rename(out / "run-arae-before")
    captions.main()
    after = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.json")}
    assert {name for name in after if after[name] != before[name]} == {"arae-0.json"}
