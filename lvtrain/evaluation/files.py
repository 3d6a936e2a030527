"""The files of an evaluation, from which a run's report is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lvtrain.evaluation.evaluate import Evaluation
from lvtrain.generation.weights import replacing

_SAMPLES, _RECONSTRUCTIONS, _TRANSLATIONS = 100, 50, 50


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write evaluation.json, samples.txt, reconstructions.json and interpolations.json, or of a
    translator translations.json instead of the two, and all of its translations in the order of
    the split as translations.txt; each whole or not at all. Raises OSError where the file system
    refuses."""
    samples = evaluation.samples[:_SAMPLES]
    files = {
        "evaluation.json": _json(evaluation.figures),
        "samples.txt": "".join(f"{sentence}\n" for sentence in samples),
        "reconstructions.json": _json(evaluation.reconstructions[:_RECONSTRUCTIONS]),
        "interpolations.json": _json(evaluation.interpolations),
    }
    if evaluation.translations:
        files = {name: files[name] for name in ("evaluation.json", "samples.txt")}
        files["translations.json"] = _json(evaluation.translations[:_TRANSLATIONS])
        files["translations.txt"] = "".join(f"{sentence}\n" for sentence in evaluation.samples)
    for name, text in files.items():
        with replacing(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
