"""Text and stores on a web server: what it has not, what it cannot do, and when it is not there."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lvtrain.cli import run
from lvtrain.data.location import Uri
from lvtrain.data.store import Store
from lvtrain.errors import Passing, UserError
from lvtrain.prepare.prepare import PrepareConfig, prepare
from lvtrain.prepare.workers import Here
from lvtrain.text import sources
from lvtrain.text.files import check_unchanged, find

pytest.importorskip("aiohttp")


class Whole(SimpleHTTPRequestHandler):
    """Sends files as a whole, as Python's own server does; what is called `no` it refuses."""

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        if self.path.endswith("no"):
            return self.send_error(403)
        super().do_GET()


class Parts(Whole):
    """Sends the parts of files that it is asked for, too."""

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not wanted:
            return super().do_GET()
        first, last = map(int, wanted.groups())
        content = Path(self.translate_path(self.path)).read_bytes()
        part = content[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        self.wfile.write(part)


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that have read enough."""


def served(kind: type[Whole], folder: Path) -> Iterator[str]:
    server = Server(("127.0.0.1", 0), partial(kind, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[str]:
    yield from served(Whole, tmp_path)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[str]:
    yield from served(Parts, tmp_path)


@pytest.fixture
def absent() -> str:
    """Where no server is."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sources, "PART_BYTES", 2_000)
    path = tmp_path / "a.txt"
    path.write_text("".join(f"a b {i % 9}\n" for i in range(1000)))
    return path


def test_text_and_stores_of_a_web_server_are_those_of_files(
    parts: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = prepare(PrepareConfig(files=(str(text),)), tmp_path / "here", workers=Here())
    far = prepare(PrepareConfig(files=(f"{parts}/a.txt",)), tmp_path / "far", workers=Here())
    assert far.digest == here.digest
    assert Store.open(f"{parts}/far", verify="full").info == far


def test_a_glob_of_a_web_server_has_the_sizes_of_its_files(parts: str, tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.md"):
        (tmp_path / name).write_text("a b c\n")
    found = find([f"{parts}/*.txt"])
    assert [(str(one.path), one.bytes) for one in found] == [
        (f"{parts}/a.txt", 6), (f"{parts}/b.txt", 6)
    ]  # fmt: skip
    check_unchanged(found)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"a\.txt: empty file"):
        find([f"{parts}/*.txt"])


def test_a_server_without_parts_of_files_is_one_line_and_leaves_nothing(
    whole: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text.write_text("a b\n" * 2_000_000)  # more than is asked for at a time
    assert run(["prepare", f"{whole}/a.txt", "--out", str(tmp_path / "store")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"lvtrain: error: {whole}/a.txt: cannot be read: no file, or the server "
    )
    assert said.endswith(": expected one that answers range requests\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_server_that_is_not_there_or_refuses_is_not_a_missing_file(
    absent: str, whole: str
) -> None:
    refused = "cannot be read: the server cannot be reached: Connection refused"
    for name in ("a.txt", "*.txt"):
        with pytest.raises(Passing, match=f"^{absent}.*: {refused}"):
            find([f"{absent}/{name}"])
    with pytest.raises(Passing, match=f"^{absent}/store/store.json: {refused}"):
        Store.open(Uri(f"{absent}/store"))
    with pytest.raises(Passing, match=f"^{whole}/no: .*: the server answers 403 Forbidden"):
        find([f"{whole}/no"])


def test_what_a_server_has_not_is_missing(whole: str) -> None:
    for name, said in (("a.txt", "no such file"), ("x/*.txt", "no file matches")):
        with pytest.raises(UserError, match=said) as caught:
            find([f"{whole}/{name}"])
        assert not isinstance(caught.value, Passing)
    with pytest.raises(UserError, match="not a store: no store.json"):
        Store.open(f"{whole}/store")


def test_a_store_cannot_be_written_to_a_web_server(
    whole: str,
    text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run(["prepare", str(text), "--out", f"{whole}/store"]) == 2
    assert "cannot be written: a web server takes no files\n" in capsys.readouterr().err
