"""Text at a URI: what names and globs stand for, and that it reads as the same files here do."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvtrain.data.store import Store
from lvtrain.errors import Passing, UserError
from lvtrain.prepare.prepare import PrepareConfig, prepare
from lvtrain.prepare.workers import Here, Processes
from lvtrain.text import lines, sources
from lvtrain.text.files import find
from lvtrain.text.sources import Source

LINES = [" ".join("abcdefgh"[i % 7 : i % 7 + 1 + i % 5]) + f" {i % 50}" for i in range(2000)]
KINDS = ("txt", "txt.gz", "jsonl", "parquet", "arrow")


def write(folder: Path, kind: str) -> None:
    """Three files, one in a folder of its own, and one that is hidden."""
    (folder / "a b").mkdir(parents=True)
    named = {"1%20.txt": LINES[:1500], "2#.txt": LINES[1500:], "a b/3.txt": LINES, ".no.txt": LINES}
    for name, some in named.items():
        path = (folder / name).with_suffix(f".{kind}")
        table = pa.table({"text": some})
        if kind == "parquet":
            pq.write_table(table, path, row_group_size=100)
        elif kind == "arrow":
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as out:
                out.write_table(table, max_chunksize=100)
        else:
            rows = [json.dumps({"text": line}) for line in some] if kind == "jsonl" else some
            content = "\n".join(rows).encode()
            path.write_bytes(gzip.compress(content) if kind.endswith("gz") else content)


@pytest.fixture(params=["file", "memory"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A folder of this machine, and the URI of one with the same files once `there` was called."""
    scheme = request.param
    folder = tmp_path / "texts"
    return folder, f"file://{folder}" if scheme == "file" else f"memory://{uuid.uuid4()}/texts"


def there(folder: Path, uri: str) -> None:
    if uri.startswith("memory"):
        import fsspec

        fsspec.filesystem("memory").put(str(folder), uri.removeprefix("memory:/"), recursive=True)


@pytest.mark.parametrize("kind", KINDS)
def test_text_at_a_uri_reads_as_files_do(
    anywhere: tuple[Path, str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, uri = anywhere
    monkeypatch.setattr(sources, "PART_BYTES", 900 if kind == "txt.gz" else 3_000)
    monkeypatch.setattr(lines, "READ_AHEAD", 1_000)
    write(folder, kind)
    there(folder, uri)
    here, far = Source(files=[f"{folder}/**/*.{kind}"]), Source(files=[f"{uri}/**/*.{kind}"])
    names = [str(one.path).removeprefix(f"{uri}/") for one in far.inputs]
    assert names == [f"1%20.{kind}", f"2#.{kind}", f"a b/3.{kind}"]
    assert names == [str(one.path.relative_to(folder)) for one in here.inputs]
    assert far.parts() == here.parts()
    assert len(far.parts()) > (2 if kind == "txt.gz" else 6)
    texts = [text for part in far.parts() for chunk in far.chunks(part) for text in chunk.texts]
    assert texts == LINES + LINES
    if kind in ("txt", "jsonl"):
        for part in far.parts():
            read, other = ([chunk.read for chunk in source.chunks(part)] for source in (far, here))
            assert read == sorted(read)
            assert read[-1] == other[-1]


def test_the_store_is_that_of_the_same_files_here(
    anywhere: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, uri = anywhere
    monkeypatch.setattr(sources, "PART_BYTES", 3_000)
    write(folder, "txt.gz")
    write(folder / "plain", "txt")
    there(folder, uri)

    def config(at: str) -> PrepareConfig:
        return PrepareConfig(files=(f"{at}/*.gz", f"{at}/plain/1*"), valid_fraction=0.1)

    here = prepare(config(str(folder)), tmp_path / "here", workers=Here())
    if uri.startswith("file"):
        with Processes(2) as processes:
            far = prepare(config(uri), tmp_path / "far", workers=processes)
    else:  # which only this process has
        far = prepare(config(uri), tmp_path / "far", workers=Here())
    assert far.digest == here.digest
    assert far.splits == here.splits
    assert [one["file"] for one in far.sources] == [
        str(one["file"]).replace(str(folder), uri) for one in here.sources
    ]
    Store.open(tmp_path / "far", verify="full")


def test_a_dataset_at_a_uri_has_its_files_in_order(anywhere: tuple[Path, str]) -> None:
    folder, uri = anywhere
    write(folder / "set", "arrow")
    (folder / "none").mkdir()
    (folder / "none" / "state.json").write_text('{"_data_files": []}')
    state = {"_data_files": [{"filename": "2#.arrow"}, {"filename": "1%20.arrow"}]}
    (folder / "set" / "state.json").write_text(json.dumps(state))
    there(folder, uri)
    texts = [text for chunk in Source(files=[f"{uri}/set"]).chunks() for text in chunk.texts]
    assert texts == LINES[1500:] + LINES[:1500]
    with pytest.raises(UserError, match="none: a dataset without rows, expected sentences"):
        find([f"{uri}/none"])


def test_what_is_wrong_names_the_uri(anywhere: tuple[Path, str]) -> None:
    folder, uri = anywhere
    write(folder, "txt")
    (folder / "empty.txt").touch()
    (folder / "bad.txt").write_bytes(b"a\n\xff\n")
    (folder / "cut.gz").write_bytes(gzip.compress(b"a b\n" * 999)[:-20])
    there(folder, uri)
    for name, reason in (
        ("3.txt", "no such file"),
        ("*.csv", "no file matches"),
        ("nowhere/*.txt", "no file matches"),
        ("empty.txt", "empty file, expected sentences"),
        ("a b", f"a folder without Arrow files, .* name its files, as {uri}/a b/\\*"),
    ):
        with pytest.raises(UserError) as caught:
            find([f"{uri}/{name}"])
        assert str(caught.value).startswith(f"{uri}/{name}: ")
        assert caught.match(reason)
    with pytest.raises(UserError, match=f"{uri}/bad.txt: not UTF-8: line 2, byte 1 is 0xff"):
        list(Source(files=[f"{uri}/bad.txt"]).chunks())
    with pytest.raises(UserError, match=f"{uri}/cut.gz: (truncated|corrupt) gzip file"):
        list(Source(files=[f"{uri}/cut.gz"]).chunks())
    with pytest.raises(UserError, match="1%20.txt: given twice"):
        Source(files=[f"{uri}/1*.txt", f"{uri}/[1-2]*.txt"])


def test_storage_that_cannot_be_reached_is_one_line_that_names_it() -> None:
    for pattern in ("nosuch://bucket/texts/*.txt", "hdfs://nohost.invalid:1/texts/a.txt"):
        with pytest.raises(UserError, match=rf"^{pattern.split('texts')[0]}texts") as caught:
            find([pattern])
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match="expected a bucket or host, found a pattern"):
        find(["s3://*/a.txt"])


def test_work_on_text_that_becomes_unreachable_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("a b\n" * 900)
    monkeypatch.setattr(sources, "PART_BYTES", 1_000)
    config = PrepareConfig(files=(f"file://{tmp_path}/a.txt",))
    prepare(config, tmp_path / "undisturbed", workers=Here())

    class Failing:
        def run(self, function: object, tasks: list[object], advance: object) -> None:
            Here().run(function, tasks[:2], advance)  # type: ignore[arg-type]
            (tmp_path / "a.txt").rename(tmp_path / "b.txt")
            Here().run(function, tasks[2:], advance)  # type: ignore[arg-type]

    with pytest.raises(Passing, match=r"a.txt: cannot be read: .*; the same command goes on"):
        prepare(config, tmp_path / "store", workers=Failing())
    assert len(list((tmp_path / ".store.work").glob("parts-*/counted*.json"))) == 2
    (tmp_path / "b.txt").rename(tmp_path / "a.txt")
    info = prepare(config, tmp_path / "store", workers=Here())
    assert info.digest == Store.open(tmp_path / "undisturbed").digest
