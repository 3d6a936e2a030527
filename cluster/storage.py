"""Checkpoints on storage that every node reaches: S3, GCS, HDFS, or any other file system of
pyarrow or fsspec.

Such storage renames nothing atomically, but one small object is written whole or not at all. So the
order is what counts: parts, `meta.json`, then the manifest, then `LATEST`, then what is old goes,
its manifest first. The files are those of a run's own checkpoints (`lvtrain.training.parts`), so
one is made of the other by copying.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, fs
from torch import Tensor

from lvtrain.data.location import opened, said
from lvtrain.errors import UserError
from lvtrain.training.checkpoint import LATEST, commit, name_of, newest_whole, step_of
from lvtrain.training.parts import (
    MANIFEST,
    META,
    FileRecord,
    manifest,
    parts,
    record,
    safetensors,
    to_bytes,
    vouched,
)

_CHUNK = 1 << 22


@dataclass(frozen=True)
class Stored:
    """A checkpoint on such storage whose files were compared with their checksums."""

    storage: Storage
    step: int
    meta: dict[str, Any]
    parts: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return f"{self.storage.uri}/{name_of(self.step)}"

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors of a part by name, on the CPU, bitwise as they were committed."""
        from safetensors.torch import load

        return load(self.storage.read(f"{name_of(self.step)}/{part}.safetensors"))


class Storage:
    """A folder of checkpoints at a URI."""

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._fs, self._root = opened(self.uri, "--checkpoints")

    def write_part(self, folder: str, part: str, tensors: Mapping[str, Tensor]) -> FileRecord:
        """Write a part's file into a folder; gives its size and checksum."""
        return self._write(f"{folder}/{part}.safetensors", safetensors(tensors))

    def read(self, name: str) -> bytes:
        with self._fs.open_input_stream(self._at(name)) as file:
            return file.read()

    def commit(
        self,
        step: int,
        write: Callable[[str], Mapping[str, FileRecord]],
        meta: Mapping[str, Any],
        keep: int = 2,
        keep_steps: Collection[int] = (),
    ) -> None:
        """As `lvtrain.training.checkpoint.commit`; `write` puts the parts into the folder it is
        given the name of.

        Raises UserError where the storage refuses; what was complete stays so.
        """
        folder = name_of(step)
        try:
            self._remove(folder)
            self._fs.create_dir(self._at(folder))
            records = write(folder)
            own = self._write(f"{folder}/{META}", [to_bytes(meta)])
            self._write(f"{folder}/{MANIFEST}", [manifest(step, records, own)])
            self._write(LATEST, [f"{folder}\n".encode()])
        except (OSError, ArrowException) as error:
            raise UserError(f"{self.uri}/{folder}: cannot be written: {said(error)}") from error
        older = sorted((s for s in self.steps() if s < step), reverse=True)
        kept = {step, *older[: max(keep, 2) - 1], *keep_steps}
        for other in self.steps():
            if other not in kept:
                # Storage that refuses here does no harm; the next commit tries again.
                with suppress(OSError, ArrowException):
                    self._remove(name_of(other))

    def fetch(self, folder: Path) -> None:
        """Copy every complete checkpoint into a run's own folder of them."""
        for step in sorted(self.steps()):
            found, _ = self._vouched(step)
            if found is not None:
                stored = self._stored(step, found)
                tensors = {part: stored.tensors(part) for part in stored.parts}
                commit(folder, step, parts(tensors), stored.meta, keep=step + 2)

    def latest(self) -> Stored | None:
        """The checkpoint that `LATEST` names or, where that one is damaged, the newest complete
        one; None where nothing was ever committed.

        Raises UserError where the storage cannot be read, or has checkpoints and no complete one.
        """
        try:
            steps = self.steps()
            named = step_of(self.read(LATEST).decode().strip()) if steps else None
        except FileNotFoundError:
            named = None
        except (OSError, ArrowException) as error:
            raise UserError(f"{self.uri}: cannot be read: {said(error)}") from error
        if not steps:
            return None
        return self._stored(*newest_whole(self.uri, steps, named, (), self._vouched))

    def at(self, step: int) -> Stored:
        """The checkpoint of `step`. Raises UserError if it is missing or damaged."""
        found, damage = self._vouched(step)
        if found is None:
            raise UserError(f"{self.uri}: {name_of(step)}: {damage}")
        return self._stored(step, found)

    def _stored(self, step: int, found: dict[str, Any], warnings: tuple[str, ...] = ()) -> Stored:
        meta = json.loads(self.read(f"{name_of(step)}/{META}"))
        return Stored(self, step, meta, tuple(found["parts"]), warnings)

    def _vouched(self, step: int) -> tuple[dict[str, Any] | None, str]:
        folder = name_of(step)

        def size(name: str) -> int:
            return self._fs.get_file_info(self._at(f"{folder}/{name}")).size or 0

        def checksum(name: str) -> str:
            with self._fs.open_input_stream(self._at(f"{folder}/{name}")) as file:
                pieces = iter(lambda: file.read(_CHUNK), b"")
                return record(lambda piece: None, pieces)["sha256"]

        try:
            return vouched(self.read(f"{folder}/{MANIFEST}"), step, size, checksum)
        except FileNotFoundError:
            return None, "incomplete"
        except (OSError, ArrowException) as error:
            return None, said(error)

    def steps(self) -> list[int]:
        """The steps that have a folder, whole or not."""
        chosen = fs.FileSelector(self._root, allow_not_found=True)
        names = [info.base_name for info in self._fs.get_file_info(chosen)]
        return [step for name in names if (step := step_of(name)) is not None]

    def _remove(self, folder: str) -> None:
        """Remove a checkpoint: without its manifest it is none, however far the rest gets."""
        with suppress(FileNotFoundError):
            self._fs.delete_file(self._at(f"{folder}/{MANIFEST}"))
        with suppress(FileNotFoundError):
            self._fs.delete_dir(self._at(folder))

    def _write(self, name: str, pieces: Any) -> FileRecord:
        with self._fs.open_output_stream(self._at(name)) as file:
            return record(file.write, pieces)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"
