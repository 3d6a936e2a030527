"""A store is the same however its corpus is cut, by how many processes, and whoever is killed."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import operator
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvtrain.data import shards, spill
from lvtrain.data.store import Store
from lvtrain.errors import Passing, UserError
from lvtrain.grammar.grammar import Grammar
from lvtrain.prepare import duplicates
from lvtrain.prepare.prepare import PrepareConfig, prepare
from lvtrain.prepare.workers import Here, Processes
from lvtrain.text import sources
from lvtrain.text.sources import Source

LINES = Grammar().sample(3_000, seed=5)


def digests(store: Path) -> dict[str, bytes]:
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("".join(f"{line}\n" for line in LINES))
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts, runs and shards so small that a little text has many."""
    monkeypatch.setattr(sources, "PART_BYTES", 15_000)
    monkeypatch.setattr(spill, "RUN_BYTES", 3_000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 1_000)


@pytest.mark.parametrize("kind", ["txt", "gz", "jsonl", "parquet", "arrow"])
def test_parts_read_what_the_whole_reads(tmp_path: Path, small: None, kind: str) -> None:
    lines = [f"{line} {i} é" * (i % 5 != 1) for i, line in enumerate(LINES[:2000])]
    paths = []
    for number, some in enumerate((lines[:1500], lines[1500:1510], lines[1510:])):
        path = tmp_path / f"{number}.{kind}"
        table = pa.table({"text": some})
        if kind == "parquet":
            pq.write_table(table, path, row_group_size=100)
        elif kind == "arrow":
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
                out.write_table(table, max_chunksize=100)
        else:
            written = [json.dumps({"text": line}) for line in some] if kind == "jsonl" else some
            content = "\n".join(written).encode()  # the last line has no end
            path.write_bytes(gzip.compress(content) if kind == "gz" else content)
        paths.append(str(path))
    source = Source(files=paths)
    parts = source.parts()
    assert len(parts) > (1 if kind in ("gz", "parquet") else 4)
    assert sum(part.bytes for part in parts) == source.bytes
    found = [text for part in parts for chunk in source.chunks(part) for text in chunk.texts]
    assert found == [text for chunk in source.chunks() for text in chunk.texts] == lines


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_line_is_in_one_piece_wherever_the_pieces_are_cut(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PART_BYTES", size)
    path = tmp_path / "a.txt"
    path.write_text("\ufeffa\n\nbc d\n\n\nefghijklmnop\né\n\nz")
    source = Source(files=[str(path)])
    found = [t for part in source.parts() for chunk in source.chunks(part) for t in chunk.texts]
    assert found == ["a", "", "bc d", "", "", "efghijklmnop", "é", "", "z"]


@pytest.mark.parametrize("deduplicate", ["none", "exact"])
def test_progress_ends_at_the_whole_where_a_line_reaches_over_pieces(
    tmp_path: Path, small: None, deduplicate: Any
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a b\n" * 2_000 + "c" * 100_000 + "\n" + "d e\n" * 2_000)
    config = PrepareConfig(files=(str(path),), deduplicate=deduplicate, valid_fraction=0)
    told: list[tuple[int, int, str, int]] = []
    prepare(config, tmp_path / "store", lambda *said: told.append(said), Here())
    phases = list(dict.fromkeys(phase for *_, phase, _ in told))
    assert phases[-3:] == ["counting", "encoding", "writing"]
    for name in phases:
        own = [(done, total) for done, total, phase, _ in told if phase == name]
        assert own[0][0] == 0, "the time is taken from the start"
        assert own == sorted(own) and own[-1][0] == own[-1][1]


def test_the_store_does_not_depend_on_parts_runs_or_processes(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PrepareConfig(files=(str(corpus),), valid_fraction=0.1)
    whole = prepare(config, tmp_path / "whole", workers=Here())
    monkeypatch.setattr(sources, "PART_BYTES", 15_000)
    monkeypatch.setattr(spill, "RUN_BYTES", 3_000)
    cut = prepare(config, tmp_path / "cut", workers=Here())
    assert digests(tmp_path / "whole") == digests(tmp_path / "cut")
    with Processes(3) as workers:
        prepare(config, tmp_path / "many", workers=workers)
    assert digests(tmp_path / "whole") == digests(tmp_path / "many")
    assert whole == cut
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "many", "whole"]


def test_a_bucket_of_many_shards_is_in_the_order_of_the_corpus(
    corpus: Path, tmp_path: Path, small: None
) -> None:
    info = prepare(
        PrepareConfig(files=(str(corpus),), valid_fraction=0), tmp_path / "store", workers=Here()
    )
    assert any(shard.file.endswith("00001.arrow") for shard in info.splits["train"].shards)
    store = Store.open(tmp_path / "store", verify="full")
    split = store.split("train")
    found = [store.tokenizer.decode(split.sentence(i)) for i in range(0, split.rows, 17)]
    assert found == sorted(LINES, key=lambda line: len(line.split()))[::17]


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_a_mistake_in_a_later_piece_is_placed_in_its_file(
    tmp_path: Path, small: None, kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    lines = [json.dumps({"text": line}) if kind == "jsonl" else line for line in LINES]
    content = [line.encode() for line in lines]
    content[2500] = b"[1]" if kind == "jsonl" else b"ab\xff"
    path.write_bytes(b"\n".join(content))
    expected = {"txt": "line 2501, byte 3 is 0xff", "jsonl": "line 2501: expected a JSON object"}
    for processes in (1, 2):
        config = PrepareConfig(files=(str(path),), processes=processes)
        with pytest.raises(UserError, match=expected[kind]):
            prepare(config, tmp_path / "store")
        assert [found.name for found in tmp_path.iterdir()] == [path.name]


class Killed(BaseException):
    """What ends the work without a chance to clean up."""


@pytest.mark.parametrize("deduplicate", ["none", "exact"])
def test_work_that_was_ended_anywhere_goes_on_to_the_same_store(
    corpus: Path, tmp_path: Path, small: None, deduplicate: Any
) -> None:
    config = PrepareConfig(files=(str(corpus),), valid_fraction=0.1, deduplicate=deduplicate)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    prepare(config, tmp_path / "whole", count, Here())
    expected, total = digests(tmp_path / "whole"), calls
    for last in random.Random(0).sample(range(total), 8):
        calls = 0

        def end(*_: object, last: int = last) -> None:
            nonlocal calls
            calls += 1
            if calls > last:
                raise Killed

        out = tmp_path / f"store-{last}"
        with pytest.raises(Killed):
            prepare(config, out, end, Here())
        assert not out.exists()
        calls = 0
        prepare(config, out, count, Here())
        assert digests(out) == expected
        assert calls < total or last < 5
    assert all(not path.name.startswith(".") for path in tmp_path.iterdir())


def test_work_that_was_ended_while_it_was_removed_is_not_gone_on_with(
    corpus: Path, tmp_path: Path, small: None
) -> None:
    def end(folder: Path, ignore_errors: bool = False) -> None:
        for rows in folder.rglob("*.rows"):
            rows.unlink()
        raise Killed

    config = PrepareConfig(files=(str(corpus),))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", end)
        prepare(config, tmp_path / "store", workers=Here())
    expected = digests(tmp_path / "store")
    prepare(replace(config, overwrite=True), tmp_path / "store", workers=Here())
    assert digests(tmp_path / "store") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_other_work_starts_anew(corpus: Path, tmp_path: Path, small: None) -> None:
    def end(done: int, total: int, phase: str, words: int) -> None:
        if phase == "writing":
            raise Killed

    config = PrepareConfig(files=(str(corpus),))
    with pytest.raises(Killed):
        prepare(config, tmp_path / "store", end, Here())
    other = PrepareConfig(files=(str(corpus),), lowercase=True, max_words=8)
    prepare(other, tmp_path / "store", workers=Here())
    prepare(other, tmp_path / "other", workers=Here())
    assert digests(tmp_path / "store") == digests(tmp_path / "other")
    with pytest.raises(Killed):
        prepare(config, tmp_path / "third", end, Here())
    changed = corpus.with_name("changed.txt")
    changed.write_text("".join(f"{line}\n" for line in LINES[:100]))
    os.utime(corpus, ns=(1, 1))
    phases = set()
    prepare(config, tmp_path / "third", lambda *said: phases.add(said[2]), Here())
    assert "counting" in phases


def test_work_goes_on_on_a_disk_that_holds_what_is_left(
    corpus: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "store"
    config = PrepareConfig(files=(str(corpus),))

    def end(done: int, total: int, phase: str, words: int) -> None:
        if phase == "writing":
            raise Killed

    with pytest.raises(Killed):
        prepare(config, out, end, Here())
    rows = sum(path.stat().st_size for path in tmp_path.rglob("*.rows"))

    def has(free: int) -> None:
        usage = type("usage", (), {"free": free})
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)

    has(0)
    with pytest.raises(Passing, match=r"no space left .* has 0 bytes .*; the same command goes on"):
        prepare(config, out, workers=Here())
    has(rows)
    phases = set()
    prepare(config, out, lambda *said: phases.add((said[2], said[3] > 0)), Here())
    assert ("encoding", True) not in phases
    Store.open(out, verify="full")


class Stopping:
    """Carries tasks out until it is asked for those of one function, which it keeps."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.kept: list[tuple[Any, Any]] = []

    def run(self, function: Any, tasks: Any, advance: Any) -> None:
        if function.__name__ == self.name:
            self.kept = [(function, task) for task in tasks]
            raise Killed
        Here().run(function, tasks, advance)


@pytest.mark.parametrize("stage", ["count_part", "encode_part", "assemble"])
def test_tasks_that_outlive_their_work_change_nothing_of_other_work(
    corpus: Path, tmp_path: Path, small: None, stage: str
) -> None:
    config = PrepareConfig(files=(str(corpus),), lowercase=True, max_words=8)
    other = PrepareConfig(files=(str(corpus),))
    prepare(other, tmp_path / "undisturbed", workers=Here())
    stopping = Stopping(stage)
    with pytest.raises(Killed):
        prepare(config, tmp_path / "store", workers=stopping)
    assert stopping.kept

    class Late:
        """Carries tasks out, and after those of each stage those which outlived their own."""

        def run(self, function: Any, tasks: Any, advance: Any) -> None:
            Here().run(function, tasks, advance)
            for old, task in stopping.kept:
                with contextlib.suppress(OSError):
                    old(task, lambda *done: None)

    prepare(other, tmp_path / "store", workers=Late())
    assert digests(tmp_path / "store") == digests(tmp_path / "undisturbed")
    for old, task in stopping.kept:
        with contextlib.suppress(OSError):
            old(task, lambda *done: None)
    assert digests(tmp_path / "store") == digests(tmp_path / "undisturbed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store", "undisturbed"]


def test_a_shard_that_is_not_whole_is_not_in_the_store(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PrepareConfig(files=(str(corpus),))

    def end(path: Path) -> tuple[str, str]:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shards, "digests", end)
        prepare(config, tmp_path / "store", workers=Here())
    assert not list(tmp_path.rglob("train/*"))


def test_a_shared_vocabulary_that_is_half_copied_is_not_in_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(f'{{"t": "a {i}", "x": "b {i}"}}\n' for i in range(9)))
    config = PrepareConfig(
        files=(str(file),), column="t", target_column="x", shared_vocabulary=True,
        valid_fraction=0,
    )  # fmt: skip

    def end(self: Path, target: Path) -> Path:
        if target.name == "target_tokenizer.json":
            raise Killed
        return self.rename(target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "replace", end)
        prepare(config, tmp_path / "store", workers=Here())
    (kept,) = tmp_path.glob(".store.work/result*")
    assert [path.name for path in kept.iterdir()] == ["tokenizer.json"]
    prepare(config, tmp_path / "store", workers=Here())
    Store.open(tmp_path / "store", verify="full")


def test_two_at_the_same_store_are_told_apart(corpus: Path, tmp_path: Path) -> None:
    config = PrepareConfig(files=(str(corpus),))

    def meanwhile(done: int, total: int, phase: str, words: int) -> None:
        with pytest.raises(UserError, match="another process is writing it"):
            prepare(config, tmp_path / "store")

    prepare(config, tmp_path / "store", meanwhile)
    Store.open(tmp_path / "store", verify="full")


PREPARE = """
import sys
from lvtrain.data import spill
from lvtrain.text import sources
from lvtrain.prepare.prepare import PrepareConfig, prepare
sources.PART_BYTES = 40_000
prepare(PrepareConfig(files=(sys.argv[1],), processes=2), sys.argv[2],
        lambda *_: (print("!", flush=True), sys.stdin.readline()))
"""


def test_a_killed_prepare_leaves_no_worker_and_no_half_store(corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARE, str(corpus), str(tmp_path / "store")]
    for said in (2, 21):  # the first time it has no workers yet
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin is not None and process.stdout is not None
        # It goes on when it is answered: however quick it is, it is killed in the middle.
        process.stdin.write(b"\n" * (said - 1))
        process.stdin.flush()
        for _ in range(said):
            assert process.stdout.readline() == b"!\n"
        workers = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, check=True
        ).stdout.split()
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stdout.close()
        assert not (tmp_path / "store").exists()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{int(pid)}").exists() for pid in workers):
            assert time.monotonic() < deadline, "a worker outlived its master"
            time.sleep(0.05)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    prepare(PrepareConfig(files=(str(corpus),)), tmp_path / "other")
    assert digests(tmp_path / "store") == digests(tmp_path / "other")


def test_a_worker_that_is_killed_is_told() -> None:
    told = pytest.raises(Passing, match="a worker process was killed by signal 9")
    with told, Processes(2) as workers:
        workers.run(_die, [1, 2, 3], lambda read, words: None)


def _die(task: int, advance: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_lack_of_threads_is_told_and_the_work_kept(
    corpus: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PrepareConfig(files=(str(corpus),), processes=2)
    start = threading.Thread.start
    left = iter([True])

    def refused(self: threading.Thread) -> None:
        if not next(left, False):
            raise RuntimeError("can't start new thread")
        start(self)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refused)
        with pytest.raises(Passing, match="new thread: fewer --processes need less; the same comm"):
            prepare(config, tmp_path / "store")
    assert (tmp_path / ".store.work").is_dir()
    prepare(config, tmp_path / "store")


@pytest.mark.parametrize("error", ["memory", "threads", "mapping"])
def test_a_worker_without_memory_is_told(error: str) -> None:
    told = pytest.raises(Passing, match="a worker process is out of memory.*: fewer --processes")
    with told, Processes(2) as workers:
        workers.run(_lack, [error] * 3, lambda read, words: None)


def _lack(error: str, advance: object) -> None:
    if error == "memory":
        raise MemoryError
    if error == "mapping":
        raise OSError(errno.ENOMEM, "Cannot allocate memory")
    raise pa.ArrowException("Unknown error: Failed to launch worker thread: Resource temporarily")


def test_workers_import_nothing_of_the_folder_that_they_are_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyarrow.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with Processes(2) as workers:
        workers.run(operator.is_, [1, 2, 3], lambda read, words: None)


def test_duplicates_go_and_the_first_stays(tmp_path: Path, small: None) -> None:
    lines = [*LINES, *LINES[:500], *(f" {line} " for line in LINES[200:900])]
    file = tmp_path / "a.txt"
    file.write_text("".join(f"{line}\n" for line in lines))
    config = PrepareConfig(files=(str(file),), valid_fraction=0, deduplicate="exact")
    info = prepare(config, tmp_path / "store", workers=Here())
    store = Store.open(tmp_path / "store")
    split = store.split("train")
    found = [store.tokenizer.decode(split.sentence(i)) for i in range(split.rows)]
    different = list(dict.fromkeys(line.strip() for line in lines))
    assert found == sorted(different, key=lambda line: len(line.split()))
    assert info.splits["train"].dropped == {"duplicate": len(lines) - len(different)}


@pytest.mark.parametrize("kind", ["exact", "near"])
def test_duplicates_are_found_in_runs_and_ranges_of_any_size(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    lines = [*LINES[:700], *LINES[:300], *["again and again"] * 300, *LINES[100:400]]
    file = tmp_path / "a.txt"
    file.write_text("".join(f"{line}\n" for line in lines))
    config = PrepareConfig(files=(str(file),), valid_fraction=0, deduplicate=kind)
    prepare(config, tmp_path / "whole", workers=Here())
    monkeypatch.setattr(duplicates, "RUN_KEYS", 100)
    monkeypatch.setattr(duplicates, "COMPARED_KEYS", 150)
    there: dict[str, int] = {}

    def look(done: int, total: int, phase: str, words: int) -> None:
        found = [*tmp_path.glob(".*/*/keys-*"), *tmp_path.glob(".*/*/found-*")]
        there[phase] = max(there.get(phase, 0), len(found))

    prepare(config, tmp_path / "cut", look, Here())
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert there["comparing"] > 3
    assert there["counting"] == 0


def test_what_is_not_word_for_word_the_same_is_found_too(tmp_path: Path) -> None:
    chooser = random.Random(1)
    words = [f"w{i}" for i in range(500)]
    texts = [chooser.choices(words, k=30) for _ in range(200)]
    nearly = [[*text[:29], "changed"] for text in texts]  # 28 of 30 pairs in common
    half = [[*text[:20], *chooser.choices(words, k=10)] for text in texts]  # 19 of 39
    file = tmp_path / "a.txt"
    lines = [" ".join(text) for text in (*texts, *nearly, *half)]
    file.write_text("".join(f"{line}\n" for line in [*lines, "one", "ONE", "two"]))
    dropped = {}
    for kind in ("exact", "near"):
        config = PrepareConfig(files=(str(file),), valid_fraction=0, deduplicate=kind)  # type: ignore[arg-type]
        info = prepare(config, tmp_path / kind)
        dropped[kind] = info.splits["train"].dropped.get("duplicate", 0)
    assert dropped["exact"] == 0
    assert 0.97 * 200 < dropped["near"] - 1 < 1.25 * 200


def test_labels_tell_equal_sentences_apart(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    rows = [("a b", "x"), ("a b", "y"), ("a b", "x"), ("c", "x")]
    file.write_text("".join(json.dumps({"text": t, "label": k}) + "\n" for t, k in rows))
    config = PrepareConfig(
        files=(str(file),), column="text", label_column="label", deduplicate="exact",
        valid_fraction=0,
    )  # fmt: skip
    prepare(config, tmp_path / "store")
    split = Store.open(tmp_path / "store").split("train")
    assert split.labels(np.arange(split.rows)).tolist() == [0, 0, 1]


def test_pieces_of_a_long_text_are_learnt_of_counts_in_proportion(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lvtrain.prepare import vocabulary as module

    monkeypatch.setattr(module, "BPE_WORDS", 3000)
    config = PrepareConfig(files=(str(corpus),), tokenizer="bpe", vocab_size=400)
    assert prepare(config, tmp_path / "store").vocab_size == 404


@pytest.mark.parametrize("phase", ["comparing", "counting", "encoding"])
@pytest.mark.parametrize("change", ["grown", "replaced", "rewritten", "removed"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    corpus: Path, tmp_path: Path, small: None, phase: str, change: str
) -> None:
    file = tmp_path / "log.txt"
    shutil.copy(corpus, file)
    content = file.read_bytes()
    changed = False

    def report(done: int, total: int, now: str, words: int) -> None:
        nonlocal changed
        # In the middle, and where nothing of it is read any more.
        if now != phase or changed or done < total * (0.5 if change == "grown" else 1):
            return
        changed = True
        if change == "grown":
            file.write_bytes(content + b"and more\n" * 5_000)
        elif change == "replaced":
            (tmp_path / "other").write_bytes(content[: len(content) // 2])
            (tmp_path / "other").rename(file)
        elif change == "rewritten":
            file.write_bytes(content[::-1])
            os.utime(file, ns=(1, 1))
        else:
            file.unlink()

    config = PrepareConfig(files=(str(file),), deduplicate="exact")
    expected = r"log.txt: (changed while it was read|cannot be read any more|expected .* bytes)"
    with pytest.raises(UserError, match=expected):
        prepare(config, tmp_path / "store", report, Here())
    assert not (tmp_path / "store").exists()
    assert not list(tmp_path.glob(".*"))
