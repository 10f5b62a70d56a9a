"""How one typed value is read, and shown again: shared by the 25 positions and the MP_* variables."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message


class ValueProblem(UserError, ValueError):
    """A text that is not a value of its kind; the code says why."""


CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""C0, DEL, C1, and Unicode's own line ends."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of value: how text becomes it, and what to tell somebody whose text does not."""

    parse: Callable[[str], Any]
    """Raises ValueProblem."""
    expects: Message
    """What would be right, as shown in errors and in the tables."""


def choice(*names: str) -> Kind:
    """One of a few words."""

    def parse(text: str) -> str:
        if text not in names:
            near = nearest_word(text, names)
            raise ValueProblem("unknown-value-nearest", nearest=near) if near else ValueProblem("unknown-value")
        return text

    return Kind(parse=parse, expects=Message("expect-choice", words=names))


def several(*names: str, none: str) -> Kind:
    """One or more of a few words, with commas between them, or `none` alone; kept as text, in the order given."""

    def parse(text: str) -> str:
        words = list(dict.fromkeys(word.strip() for word in text.split(",")))
        for word in words:
            choice(*names, none).parse(word)
        if none in words and len(words) > 1:
            raise ValueProblem("none-and-more", none=none)
        return ",".join(words)

    return Kind(parse=parse, expects=Message("expect-several", words=(*names, none)))


def boolean() -> Kind:
    """`true` or `false`, in any case."""
    return _switch({"true": True, "false": False})


def switch(*more: str) -> Kind:
    """As boolean, and the 1 and 0 that people give to variables; other words stand for themselves."""
    return _switch({"true": True, "false": False, "1": True, "0": False} | {word: word for word in more})


def _switch(words: dict[str, Any]) -> Kind:
    def parse(text: str) -> Any:
        if text.lower() not in words:
            raise ValueProblem("not-boolean")
        return words[text.lower()]

    return Kind(parse=parse, expects=Message("expect-choice", words=tuple(words)))


def in_digits(text: str) -> str | None:
    """A whole number that is written another way (`1e6`, `1_000`, `1,000`, `8.0`), in digits; None for anything else:
    `8k` is 8000 to some and 8192 to others."""
    if re.fullmatch(r"[+-]?[0-9]{1,3}([_,])[0-9]{3}(\1[0-9]{3}){0,4}", text):
        return text.replace("_", "").replace(",", "")
    if not re.fullmatch(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?([eE]\+?[0-9]{1,2})?", text):
        return None
    value = Decimal(text)
    return f"{int(value)}" if value == value.to_integral_value() and abs(value) < 10**18 else None


def whole(minimum: int, maximum: int | None = None) -> Kind:
    """A whole number; `1e6`, `1_000` and `8.0` are not."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            digits = in_digits(text)
            raise ValueProblem("not-whole-in-digits", digits=digits) if digits else ValueProblem("not-whole")
        if int(text) < minimum or (maximum is not None and int(text) > maximum):
            raise ValueProblem("out-of-range")
        return int(text)

    if maximum is None:
        return Kind(parse=parse, expects=Message("expect-whole", minimum=minimum))
    return Kind(parse=parse, expects=Message("expect-whole-between", minimum=minimum, maximum=maximum))


def real(minimum: float = 0.0, maximum: float | None = None, *, above: bool = False) -> Kind:
    """A finite number; `above` leaves out the minimum itself."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text):
            raise ValueProblem("not-number")
        value = float(text)
        if not math.isfinite(value):
            raise ValueProblem("not-finite")
        if value < minimum or (above and value == minimum) or (maximum is not None and value > maximum):
            raise ValueProblem("out-of-range")
        return value

    return Kind(parse=parse, expects=_bounds(minimum, maximum, above=above))


def _bounds(minimum: float, maximum: float | None, *, above: bool) -> Message:
    if maximum is None:
        return Message("expect-number-above" if above else "expect-number", minimum=minimum)
    code = "expect-number-above-between" if above else "expect-number-between"
    return Message(code, minimum=minimum, maximum=maximum)


def stretch(most: int) -> Kind:
    """`5-7`, or `5` alone: at most so many iterations that follow each other."""

    def parse(text: str) -> str:
        found = re.fullmatch(r"([0-9]{1,15})(?:-([0-9]{1,15}))?", text)
        if not found:
            raise ValueProblem("not-stretch")
        first = int(found[1])
        last = int(found[2] or first)
        if first < 1 or last < first:
            raise ValueProblem("stretch-order")
        if last - first >= most:
            raise ValueProblem("stretch-long", length=last - first + 1, most=most)
        return f"{first}-{last}"

    return Kind(parse=parse, expects=Message("expect-stretch", most=most))


def numbers() -> Kind:
    """Whole numbers from 0 on with commas between them; kept as text."""

    def parse(text: str) -> str:
        words = [word.strip() for word in text.split(",")]
        if not all(re.fullmatch(r"[0-9]{1,9}", word) for word in words):
            raise ValueProblem("not-numbers")
        return ",".join(map(str, sorted({int(word) for word in words})))

    return Kind(parse=parse, expects=Message("expect-numbers"))


def text(expected: str, **values: object) -> Kind:
    """A text that is not empty and stays on one line: no control characters, valid UTF-8.

    Args:
        expected: a code of the catalogue (`expect-...`), or the same in words that every language shares.
    """
    return _text(expected, values, white_space="")


def words(expected: str, **values: object) -> Kind:
    """As text, for several words: line ends and tabs are white space between them, as in a shell."""
    return _text(expected, values, white_space="\t\n\r")


def _text(expected: str, values: dict[str, object], *, white_space: str) -> Kind:
    def parse(value: str) -> str:
        if not value.strip():
            raise ValueProblem("empty")
        if any(CONTROL.match(mark) and mark not in white_space for mark in value):
            raise ValueProblem("control-characters")
        if any("\ud800" <= mark <= "\udfff" for mark in value):  # how Python holds bytes that are not UTF-8
            raise ValueProblem("not-utf-8")
        return value

    coded = expected.startswith("expect-")
    return Kind(parse=parse, expects=Message(expected, **values) if coded else Message("uncoded", text=expected))


def shown(value: object) -> str:
    """A value as a person types it, `true` and not `True`; `not set` for None."""
    return "not set" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class Described(Protocol):
    """A row of a table that `--help` and the reference show."""

    @property
    def meaning(self) -> str: ...

    @property
    def chinese(self) -> str: ...


def meaning_of(row: Described, language: str) -> str:
    """What it is for."""
    return row.chinese if language == "zh" else row.meaning


def printable(text: str) -> str:
    """One line that a terminal only shows: escapes, control, bidirectional and unpaired characters as `\\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest_word(word: str, known: tuple[str, ...]) -> str | None:
    """The known word that is most like this one, in any case of its letters; None where none is."""
    import difflib  # only errors need it: 10 ms that a good command line does not pay

    folded = {name.lower(): name for name in known}
    begun = [name for name in known if len(word) > 3 and name.lower().startswith(word.lower())]
    if begun:
        return begun[0]
    found = difflib.get_close_matches(word.lower(), folded, n=1)
    return folded[found[0]] if found else None
