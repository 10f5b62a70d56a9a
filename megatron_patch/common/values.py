"""How one typed value is read, and shown again: shared by the 25 positions and the MP_* variables."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of value: how text becomes it, and what to tell somebody whose text does not."""

    parse: Callable[[str], Any]
    """Raises ValueError, whose message says what is wrong with the text."""
    valid: str
    """What would be right, as shown in errors and in the tables."""


def choice(*names: str) -> Kind:
    """One of a few words."""

    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"unknown value{nearest(text, names)}")
        return text

    return Kind(parse=parse, valid=", ".join(names))


def boolean() -> Kind:
    """`true` or `false`, in any case."""

    def parse(text: str) -> bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("neither true nor false")
        return text.lower() == "true"

    return Kind(parse=parse, valid="true, false")


def switch() -> Kind:
    """As boolean, and the 1 and 0 that people give to variables."""
    words = {"1": True, "true": True, "0": False, "false": False}

    def parse(text: str) -> bool:
        if text.lower() not in words:
            raise ValueError("neither true nor false")
        return words[text.lower()]

    return Kind(parse=parse, valid="true, false, 1, 0")


def whole(minimum: int, maximum: int | None = None) -> Kind:
    """A whole number; `1e6`, `1_000` and `8.0` are not."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            raise ValueError("not a whole number")
        if int(text) < minimum or (maximum is not None and int(text) > maximum):
            raise ValueError("out of range")
        return int(text)

    bounds = f">= {minimum}" if maximum is None else f"from {minimum} to {maximum}"
    return Kind(parse=parse, valid=f"whole number {bounds}")


def real(minimum: float = 0.0, maximum: float | None = None, *, above: bool = False) -> Kind:
    """A finite number; `above` leaves out the minimum itself."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
            raise ValueError("not a number")
        value = float(text)
        if not math.isfinite(value):
            raise ValueError("not finite")
        if value < minimum or (above and value == minimum) or (maximum is not None and value > maximum):
            raise ValueError("out of range")
        return value

    bounds = f"{'>' if above else '>='} {minimum:g}" + ("" if maximum is None else f" and <= {maximum:g}")
    return Kind(parse=parse, valid=f"number {bounds}")


def text(valid: str) -> Kind:
    """Any text that is not empty and that a process may get as an argument."""

    def parse(value: str) -> str:
        if not value.strip():
            raise ValueError("empty")
        return value

    return Kind(parse=parse, valid=valid)


def shown(value: object) -> str:
    """A value as a person types it, `true` and not `True`; `not set` for None."""
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def nearest(word: str, known: tuple[str, ...]) -> str:
    """`; nearest: X`, or nothing where no known word is like this one."""
    import difflib  # only errors need it: 10 ms that a good command line does not pay

    folded = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), folded, n=1)
    return f"; nearest: {folded[found[0]]}" if found else ""
