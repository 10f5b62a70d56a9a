"""What we say to a person: a code with values, written out in his language and in the names that he typed.

The texts stand in `texts/`, by subject and code, each in English and in Chinese. Their placeholders:

- `{layers}` is a value; lists are joined by commas, messages and errors inside of messages are written out too.
- `{lines:/}` is a list with a line for each.
- `{processes:process|processes}` is a count with its noun: `1 process`, `2 processes`; `{n:?is|are}` the word alone.
- `{gpu:a}` is a value behind its article: `an H100`, `a B200`.
- `{SAVE_INTERVAL}` is a position or variable as the reader's CLI calls it; `{SAVE_INTERVAL:@}` says its number too;
  `{AC:=full}` is that value given to it: `AC=full` for the driver, `--recompute_granularity full` for NeMo's scripts.
- `{tool:convert}` is the command of a tool, as this installation has it (`common/tools.py`).

Standard library only: a refused command line takes a tenth of a second.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from megatron_patch.common.texts import ENGLISH, LANGUAGES
from megatron_patch.common.tools import tool


class Message:
    """One thing to say: which text, and what stands in its gaps."""

    __slots__ = ("code", "values")

    def __init__(self, code: str, /, **values: object) -> None:
        self.code = code
        self.values: dict[str, object] = values

    @property
    def told(self) -> Message:
        """What is said of a file, without the file's name; the message itself where it names none."""
        what = self.values.get("what")
        return what.told if self.code == "at" and isinstance(what, Message) else self

    def __str__(self) -> str:
        """In English, in the driver's names: for plan.json, logs and exceptions."""
        return Wording().text(self)

    def localized(self) -> str:
        """In the language of this process's environment: for screens."""
        return wording_of(os.environ).text(self)

    def __repr__(self) -> str:
        return f"Message({self.code!r}, {self.values!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and (self.code, self.values) == (other.code, other.values)

    def __hash__(self) -> int:
        return hash(self.code)


def localized(code: str, /, **values: object) -> str:
    """A text of the catalogue, for this process's screen."""
    return Message(code, **values).localized()


def at(path: object, what: str | Message, /, **values: object) -> Message:
    """A code of the catalogue or a message, and the file or value that it is about."""
    return Message("at", path=path, what=what if isinstance(what, Message) else Message(what, **values))


def named(name: str) -> Message:
    """A name that files hold in English, such as `first step` (`texts/names.py`); any other as it is."""
    code = f"name:{name}"
    return Message(code) if code in ENGLISH else Message("uncoded", text=name)


class Name(str):
    """The name of a position (`TP`), a variable (`MP_VP`) or a flag (`--num_gpus`) inside of a message."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How a CLI speaks: its language, and what it calls the positions and variables."""

    language: str = "en"
    numbers: Mapping[str, int] = field(default_factory=dict)
    """Positions that are told by their number."""
    flags: Mapping[str, str] = field(default_factory=dict)
    """Positions, variables and flags that have been typed by another name."""
    settings: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """What a value of a position is there, where that is not the flag followed by the value."""

    def text(self, message: Message) -> str:
        """A message, written out."""
        return self._fill(self._template(message.code)[0], message.values)

    def problem(self, message: Message) -> tuple[str, str]:
        """What is wrong, and what would be right: the text's second half, or else the value `expected`."""
        what, valid = self._template(message.code)
        return self._fill(what, message.values), self._fill(valid or "{expected}", message.values)

    def heading(self, name: str) -> str:
        """`position 10 TP` for one of the 25, a flag as it was typed, the bare name for a variable."""
        if name in self.flags or name not in self.numbers:
            return self.name(name)
        return self.text(Message("position", number=self.numbers[name], name=name))

    def name(self, name: str) -> str:
        """In the middle of a sentence."""
        return self.flags.get(name, name)

    def setting(self, name: str, value: str) -> str:
        """A value that is given to a position or variable."""
        if (name, value) in self.settings:
            return self.settings[name, value]
        return f"{self.flags[name]} {value}" if name in self.flags else f"{name}={value}"

    def _template(self, code: str) -> tuple[str, str]:
        found = LANGUAGES[self.language][code]
        return (found, "") if isinstance(found, str) else found

    def _fill(self, template: str, values: Mapping[str, object]) -> str:
        return _Formatter(self).vformat(template, (), values)


class _Tool:
    """Stands for `{tool:...}` until its name is read."""


class _Formatter(string.Formatter):
    """Python's format strings with the placeholders that are described above."""

    def __init__(self, wording: Wording) -> None:
        self._wording = wording

    def get_value(self, key: int | str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        if isinstance(key, str) and key not in kwargs and key.isupper():
            return Name(key)
        if key == "tool" and key not in kwargs:
            return _Tool()
        return super().get_value(key, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Name):
            return self._name(value, format_spec)
        if isinstance(value, _Tool):
            return tool(format_spec)
        if "|" in format_spec:
            one, many = format_spec.removeprefix("?").split("|")
            word = one if value == 1 else many
            return word if format_spec.startswith("?") else f"{value} {word}"
        if format_spec == "a":
            return f"{article(str(value))} {value}"
        if isinstance(value, Message):
            return self._wording.text(value)
        if isinstance(value, Exception):
            return self._error(value)
        if isinstance(value, (list, tuple)):
            between = "\n" if format_spec == "/" else self._wording.text(Message("comma"))
            return between.join(self.format_field(one, format_spec.removesuffix("/")) for one in value)
        return str(super().format_field("" if value is None else value, format_spec))

    def _error(self, error: Exception) -> str:
        """What an error says; of Python's own, whose text is a bare name, which one it is."""
        ours: Iterable[Message] = getattr(error, "messages", ())
        lines = listed(ours, self._wording) or [str(error)]
        kind = f"{type(error).__name__}: " if isinstance(error, (KeyError, TypeError, AttributeError)) else ""
        return kind + self._wording.text(Message("semicolon")).join(lines)

    def _name(self, name: str, spec: str) -> str:
        setting, numbered = spec.removesuffix("@"), spec.endswith("@")
        shown = self._wording.setting(name, setting[1:]) if setting else self._wording.name(name)
        number = self._wording.numbers.get(name)
        if not numbered or number is None or name in self._wording.flags:
            return shown
        return self._wording.text(Message("numbered", name=shown, number=number))


def article(word: str) -> str:
    """`a` or `an`, by the sound that a word, a name of letters and digits (`H100`) or a number begins with."""
    if digits := re.match(r"[\d,]+", word):
        number = digits.group().replace(",", "")
        return "an" if number[0] == "8" or (number[:2] in ("11", "18") and len(number) % 3 == 2) else "a"
    spelled = re.match(r"[A-Z](?![a-z])", word) is not None
    return "an" if word[:1] in ("AEFHILMNORSX" if spelled else "AEIOaeio") else "a"


def as_json(value: object) -> Any:
    """A message, or one of its values, as JSON holds it: files keep codes, the language is that of who reads them."""
    said = getattr(value, "messages", None) if isinstance(value, Exception) else None
    if said:
        return as_json(said[0] if len(said) == 1 else list(said))
    if isinstance(value, Message):
        return {"code": value.code, "values": {name: as_json(one) for name, one in value.values.items()}}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    if hasattr(value, "item"):  # of numpy
        return value.item()
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def from_json(value: Any) -> Any:
    """The inverse of `as_json`."""
    if isinstance(value, dict):
        return Message(value["code"], **{name: from_json(one) for name, one in value["values"].items()})
    return [from_json(one) for one in value] if isinstance(value, list) else value


def read_message(content: object) -> Message | None:
    """A message of a file or of another machine; None where it is not one, or of a version with other texts."""
    try:
        message = from_json(content)
        for language in LANGUAGES:
            Wording(language=language).text(message)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError):
        return None
    return message if isinstance(message, Message) else None


def wording_of(environ: Mapping[str, str]) -> Wording:
    """The language that the environment asks for, in the names that our own variables have."""
    return Wording(language=language_of(environ))


def language_of(environ: Mapping[str, str]) -> str:
    """MP_LANG, else what the locale says: LC_ALL goes before LC_MESSAGES and LANG; English for all but Chinese."""
    asked = environ.get("MP_LANG", "")
    if asked in LANGUAGES:
        return asked
    names = ("LC_ALL", "LC_MESSAGES", "LANG")
    locale = next((environ[name] for name in names if environ.get(name)), "")
    return "zh" if locale.lower().startswith("zh") else "en"


def listed(messages: Iterable[Message], wording: Wording) -> list[str]:
    """Several messages, written out."""
    return [wording.text(message) for message in messages]


def say(code: str, /, **values: object) -> None:
    """Print a line of the catalogue on standard output."""
    print(localized(code, **values), flush=True)
