"""What is wrong with a command line, said so that it can be put right at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megatron_patch.common.errors import UserError, tag
from megatron_patch.common.messages import Message, Wording
from megatron_patch.common.terminal import masked
from megatron_patch.common.values import printable
from megatron_patch.launch.config import POSITIONS

NUMBERS = {position.name: position.number for position in POSITIONS}


UNKNOWN = frozenset({"unknown-variable", "unknown-variable-nearest", "flag-unknown", "flag-unknown-nearest"})
"""Names that nobody knows: one may be a misspelt name of a secret."""


class Problem:
    """One thing that is wrong: which values are involved, why, and what would be right."""

    __slots__ = ("message", "names")

    def __init__(self, code: str, /, *names: str, **values: object) -> None:
        """
        Args:
            code: of the catalogue (`common/texts/`).
            names: positions (`TP`), variables (`MP_VP`, `WORLD_SIZE`) and flags; the first is the one to change.
            values: what the text's placeholders stand for; `expected` where the text does not say what would be right.
        """
        self.names = names
        self.message = Message(code, **values)

    @classmethod
    def of(cls, error: UserError, *names: str, expected: Message) -> list[Problem]:
        """One for each thing that an error says."""
        told = [message.told for message in error.messages]
        return [cls(one.code, *names, **{"expected": expected, **one.values}) for one in told]

    @property
    def code(self) -> str:
        """Of its text."""
        return self.message.code

    def __repr__(self) -> str:
        return f"Problem({self.code!r}, {', '.join(self.names)}: {self.message})"


def label(name: str) -> str:
    """`position 10 TP` for one of the 25, the bare name for a variable."""
    return driver_wording().heading(name)


def driver_wording(language: str = "en") -> Wording:
    """The driver knows its values by number."""
    return Wording(language=language, numbers=NUMBERS)


def render(problem: Problem, typed: Mapping[str, str], wording: Wording) -> str:
    """One line: `position 10 TP: not a whole number: is "three"; valid: whole number >= 1 [not-whole]`.

    Args:
        typed: what the user wrote, by position or variable name; a name without an entry is shown as not set.
    """
    names = {wording.name(name): name for name in reversed(problem.names)}  # two positions may be one flag
    names = dict(reversed(names.items()))
    where: object = wording.heading(next(iter(names.values())))
    for name in list(names.values())[1:]:
        where = Message("problem-names", first=where, second=wording.heading(name))
    told_of = {name: typed.get(name) for name in names.values()}
    if problem.code in UNKNOWN:
        told_of = {name: value and masked(value) for name, value in told_of.items()}
    values = {shown: quoted(told_of[name], wording) for shown, name in names.items()}
    if len(values) == 1:
        told = [Message("problem-value", value=value) for value in values.values()]
    else:
        told = [Message("problem-value-of", name=name, value=value) for name, value in values.items()]
    what, valid = wording.problem(problem.message)
    line = Message("problem-line", where=where, what=what, shown=told, valid=valid)
    return wording.text(line) + tag(problem.code)


def quoted(value: str | None, wording: Wording) -> str:
    """A value in double quotes on one line, with nothing in it that a terminal would obey."""
    return wording.text(Message("not-set")) if value is None else printable(json.dumps(value, ensure_ascii=False))


def render_all(problems: Sequence[Problem], typed: Mapping[str, str], wording: Wording) -> str:
    """All problems in the order of the positions, one line each, under a line that counts them."""
    lines = [wording.text(Message("problem-count", count=len(problems)))]
    ordered = sorted(problems, key=lambda problem: NUMBERS.get(problem.names[0], len(NUMBERS) + 1))
    lines += [f"  {render(problem, typed, wording)}" for problem in ordered]
    lines.append(f"  {wording.text(Message('see-flags' if wording.flags else 'see-positions'))}")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Obstacle:
    """Why something cannot be: what `auto` does without, and a problem where it is asked for."""

    code: str
    """Of its text."""
    names: tuple[str, ...] = ()
    values: Mapping[str, object] = field(default_factory=dict)
