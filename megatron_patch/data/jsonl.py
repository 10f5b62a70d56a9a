"""One JSON value, and one document of a corpus; what is wrong with it. Standard library only."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, named


class DataError(UserError, ValueError):
    """A line that is not what was asked for; the message starts with FILE:LINE where it is about a row."""


@dataclass(kw_only=True)
class ReadCounts:
    """What was met on the way, for the report: nothing is dropped without being counted."""

    lines: int = 0
    blank_lines: int = 0
    """Lines of white space only, as at the end of many files."""
    empty_documents: int = 0
    """Documents whose text is the empty string; they are left out."""
    bytes: int = 0
    """Read from the files, line ends included."""


def parse(line: bytes) -> Any:
    """The JSON value of a line.

    Raises:
        DataError: what is wrong with it; the caller knows which line it is.
    """
    try:
        text = line.decode()  # given bytes, json would guess the encoding
    except UnicodeDecodeError as error:
        raise DataError("row-not-utf-8", byte=error.start + 1) from None
    try:
        return loads(text)
    except DataError:
        if text.lstrip()[:1] in ("{", "["):
            raise
        raise DataError("row-not-json", begins=text.strip()[:30]) from None


def loads(text: str) -> Any:
    """As `json.loads`.

    Raises:
        DataError: not JSON, two equal keys in an object, nested too deep, or an integer that Python does not read
            (4,300 digits, as it takes quadratic time).
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except DataError:
        raise
    except json.JSONDecodeError as error:
        raise DataError("row-bad-json", column=error.colno, error=named(error.msg)) from None
    except ValueError:
        raise DataError("row-long-integer", digits=sys.get_int_max_str_digits()) from None
    except RecursionError:
        raise DataError("row-too-deep") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python's reader would take the last of two equal keys, and leave out the other in silence."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise DataError(
            "json-double-key", key=next(key for key, count in Counter(k for k, _ in pairs).items() if count > 1)
        )
    return found


def text_in(document: object, key: str) -> str:
    """The text of one document of a corpus.

    Raises:
        DataError: what is wrong with it; the caller knows which one it is.
    """
    if not isinstance(document, dict):
        raise DataError("row-document-kind", kind=json_kind(document), key=key)
    if key not in document:
        raise DataError("row-no-key", key=key, keys=list(map(repr, document)) or Message("none"))
    text = document[key]
    if not isinstance(text, str):
        raise DataError("row-document-text", key=key, kind=json_kind(text))
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            lone = f"\\u{ord(text[error.start]):04x}"
            raise DataError("row-lone-surrogate", half=lone, key=key) from None
    return text


def json_kind(value: object) -> str:
    """The name JSON gives to the type of a value."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
