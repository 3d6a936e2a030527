"""Columns of text out of Parquet and Arrow files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lvtrain.data.location import Uri, open_file, unread
from lvtrain.errors import UserError, nearest

Format = Literal["parquet", "arrow", "arrow stream"]
Batches = Iterator[tuple[pa.RecordBatch, int]]
Reader = Callable[[Sequence[str]], Batches]

BATCH_ROWS: Final = 8192
_MOST_NAMES: Final = 20
ENDS: Final = (b"\xff\xff\xff\xff\0\0\0\0", b"\0\0\0\0")
"""What ends a stream; the second before Arrow 0.15."""


def table_format(path: Path | Uri, head: bytes) -> Format | None:
    """Tell a table from text by the first bytes of a file; None for text.

    Raises UserError for a file that is named as a table and is not one.
    """
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"ARROW1"):
        return "arrow"
    if path.suffix in (".parquet", ".pq"):
        raise UserError(f"{path}: corrupt Parquet file: expected it to start with PAR1")
    if path.suffix in (".arrow", ".feather"):
        return "arrow stream"
    return None


def open_table(
    path: Path | Uri,
    kind: Format,
    columns: Sequence[str | None],
    limit: int,
    piece: int = 0,
    pieces: int = 1,
) -> Iterator[tuple[list[list[str]], int]]:
    """Read columns of a table batch by batch: a list of texts for each, and the bytes read.

    Of `pieces` pieces of a table that has as many `groups` of rows, one is read; rows and bytes are
    then counted from its start.

    A column is named with its path through structures, as `translation.en`; None is the only
    column that holds text. Raises UserError for a corrupt file, an unknown column, one without
    text, text that is not UTF-8, holds a zero byte or is longer than `limit` bytes.
    """
    try:
        schema, batches = _open(path, kind, piece, pieces)
        names = [_choose(path, schema, column) for column in columns]
        classes = _class_names(schema)
        row = 1
        for batch, read in batches(names):
            values = []
            for position, name in enumerate(names):
                # The first column is the text; labels may be of any type.
                array = _descend(batch, name)
                where = f"{path}: column '{name}'"
                values.append(_texts(array, where, row, limit, position > 0, classes.get(name)))
            row += batch.num_rows
            if batch.num_rows:
                yield values, read
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        if isinstance(error, OSError) and not isinstance(path, Path):
            raise unread(path, error) from None
        if isinstance(error, pa.ArrowNotImplementedError):
            raise UserError(
                f"{path}: holds what pyarrow {pa.__version__} does not read, or is corrupt: "
                f"{reason}"
            ) from None
        raise UserError(f"{path}: corrupt or truncated {kind.title()} file: {reason}") from None


def only_column(names: Sequence[str], among: Sequence[str], where: str) -> str:
    """Return the only column that holds text. Raises UserError if there are none or more."""
    if len(names) != 1:
        found = _listed(names) or f"none among {_listed(among) or 'no columns'}"
        raise UserError(f"{where}: expected one column of text or the name of one, found {found}")
    return names[0]


def unknown_column(name: str, among: Iterable[str], where: str) -> UserError:
    """Return the error of a name that no column has."""
    among = list(among)
    known = _listed(among) or "none"
    return UserError(
        f"{where}: unknown column '{name}': the columns are {known}" + nearest(name, among)
    )


def _listed(names: Sequence[str]) -> str:
    """Names in a line: an object may have one for each thing there is."""
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def groups(path: Path | Uri, kind: Format) -> int:
    """Return the number of groups of rows of a table that can be read on their own."""
    try:
        if kind == "parquet":
            return pq.ParquetFile(open_file(path)).num_row_groups
        if kind == "arrow":
            return pa.ipc.open_file(_mapped(path)).num_record_batches
    except (pa.ArrowException, OSError, EOFError):
        pass  # told where it is read
    return 1


def _open(path: Path | Uri, kind: Format, piece: int, pieces: int) -> tuple[pa.Schema, Reader]:
    """Return the schema, and a function from column names to record batches and bytes read."""
    source = _mapped(path) if kind == "arrow" else open_file(path)
    size = source.size() // pieces
    if kind == "parquet":
        # Other storage is asked for many pages at a time.
        parquet = pq.ParquetFile(source, pre_buffer=not isinstance(path, Path))
        count = parquet.num_row_groups
        chosen = range(count * piece // pieces, count * (piece + 1) // pieces)
        rows = sum(parquet.metadata.row_group(i).num_rows for i in chosen)

        def read_parquet(names: Sequence[str]) -> Batches:
            done = 0
            for batch in parquet.iter_batches(
                batch_size=BATCH_ROWS, row_groups=list(chosen), columns=sorted({*names})
            ):
                done += batch.num_rows
                yield batch, size * done // rows

        return parquet.schema_arrow, read_parquet
    if kind == "arrow":
        file = pa.ipc.open_file(source)
        count = file.num_record_batches
        chosen = range(count * piece // pieces, count * (piece + 1) // pieces)

        def read_file(names: Sequence[str]) -> Batches:
            for done, i in enumerate(chosen, 1):
                yield from _cut(file.get_batch(i), size * done // len(chosen))

        return file.schema, read_file
    stream = pa.ipc.open_stream(source)

    def read_stream(names: Sequence[str]) -> Batches:
        end = source.tell()
        for batch in stream:
            end = source.tell()
            yield from _cut(batch, end)
        # Of a stream cut between two batches, pyarrow reads what is there.
        source.seek(end)
        if not source.read(8).startswith(ENDS):
            raise UserError(
                f"{path}: truncated Arrow stream: expected the marker of its end after byte "
                f"{end:,}, found none (was its writer closed?)"
            )

    return stream.schema, read_stream


def _mapped(path: Path | Uri) -> pa.NativeFile:
    return pa.memory_map(os.fsencode(path)) if isinstance(path, Path) else open_file(path)


def _cut(batch: pa.RecordBatch, read: int) -> Batches:
    """Slice a large batch, so that no more than a slice of it becomes Python objects at a time."""
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS), read


def _choose(path: Path | Uri, schema: pa.Schema, name: str | None) -> str:
    """Check the name of a column, or find the only one that holds text."""
    if name is None:
        texts = [column.name for column in schema if _is_text(column.type)]
        name = only_column(texts, _paths(schema), str(path))
    if (times := schema.names.count(name)) > 1:
        raise UserError(f"{path}: expected one column '{name}', found {times} of that name")
    if times:
        return name
    kind: Any = pa.struct(list(schema))
    for part in name.split("."):
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            raise unknown_column(name, _paths(schema), str(path))
        kind = kind.field(part).type
    return name


def _paths(fields: Iterable[pa.Field], above: str = "") -> list[str]:
    """The names of columns, of those in structures with the path to them."""
    found: list[str] = []
    for field in fields:
        name = above + field.name
        within = _paths(field.type, f"{name}.") if pa.types.is_struct(field.type) else []
        found += within or [name]
    return found


def _descend(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    first, *rest = name.split(".")
    array = batch.column(first)
    return pc.struct_field(array, rest)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _texts(
    array: pa.Array, where: str, row: int, limit: int, any_type: bool, classes: list[str] | None
) -> list[str]:
    """Return a column as texts; a null is an empty one."""
    try:
        array.validate(full=True)  # what is mapped and damaged must not lead out of the file
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):  # told below, with the row
            raise
    if not _is_text(array.type):
        if not any_type or pa.types.is_nested(array.type) or _is_binary(array.type):
            raise UserError(f"{where} holds {array.type}, expected text")
        if classes is not None:
            return _named(array.to_pylist(), classes, where, row)
        return ["" if value is None else str(value) for value in array.to_pylist()]
    if pa.types.is_dictionary(array.type):
        words = _no_view(array.dictionary)
        array = pa.DictionaryArray.from_arrays(array.indices, words).dictionary_decode()
    array = _no_view(array)
    sizes = pc.binary_length(array)
    longest = pc.max(sizes).as_py() or 0
    if longest > limit:
        number = row + pc.index(sizes, longest).as_py()
        raise UserError(
            f"{where}: row {number} is {longest:,} bytes long, expected at most {limit:,}"
        )
    try:
        texts = [text or "" for text in array.to_pylist()]
    except UnicodeDecodeError:
        for number, value in enumerate(array.cast(pa.large_binary()).to_pylist(), row):
            try:
                (value or b"").decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{where}: not UTF-8: row {number}, byte {error.start + 1} is "
                    f"0x{value[error.start]:02x}"
                ) from None
        raise
    for number, text in enumerate(texts, row):
        if "\0" in text:
            raise UserError(f"{where}: row {number} holds a zero byte, expected text")
    return texts


def _no_view(array: pa.Array) -> pa.Array:
    """Return texts as an array that Arrow's functions take: they take no views."""
    return array.cast(pa.large_string()) if pa.types.is_string_view(array.type) else array


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _named(numbers: list[int | None], classes: list[str], where: str, row: int) -> list[str]:
    """Return the names of numbered classes; a null, or the -1 of unlabelled rows, has none."""
    for i, number in enumerate(numbers, row):
        if number is not None and not -1 <= number < len(classes):
            raise UserError(
                f"{where}: row {i} holds class {number}, expected 0 to {len(classes) - 1}"
            )
    return ["" if number in (None, -1) else classes[number] for number in numbers]


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the names that Hugging Face datasets keeps for the integers of label columns."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        features = info["info"]["features"]
        return {
            name: feature["names"]
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError):
        return {}
