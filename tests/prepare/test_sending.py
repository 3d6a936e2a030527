"""Stores made here and sent to a URI: whole or absent there, whoever is killed meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lvtrain.cli import run
from lvtrain.data import location, shards
from lvtrain.data.cache import Cache
from lvtrain.data.location import Uri, listed, put, read_bytes
from lvtrain.data.store import Store
from lvtrain.errors import Passing, UserError
from lvtrain.grammar.grammar import Grammar
from lvtrain.prepare.prepare import PrepareConfig, prepare
from lvtrain.prepare.sending import NOTE
from lvtrain.prepare.workers import Here
from lvtrain.text import sources


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PART_BYTES", 15_000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 4_000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def config(tmp_path: Path) -> PrepareConfig:
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"{line}\n" for line in Grammar().sample(1500, seed=5)))
    return PrepareConfig(files=(str(path),), valid_fraction=0.1)


@pytest.fixture(params=["file", "memory", "objects"])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uri:
    if request.param == "file":
        return Uri(f"file://{tmp_path}/far/a store")
    if request.param == "objects":
        monkeypatch.setattr(location, "OBJECT_STORES", ("py::fsspec+memory",))
    return Uri(f"memory://{uuid.uuid4()}/store")


def content(uri: Uri) -> dict[str, bytes]:
    return {
        "/".join(file.parts[len(uri.parts) :]): read_bytes(file)
        for file, _ in listed(uri, recursive=True)
    }


def local(store: Path) -> dict[str, bytes]:
    files = sorted(path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


class Failing:
    """Carries out `count` tasks of a function and no more."""

    def __init__(self, name: str, count: int, error: BaseException) -> None:
        self.name, self.count, self.error = name, count, error
        self.sent = 0

    def run(self, function: Callable[..., Any], tasks: Sequence[Any], advance: Any) -> None:
        named = function.__name__ == self.name
        self.sent += len(tasks) * named
        Here().run(function, tasks[: self.count] if named else tasks, advance)
        if named and len(tasks) > self.count:
            raise self.error


def test_the_store_there_is_bit_for_bit_that_of_this_machine(
    config: PrepareConfig, uri: Uri, tmp_path: Path
) -> None:
    here = prepare(config, tmp_path / "here", workers=Here())
    phases = []
    work = replace(config, work=str(tmp_path / "work"))
    far = prepare(work, str(uri), lambda *said: phases.append(said[2]), Here())
    assert far == here
    assert content(uri) == local(tmp_path / "here")
    assert phases[-1] == "sending"
    assert list((tmp_path / "work").rglob("*")) == []
    Store.open(str(uri), verify="full", cache=Cache(tmp_path / "shards"))
    with pytest.raises(UserError, match="exists already; choose another folder or allow"):
        prepare(config, str(uri), workers=Here())
    other = replace(config, overwrite=True, max_words=8, valid_fraction=0.0)
    assert prepare(other, str(uri), workers=Here()).splits.keys() == {"train"}
    prepare(replace(other, overwrite=False), tmp_path / "other", workers=Here())
    assert content(uri) == local(tmp_path / "other")


def test_sending_goes_on_where_it_failed_and_nothing_opens_before_it_is_whole(
    config: PrepareConfig, uri: Uri, tmp_path: Path
) -> None:
    prepare(config, tmp_path / "here", workers=Here())
    # A store that is replaced is gone before anything of the new one is there.
    prepare(replace(config, seed=1), str(uri), workers=Here())
    config = replace(config, overwrite=True)
    failing = Failing("send", 3, Passing("no route to host"))
    with pytest.raises(Passing, match="no route to host; the same command goes on from there"):
        prepare(config, str(uri), workers=failing)
    with pytest.raises(UserError, match="not a store: no store.json"):
        Store.open(str(uri))
    again = Failing("send", 10**6, Passing(""))
    prepare(config, str(uri), workers=again)
    assert again.sent == failing.sent - 3
    assert content(uri) == local(tmp_path / "here")


def test_what_was_lost_there_is_sent_again(config: PrepareConfig, tmp_path: Path) -> None:
    uri = Uri(f"file://{tmp_path}/far")
    with pytest.raises(KeyboardInterrupt):
        prepare(config, str(uri), workers=Failing("send", 3, KeyboardInterrupt()))
    (tmp_path / "far" / "tokenizer.json").unlink()
    prepare(config, str(uri), workers=Here())
    Store.open(tmp_path / "far", verify="full")


def test_a_store_that_came_there_meanwhile_is_not_replaced(
    config: PrepareConfig, uri: Uri, tmp_path: Path
) -> None:
    other = replace(config, seed=1, work=str(tmp_path / "other"))

    class Meanwhile:
        """Has another store sent there while this one is encoded."""

        def run(self, function: Callable[..., Any], tasks: Sequence[Any], advance: Any) -> None:
            if function.__name__ == "encode_part":
                prepare(other, str(uri), workers=Here())
            Here().run(function, tasks, advance)

    with pytest.raises(Passing, match="exists already; choose another folder or allow"):
        prepare(config, str(uri), workers=Meanwhile())
    Store.open(str(uri), verify="full")
    assert Store.open(str(uri)).info.settings["seed"] == 1
    prepare(replace(config, overwrite=True), str(uri), workers=Here())
    assert Store.open(str(uri), verify="full").info.settings["seed"] == config.seed


def test_what_was_sent_before_another_store_is_sent_again(
    config: PrepareConfig, uri: Uri, tmp_path: Path
) -> None:
    failing = Failing("send", 3, Passing("no route to host"))
    with pytest.raises(Passing):
        prepare(config, str(uri), workers=failing)
    for name in content(uri):  # of the same size, as those of another store may be
        put(uri / name, b"x" * len(content(uri)[name]))
    again = Failing("send", 10**6, Passing(""))
    prepare(config, str(uri), workers=again)
    assert again.sent == failing.sent
    prepare(config, tmp_path / "here", workers=Here())
    assert content(uri) == local(tmp_path / "here")


@pytest.fixture
def more(tmp_path: Path) -> str:
    path = tmp_path / "more.txt"
    path.write_text("".join(f"{line}\n" for line in Grammar().sample(700, seed=6)))
    return str(path)


def test_a_store_there_grows_as_one_here_does(
    config: PrepareConfig, uri: Uri, more: str, tmp_path: Path
) -> None:
    for out in (str(uri), str(tmp_path / "here")):
        prepare(config, out, workers=Here())
    before = content(uri)
    add = PrepareConfig(files=(more,), append=True)
    prepare(add, tmp_path / "here", workers=Here())
    adding = Failing("send", 10**6, Passing(""))
    prepare(add, str(uri), workers=adding)
    assert content(uri) == local(tmp_path / "here")
    assert adding.sent == len(content(uri)) - len(before), "what was there is not sent again"
    assert all(content(uri)[name] == old for name, old in before.items() if name != "store.json")
    Store.open(str(uri), verify="full", cache=Cache(tmp_path / "shards"))
    with pytest.raises(UserError, match="more.txt: in .* already"):
        prepare(add, str(uri), workers=Here())


def test_a_store_there_stays_as_it_is_until_all_that_is_added_is_there(
    config: PrepareConfig, uri: Uri, more: str, tmp_path: Path
) -> None:
    for out in (str(uri), str(tmp_path / "here")):
        prepare(config, out, workers=Here())
    before = Store.open(str(uri)).digest
    add = PrepareConfig(files=(more,), append=True)
    failing = Failing("send", 3, Passing("no route to host"))
    with pytest.raises(Passing, match="no route to host; the same command goes on from there"):
        prepare(add, str(uri), workers=failing)
    assert Store.open(str(uri), verify="full").digest == before
    again = Failing("send", 10**6, Passing(""))
    prepare(add, str(uri), workers=again)
    assert again.sent == failing.sent - 3
    prepare(add, tmp_path / "here", workers=Here())
    assert content(uri) == local(tmp_path / "here")


def test_of_two_that_add_to_a_store_there_one_is_told(
    config: PrepareConfig, uri: Uri, more: str, tmp_path: Path
) -> None:
    prepare(config, str(uri), workers=Here())
    (tmp_path / "third.txt").write_text(Path(more).read_text())
    other = PrepareConfig(
        files=(str(tmp_path / "third.txt"),), append=True, work=str(tmp_path / "other")
    )

    class Meanwhile:
        def run(self, function: Callable[..., Any], tasks: Sequence[Any], advance: Any) -> None:
            if function.__name__ == "encode_part":
                prepare(other, str(uri), workers=Here())
            Here().run(function, tasks, advance)

    with pytest.raises(Passing, match="changed meanwhile by another process"):
        prepare(PrepareConfig(files=(more,), append=True), str(uri), workers=Meanwhile())
    grown = Store.open(str(uri), verify="full")
    assert [Path(one["file"]).name for one in grown.info.sources] == ["corpus.txt", "third.txt"]


def test_one_whose_place_another_claimed_does_not_write_the_index(
    config: PrepareConfig, uri: Uri, tmp_path: Path
) -> None:
    class Claims:
        def run(self, function: Callable[..., Any], tasks: Sequence[Any], advance: Any) -> None:
            Here().run(function, tasks, advance)
            if function.__name__ == "send":
                put(uri / NOTE, b"another\n")

    with pytest.raises(Passing, match="another process is writing it"):
        prepare(config, str(uri), workers=Claims())
    with pytest.raises(UserError, match="not a store: no store.json"):
        Store.open(str(uri))


def test_a_mistake_leaves_nothing_there(config: PrepareConfig, uri: Uri, tmp_path: Path) -> None:
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"a b\n\xff\n")
    with pytest.raises(UserError, match="not UTF-8: line 2"):
        prepare(replace(config, files=(*config.files, str(bad))), str(uri), workers=Here())
    assert content(uri) == {}
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_what_is_no_store_is_not_written_into(config: PrepareConfig, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="expected nothing or a store there, found thesis.tex"):
            prepare(replace(config, overwrite=overwrite), f"file://{tmp_path}/far")
    (tmp_path / "far" / "thesis.tex").rename(tmp_path / "file")
    with pytest.raises(UserError, match=f"file://{tmp_path}/file/x") as caught:
        prepare(config, f"file://{tmp_path}/file/x")
    assert len(str(caught.value).splitlines()) == 1


def test_flags_without_effect_are_refused(
    config: PrepareConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, reason in (
        (["--out", "s", "--work", "w"], "--work: expected with a store at a URI, found the path s"),
        (["--out", "s3://b/s", "--work", "s3://b/w"], "--work: expected a path, found the URI"),
        (["--out", "s3://b/s", "--ray", "auto"], "--work: with --ray, expected a folder that"),
    ):
        assert run(["prepare", *config.files, *flags]) == 2
        assert reason in capsys.readouterr().err


_KILLED = """
import sys
from lvtrain.data import shards
from lvtrain.text import sources
from lvtrain.prepare.prepare import PrepareConfig, prepare
from lvtrain.prepare.workers import Here
sources.PART_BYTES, shards.SHARD_BYTES = 15_000, 4_000
print("ready", flush=True)
prepare(PrepareConfig(files=(sys.argv[1],), valid_fraction=0.1), sys.argv[2], workers=Here())
"""


def test_a_killed_prepare_goes_on_to_the_same_store(config: PrepareConfig, tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/far"
    started = time.perf_counter()
    info = prepare(config, tmp_path / "here", workers=Here())
    seconds = time.perf_counter() - started
    chooser = random.Random(0)
    killed = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", _KILLED, *config.files, uri],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(chooser.uniform(0.1, 0.6) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
        if (tmp_path / "far" / "store.json").exists():
            break
        if (tmp_path / "far").exists():
            assert (tmp_path / "far" / NOTE).exists()
    assert killed
    if not (tmp_path / "far" / "store.json").exists():
        prepare(config, uri, workers=Here())
    assert Store.open(tmp_path / "far", verify="full").digest == info.digest
    assert local(tmp_path / "far") == local(tmp_path / "here")
