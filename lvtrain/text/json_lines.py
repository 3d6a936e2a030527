"""Fields out of JSON lines: an object a line, whose fields are columns of text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lvtrain.data.location import Uri
from lvtrain.errors import UserError
from lvtrain.text.tables import only_column, unknown_column

Lines = Iterable[tuple[int, list[str], int]]
"""The number of the first, the lines, the bytes of the file read."""


def read_fields(
    path: Path | Uri, lines: Lines, columns: Sequence[str | None]
) -> Iterator[tuple[list[list[str]], int]]:
    """Take columns out of the object on each line: a list of texts for each, and the bytes read.

    A column is named with its path through objects, as `translation.en`; None is the only field of
    the first line that holds text, on all lines. Raises UserError, naming the line, for what is no
    object, an unknown column, one without text, a zero byte, text that UTF-8 cannot hold.
    """
    names: list[str] = []
    for first, texts, read in lines:
        values: list[list[str]] = [[] for _ in columns]
        for number, text in enumerate(texts, first):
            where = f"{path}: line {number}"
            fields = _object(text, where)
            if not names:
                names = [_only_text(fields, where) if name is None else name for name in columns]
            for position, (name, into) in enumerate(zip(names, values, strict=True)):
                # The first column is the text; labels may be numbers.
                into.append(_text(fields, name, where, position > 0))
        yield values, read


def text_column(line: str, where: str) -> str:
    """Return the only field of a line that holds text. Raises UserError if there are none or
    more."""
    return _only_text(_object(line, where), where)


def check_unicode(text: str, where: str) -> None:
    """Raise UserError for half of a surrogate pair, which JSON can say and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: not UTF-8: character {error.start + 1} is the lone surrogate "
            f"\\u{ord(text[error.start]):04x}"
        ) from None


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"other text ({error.msg} at character {error.colno})"
        found = what if text.strip() else "an empty line"
    except RecursionError:
        found = "one nested too deeply"
    except ValueError:  # Python reads no integers of thousands of digits
        found = "a number of too many digits"
    else:
        if isinstance(value, dict):
            return value
        found = _kind(value)
    raise UserError(f"{where}: expected a JSON object a line, found {found}")


def _only_text(fields: Mapping[str, Any], where: str) -> str:
    texts = [name for name, value in fields.items() if isinstance(value, str)]
    # A text may be null, which tells nothing of which field is one.
    among = [f"{name} (null)" if value is None else name for name, value in _leaves(fields)]
    return only_column(texts, among, where)


def _leaves(fields: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The fields that are no objects, with the paths to them."""
    found, rest = [], list(fields.items())[::-1]
    while rest:  # not recursive: a line may be nested as deeply as Python reads
        name, value = rest.pop()
        if isinstance(value, dict) and value:
            rest += [(f"{name}.{part}", of) for part, of in value.items()][::-1]
        else:
            found.append((name, value))
    return found


def _text(fields: Mapping[str, Any], name: str, where: str, number: bool) -> str:
    """Return a field as text; a null is an empty one."""
    value: Any = fields
    for part in [name] if name in fields else name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise unknown_column(name, [path for path, _ in _leaves(fields)], where)
        value = value[part]
    if value is None:
        return ""
    if number and isinstance(value, int | float):
        return json.dumps(value)
    where = f"{where}: column '{name}'"
    if not isinstance(value, str):
        raise UserError(f"{where} holds {_kind(value)}, expected text")
    check_unicode(value, where)
    if "\0" in value:  # as in plain text, where it tells a binary file
        raise UserError(f"{where} holds a zero byte (\\u0000), expected text")
    return value


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = {dict: "an object", list: "an array", str: "a string", type(None): "null"}
    return kinds.get(type(value), "a number")
