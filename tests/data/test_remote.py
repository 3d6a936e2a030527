"""Stores at a URI: what is read of them, what is kept of them, and for how long."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Self

import numpy as np
import pytest

from lvtrain.cli import run
from lvtrain.commands.parse import parse
from lvtrain.commands.prepare import PrepareArguments
from lvtrain.data import cache, checksums, location, shards
from lvtrain.data.batches import Batches
from lvtrain.data.cache import Cache
from lvtrain.data.location import absolute, foldable, is_file, opened, place, read_bytes, uri_of
from lvtrain.data.store import Store
from lvtrain.errors import UserError
from lvtrain.prepare.prepare import PrepareConfig, prepare_sentences


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shards, "SHARD_BYTES", 400)
    lines = [" ".join(["a", "b", "c", "d"][: i % 4 + 1]) for i in range(300)]
    prepare_sentences(lines, config=PrepareConfig(valid_fraction=0), out=tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def memory(local: Path) -> str:
    """The store on a file system of fsspec's."""
    import fsspec

    uri = f"memory://{uuid.uuid4()}/store"
    fsspec.filesystem("memory").put(str(local), uri.removeprefix("memory:/"), recursive=True)
    return uri


def test_a_path_keeps_its_uri() -> None:
    for uri in ("s3://bucket/a/b", "hdfs://host:9000/a", "file:///tmp/a", "memory://a"):
        assert uri_of(uri) == uri_of(Path(uri)) == uri_of(f"{uri}/") == uri
        assert absolute(Path(uri)) == Path(uri)
    for uri in ("local:///tmp/a", "local:/tmp/a"):
        assert uri_of(uri) == uri_of(Path(uri)) == "local:///tmp/a"
    for path in ("/tmp/a", "a/b", "C:/a", "a:b"):
        assert uri_of(path) is None


@pytest.mark.parametrize("uri", ["hdfs:///a/b", "hdfs:///a", "viewfs:///a b/c", "hdfs://a/b"])
def test_an_empty_host_stays_empty(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the name node that is configured; the first folder is no host."""
    assert uri_of(uri) == uri_of(f"{uri}/") == uri_of(Path(foldable(uri))) == uri
    assert str(place(uri)) == str(place(Path(foldable(uri)))) == uri
    assert str(place(uri) / "x" / "y") == f"{uri}/x/y"
    roots: list[str] = []
    monkeypatch.setattr(location, "_system", lambda root: (roots.append(root), "/"))
    root = "hdfs://a/" if uri == "hdfs://a/b" else f"{uri.partition(':')[0]}:///"
    assert opened(uri)[1] == "/" + uri.removeprefix(root)
    assert roots == [root]


def test_a_command_line_keeps_an_empty_host() -> None:
    argv = ["a", "--out", "hdfs:///a/b"]
    parsed = parse(PrepareArguments, argv, "prepare", "")
    joined = parse(PrepareArguments, ["a", "--out=hdfs:///a/b"], "prepare", "")
    assert uri_of(parsed.out) == uri_of(joined.out) == "hdfs:///a/b"


def test_the_local_scheme_is_this_machine(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "a.txt").write_text("a b\nc d\n" * 40)
    out = f"local://{tmp_path}/far/store"
    assert run(["prepare", f"local://{tmp_path}/a.txt", "--out", out]) == 0
    assert list((tmp_path / "here").iterdir()) == []
    assert Store.open(tmp_path / "far" / "store").digest == Store.open(Path(out)).digest


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_a_store_at_a_uri_reads_as_a_folder_does(
    local: Path, memory: str, tmp_path: Path, kind: str
) -> None:
    uri = f"file://{local}" if kind == "file" else memory
    cache = Cache(tmp_path / "cache")
    there, here = Store.open(uri, cache=cache), Store.open(local)
    assert not cache.folder.exists(), "nothing is fetched before it is read"
    assert there.info == here.info
    assert is_file(Path(uri) / "store.json")
    assert read_bytes(Path(uri) / "store.json") == (local / "store.json").read_bytes()
    for store in (there, Store.open(Path(uri), verify="full", cache=cache)):
        batches = [Batches(s.split("train"), batch_size=7, seed=1) for s in (store, here)]
        for i in range(80):
            one, other = (b.at(i) for b in batches)
            assert (one.tokens == other.tokens).all()
    kept = sorted(path.stat().st_size for path in cache.folder.iterdir())
    assert kept == sorted(shard.bytes for shard in here.info.splits["train"].shards)


def test_the_cache_keeps_to_its_limit_and_shards_come_again(
    local: Path, memory: str, tmp_path: Path
) -> None:
    here = Store.open(local)
    size = max(shard.bytes for shard in here.info.splits["train"].shards)
    cache = Cache(tmp_path / "cache", 3 * size)
    split, other = Store.open(memory, cache=cache).split("train"), here.split("train")
    chooser = np.random.default_rng(0)
    for _ in range(30):
        rows = chooser.integers(0, other.rows, 5)
        assert (split.gather(rows)[0] == other.gather(rows)[0]).all()
        assert sum(path.stat().st_size for path in cache.folder.iterdir()) <= 3 * size
        assert len(split._open) <= 4


def test_with_locality_each_rank_fetches_a_part_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 400)
    chooser = random.Random(0)
    lines = [" ".join(chooser.choices("abcd", k=2 + i % 2)) for i in range(4_000)]
    prepare_sentences(lines, config=PrepareConfig(valid_fraction=0), out=tmp_path / "store")
    uri, fetched = f"file://{tmp_path}/store", []
    for rank in range(4):
        cache = Cache(tmp_path / str(rank))
        batches = Batches(
            Store.open(uri, cache=cache).split("train"),
            batch_size=8, seed=0, rank=rank, world=4, by_length=True, locality=True,
        )  # fmt: skip
        for index in range(2 * batches.per_epoch):
            batches.at(index)
        fetched.append({path.name for path in cache.folder.iterdir()})
    shards_there = len(Store.open(uri).split("train").info.shards)
    assert len(set.union(*fetched)) == shards_there > 40
    # A quarter, and of both lengths those that two ranks' ranges meet in.
    assert max(map(len, fetched)) <= 0.25 * shards_there + 4


def test_what_is_damaged_there_is_not_kept(local: Path, tmp_path: Path) -> None:
    (victim, *_) = sorted((local / "train").iterdir())
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    cache = Cache(tmp_path / "cache")
    store = Store.open(f"file://{local}", cache=cache)
    with pytest.raises(UserError, match="len-0001-00000.arrow: corrupt shard: expected SHA-256"):
        store.split("train").gather(np.arange(1))
    assert list(cache.folder.iterdir()) == []
    victim.unlink()
    with pytest.raises(UserError, match="len-0001-00000.arrow: missing shard"):
        store.split("train").gather(np.arange(1))


def damage(folder: Path, where: float = 0.5) -> None:
    """Change a byte of every shard."""
    for path in folder.glob("*.arrow"):
        content = bytearray(path.read_bytes())
        content[int(where * (len(content) - 1))] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_a_copy_that_was_damaged_here_is_not_read_but_fetched_again(
    local: Path, tmp_path: Path, version: int, where: float
) -> None:
    expected = Store.open(local).split("train").gather(np.arange(300))[0]
    if version == 1:  # without the checksums of blocks
        index = json.loads((local / "store.json").read_text())
        for shard in index["splits"]["train"]["shards"]:
            del shard["blocks"]
        del index["checksum"]
        (local / "store.json").write_text(json.dumps({**index, "version": 1}))
    cache = Cache(tmp_path / "cache")
    Store.open(f"file://{local}", cache=cache).split("train").gather(np.arange(300))
    damage(cache.folder, where)
    split = Store.open(f"file://{local}", cache=cache).split("train")
    assert (split.gather(np.arange(300))[0] == expected).all()
    whole = {path.stem: path.read_bytes() for path in cache.folder.iterdir()}
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in whole.items())
    damage(cache.folder, where)
    damage(local / "train", where)
    with pytest.raises(UserError, match="file://.*: corrupt shard: expected SHA-256"):
        Store.open(f"file://{local}", cache=cache).split("train").gather(np.arange(1))


def test_messages_name_a_uri_as_it_was_given(memory: str, tmp_path: Path) -> None:
    store = Store.open(Path(memory), cache=Cache(tmp_path / "cache"))
    assert str(store.path) == memory
    with pytest.raises(UserError, match=f"^{memory}: no split 'tain'"):
        store.split("tain")


def test_a_copy_whose_damage_is_met_late_is_fetched_again(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "BLOCK_BYTES", 64)
    monkeypatch.setattr(shards, "BLOCK_BYTES", 64)
    lines = ["a b c d"] * 100
    prepare_sentences(lines, config=PrepareConfig(valid_fraction=0), out=tmp_path / "other")
    cache = Cache(tmp_path / "cache")
    here = Store.open(tmp_path / "other").split("train")
    split = Store.open(f"file://{tmp_path}/other", cache=cache).split("train")
    split.gather(np.arange(1))  # its first block alone is compared
    damage(cache.folder, 0.5)
    assert (split.gather(np.arange(100))[0] == here.gather(np.arange(100))[0]).all()


def test_a_copy_that_is_wrong_again_is_refused(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, fetched = Cache.fetch, []

    def damaged(self: Cache, uri: str, info: shards.ShardInfo) -> Path:
        fetched.append(fetch(self, uri, info))
        damage(self.folder)
        return fetched[-1]

    monkeypatch.setattr(Cache, "fetch", damaged)
    split = Store.open(f"file://{local}", cache=Cache(tmp_path / "cache")).split("train")
    with pytest.raises(UserError, match="corrupt shard: expected CRC-32"):
        split.gather(np.arange(1))
    assert len(fetched) == 2


def test_verifying_a_store_at_a_uri_reads_what_is_there(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Store.open(f"file://{local}").split("train").gather(np.arange(300))  # kept here
    (victim, *_) = sorted((local / "train").iterdir())
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + b"x")
    assert run(["inspect", f"file://{local}", "--verify"]) == 2
    said = capsys.readouterr().err
    assert f"file://{victim}: corrupt shard: expected SHA-256" in said
    victim.unlink()
    assert run(["inspect", f"file://{local}", "--verify"]) == 2
    assert f"file://{victim}: missing shard" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["opening", "reading"])
def test_storage_that_fails_is_one_line_that_names_the_shard(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Failing:
        """What a network that fails is to pyarrow: errors without a number."""

        def open_input_stream(self, path: str) -> Self:
            if where == "opening":
                raise OSError("When reading information for key: AWS Error NETWORK_CONNECTION")
            return self

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def read(self, size: int) -> bytes:
            raise OSError("When reading information for key: AWS Error NETWORK_CONNECTION")

    split = Store.open(memory, cache=Cache(tmp_path / "cache")).split("train")
    monkeypatch.setattr(cache, "opened", lambda name: (Failing(), name))
    with pytest.raises(UserError, match=r"len-0001-00000.arrow: cannot be read: .* NETWORK"):
        split.gather(np.arange(1))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_one_line(memory: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    split = Store.open(memory, cache=Cache(tmp_path / "file" / "cache")).split("train")
    with pytest.raises(UserError, match="file/cache: cannot be written: Not a directory"):
        split.gather(np.arange(1))


def test_a_shard_that_another_process_made_room_of_comes_again(
    local: Path, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Store.open(memory, cache=Cache(tmp_path / "cache")).split("train")
    fetch = Cache.fetch

    def evicted(self: Cache, uri: str, info: shards.ShardInfo) -> Path:
        path = fetch(self, uri, info)
        monkeypatch.setattr(Cache, "fetch", fetch)
        path.unlink()
        return path

    monkeypatch.setattr(Cache, "fetch", evicted)
    rows = np.arange(9)
    assert (split.gather(rows)[0] == Store.open(local).split("train").gather(rows)[0]).all()


def test_what_processes_left_half_fetched_counts_and_goes(
    local: Path, memory: str, tmp_path: Path
) -> None:
    size = max(shard.bytes for shard in Store.open(local).info.splits["train"].shards)
    here = Cache(tmp_path / "cache", 3 * size)
    here.folder.mkdir()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    host = socket.gethostname()
    dead, living, elsewhere = (
        here.folder / f".{'0' * 64}.arrow.{owner}"
        for owner in (f"{host}-{process.pid}-1", f"{host}-{os.getppid()}-1", "a-host-2-1")
    )
    for path in (dead, living, elsewhere):
        path.write_bytes(b"x" * size)
    split = Store.open(memory, cache=here).split("train")
    for row in range(0, split.rows, 9):
        split.gather(np.array([row]))
        assert sum(path.stat().st_size for path in here.folder.iterdir()) <= 3 * size
    assert not dead.exists()
    assert living.exists() and elsewhere.exists()


def test_inspect_takes_a_uri(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run(["inspect", f"file://{local}", "--verify"]) == 0
    assert Store.open(local).digest in capsys.readouterr().out
    assert run(["inspect", f"file://{local}x"]) == 2
    assert "not a store: no store.json" in capsys.readouterr().err
    shutil.rmtree(local / "train")
    assert run(["inspect", f"file://{local}"]) == 0
