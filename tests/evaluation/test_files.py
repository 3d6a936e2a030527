from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from lvtrain.evaluation.evaluate import Evaluation
from lvtrain.evaluation.files import write_evaluation

FOUND = Evaluation(
    figures={"samples": 300, "frechet": None, "step": 7},
    samples=[f"sentence {n}" for n in range(300)],
    reconstructions=[("ä", "b")] * 80,
    interpolations=[["a", "b", "c"]],
)


def test_the_files_hold_the_figures_and_the_first_of_the_sentences(tmp_path: Path) -> None:
    write_evaluation(tmp_path, FOUND)
    read = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert json.loads(read["evaluation.json"]) == FOUND.figures
    assert read["samples.txt"].splitlines() == FOUND.samples[:100]
    assert json.loads(read["reconstructions.json"]) == [["ä", "b"]] * 50
    assert json.loads(read["interpolations.json"]) == FOUND.interpolations
    assert len(read) == 4


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    (tmp_path / "samples.txt").mkdir()
    with pytest.raises(OSError):
        write_evaluation(tmp_path, FOUND)
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "samples.txt"}


def test_the_mode_is_what_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_evaluation(tmp_path, FOUND)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_every_translation_stands_beside_its_source_and_reference(tmp_path: Path) -> None:
    triples = [(f"source {n}", f"reference {n}", f"translation {n}") for n in range(80)]
    triples.append(("ä b", "", "no reference"))
    write_evaluation(tmp_path, FOUND._replace(translations=triples))
    rows = (tmp_path / "translations.tsv").read_text(encoding="utf-8").splitlines()
    every = [tuple(row.split("\t")) for row in rows]
    assert every == triples
    chosen = json.loads((tmp_path / "translations.json").read_text())
    assert len(chosen) == 50 and {tuple(of) for of in chosen} <= set(triples)
    assert {path.name for path in tmp_path.iterdir()} == {
        "evaluation.json", "samples.txt", "translations.json", "translations.tsv"
    }  # fmt: skip
