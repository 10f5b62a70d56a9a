"""What is wrong with a command line, said so that it can be mended at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from megatron_patch.launch.config import POSITIONS

NUMBERS = {position.name: position.number for position in POSITIONS}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong: which values are involved, why, and what would be right."""

    names: tuple[str, ...]
    """Positions (`TP`) and variables (`MP_VP`, `WORLD_SIZE`); the first is the one to change."""
    what: str
    valid: str


def label(name: str, labels: Mapping[str, str] = MappingProxyType({})) -> str:
    """`position 10 TP` for one of the 25, the bare name for a variable; or what a front door calls it."""
    if name in labels:
        return labels[name]
    return f"position {NUMBERS[name]} {name}" if name in NUMBERS else name


def render(problem: Problem, typed: Mapping[str, str], labels: Mapping[str, str] = MappingProxyType({})) -> str:
    """One line: `position 10 TP: not a whole number: is "three"; valid: whole number >= 1`.

    Args:
        typed: what the user wrote, by position or variable name; a name without an entry is shown as not set.
    """
    where = " with ".join(label(name, labels) for name in problem.names)
    if len(problem.names) == 1:
        shown = f"is {quoted(typed.get(problem.names[0]))}"
    else:
        shown = ", ".join(f"{labels.get(name, name)} is {quoted(typed.get(name))}" for name in problem.names)
    return f"{where}: {problem.what}: {shown}; valid: {problem.valid}"


def quoted(value: str | None) -> str:
    """A value in double quotes on one line, control characters escaped."""
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)


def render_all(
    problems: list[Problem], typed: Mapping[str, str], labels: Mapping[str, str] = MappingProxyType({})
) -> str:
    """All problems in the order of the positions, one line each, under a line that counts them.

    Args:
        labels: what a front door of its own calls positions and variables.
    """
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"{count}; nothing was started."]
    ordered = sorted(problems, key=lambda problem: NUMBERS.get(problem.names[0], len(NUMBERS) + 1))
    lines += [f"  {render(problem, typed, labels)}" for problem in ordered]
    lines.append("  `--help` shows all flags." if labels else "  `--help` shows all 25 positions.")
    return "\n".join(lines)
