"""One JSON value, and one document of a corpus; what is wrong with it in words. Standard library only."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

from megatron_patch.common.errors import UserError


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
        raise DataError(f"not UTF-8 at byte {error.start + 1} of the line") from None
    try:
        return loads(text)
    except DataError:
        if text.lstrip()[:1] in ("{", "["):
            raise
        raise DataError(f"not JSON: it begins with {text.strip()[:30]!r}; wanted an object, {{...}}") from None


def loads(text: str) -> Any:
    """As `json.loads`.

    Raises:
        DataError: not JSON, nested too deep, or an integer that Python does not read (4,300 digits, as it takes
            quadratic time).
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"bad JSON at column {error.colno}: {error.msg}") from None
    except ValueError:
        raise DataError(f"an integer of more than {sys.get_int_max_str_digits()} digits; wanted fewer") from None
    except RecursionError:
        raise DataError("JSON nested too deep") from None


def text_in(document: object, key: str) -> str:
    """The text of one document of a corpus.

    Raises:
        DataError: what is wrong with it; the caller knows which one it is.
    """
    if not isinstance(document, dict):
        raise DataError(f"a JSON {json_kind(document)}; wanted an object with the key {key!r}")
    if key not in document:
        have = ", ".join(map(repr, document)) or "none"
        raise DataError(f"no key {key!r}; its keys: {have}; --json-key selects another")
    text = document[key]
    if not isinstance(text, str):
        raise DataError(f"the value of {key!r} is a JSON {json_kind(text)}; wanted a string")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            lone = f"\\u{ord(text[error.start]):04x}"
            raise DataError(f"{lone} in the value of {key!r} is half a character (a lone surrogate)") from None
    return text


def json_kind(value: object) -> str:
    """The name JSON gives to the type of a value."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
