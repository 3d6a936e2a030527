"""The benchmark goes from files to a table, and takes what is done when it is given again."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest

from benchmarks import translation
from lvtrain.grammar.grammar import Grammar


def test_from_files_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, split in enumerate(("train", "val", "test_2016_flickr")):
        pairs = Grammar().sample_pairs(130 if split == "train" else 6, seed)
        for side, lines in zip(("de", "en"), zip(*pairs, strict=True), strict=True):
            text = "".join(f"{line}\n" for line in lines)
            (tmp_path / f"{split}.{side}.gz").write_bytes(gzip.compress(text.encode()))
    argv = ["--data", tmp_path, "--out", tmp_path / "runs", "--table", tmp_path / "table.md",
            "--vocab-size", "400", "--limit-steps", "2", "--average", "1", "--beam", "2",
            "--models", "Transformer", "--length-penalties", "1.0"]  # fmt: skip
    monkeypatch.setitem(translation.MODELS, "Transformer", ("tiny-transformer", 39.0))
    monkeypatch.setattr(sys, "argv", ["translation", *map(str, argv)])
    translation.main()
    first = (tmp_path / "table.md").read_text()
    assert "| Transformer (`--preset tiny-transformer`) |" in first and "| 2 |" in first
    checkpoint = tmp_path / "runs" / "tiny-transformer" / "checkpoints"
    before = {path: path.stat().st_mtime_ns for path in checkpoint.rglob("*.safetensors")}
    translation.main()
    assert before == {path: path.stat().st_mtime_ns for path in checkpoint.rglob("*.safetensors")}
    capsys.readouterr()
