"""Where commands write: a URI where a path is wanted is told, and becomes no folder here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lvtrain.errors import UserError
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences


@pytest.mark.parametrize("command", ["export", "report", "evaluate"])
def test_a_uri_is_refused_before_anything_is_made(
    runs: dict[str, Path],
    refused: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(command, runs["lm"], "--out", "s3://bucket/x")
    assert "--out s3://bucket/x: expected a path of this machine, found a URI" in said
    assert list(tmp_path.iterdir()) == []


def test_a_run_and_a_store_made_in_memory_are_folders_here(
    store: Path, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(
        "train", "lm", "--preset", "tiny", "--data", store, "--out", "s3://bucket/x", "--steps", "1"
    )
    assert "--out s3://bucket/x: expected a path of this machine, found a URI" in said
    with pytest.raises(UserError, match="out s3://bucket/x: expected a path of this machine"):
        prepare_sentences(["a b"], config=PrepareConfig(), out="s3://bucket/x")
    assert list(tmp_path.iterdir()) == []
