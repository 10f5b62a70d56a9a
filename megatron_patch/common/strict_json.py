"""JSON that somebody gives us, read in bounded time and memory. Standard library only.

Python's reader takes NaN, 1e999 (as infinity) and integers of 4,300 digits, keeps the last of two equal keys, and ends
with a RecursionError where values are nested too deep. Here each of them is a JsonError that says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeGuard

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import named

MOST_BYTES = 100_000_000
"""Of one file: the largest tokenizer.json that is published has 33 MB."""
MOST_DEPTH = 100
"""Arrays and objects inside of each other: real files have fewer than 10."""
MOST_DIGITS = 300
"""Of a whole number: a longer one cannot become a float (`model_max_length` of tokenizers has 31)."""


class JsonError(UserError, ValueError):
    """Text that is not JSON, or JSON that no honest file has."""


def read_json(path: Path, *, large: bool = False, most: int = MOST_BYTES) -> Any:
    """The value of a file in UTF-8.

    Args:
        large: see parse_json.
        most: bytes of the file.
    Raises:
        OSError: it cannot be read.
        JsonError: it is too large, not UTF-8, or see parse_json.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise JsonError("json-too-large", most=most)
    return parse_json(content, large=large)


def read_object(path: Path) -> dict[str, Any]:
    """As read_json, for a file that has to hold an object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise JsonError("json-not-object")
    return found


def parse_json(text: str | bytes, *, large: bool = False, unique: bool = False) -> Any:
    """The value of a text.

    Args:
        large: a vocabulary of 100,000 entries, whose reader looks at every number: whole numbers may have 4,300 digits,
            and depth is bounded by Python alone. Half the time.
        unique: two equal keys in an object are refused; else the last one counts, as everywhere in Python.
    Raises:
        JsonError: not JSON, nested too deep, or a number that is NaN, infinite or too long.
    """
    options: dict[str, Any] = {"parse_constant": _constant, "parse_float": _real}
    options |= {} if large else {"parse_int": _whole}
    options |= {"object_pairs_hook": _unique} if unique else {}
    try:
        value = json.loads(text.decode() if isinstance(text, bytes) else text, **options)
    except JsonError:
        raise
    except UnicodeDecodeError as error:
        raise JsonError("json-not-utf-8", byte=error.start + 1) from None
    except json.JSONDecodeError as error:
        raise JsonError("json-syntax", line=error.lineno, column=error.colno, what=named(error.msg)) from None
    except ValueError:  # Python's own bound on the digits of an integer
        raise JsonError("json-number", number="an integer of thousands of digits") from None
    except RecursionError:
        raise JsonError("json-too-deep", most=MOST_DEPTH) from None
    if not large:
        _check_depth(value)
    return value


def _constant(name: str) -> NoReturn:
    raise JsonError("json-number", number=name)


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise JsonError("json-number", number=digits[:20])
    return value


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise JsonError("json-number", number=f"{digits[:20]}...")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JsonError("json-double-key", key=double)
    return found


def _check_depth(value: Any) -> None:
    """Level by level, so that our own reader of depth does not run out of stack either."""
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [one for parent in level for one in _parts(parent) if isinstance(one, (dict, list))]
        if not level:
            return
    raise JsonError("json-too-deep", most=MOST_DEPTH)


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def is_whole(value: object, least: int, most: int) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number in this range: neither 1000.5 nor true is."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
