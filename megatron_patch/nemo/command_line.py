"""The words of a command line, read by the table in `flags.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from megatron_patch.common.values import nearest
from megatron_patch.launch.problems import Problem
from megatron_patch.nemo.flags import FLAGS, SECRETS, Flag


def _spellings() -> dict[str, Flag]:
    found: dict[str, Flag] = {}
    for flag in FLAGS:
        for word in (f"--{flag.name}", *flag.also):
            found.setdefault(word, flag)
    return found


SPELLINGS = _spellings()
PIPELINE = SPELLINGS["--pipeline_model_parallel_size"]


def parse(arguments: Sequence[str]) -> tuple[dict[str, Any], dict[str, str], list[Problem]]:
    """Read a command line.

    Returns:
        Values of the flags that were given, True for a switch; what was typed, by flag; and all that is wrong.
    """
    given: dict[str, Any] = {}
    typed: dict[str, str] = {}
    problems: list[Problem] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        spelled, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        flag = _flag(spelled)
        if flag is None:
            near = nearest(spelled, tuple(SPELLINGS)) if spelled.startswith("-") else ""
            problems.append(Problem(names=(spelled,), what=f"unknown flag{near}", valid="the flags that --help lists"))
            follows = not equals and words and not words[0].startswith("-")
            typed[spelled] = words.pop(0) if follows else value  # its value, or what it would be
        elif flag.kind is None:
            given[flag.name] = True
            problems += [_wrong(flag, "a switch takes no value", "without =")] if equals else []
        elif not equals and _ends_here(words):
            problems += [] if flag.may_be_empty else [_wrong(flag, "no value after it", flag.kind.valid)]
        else:
            value = value if equals else words.pop(0)
            flag = PIPELINE if spelled == "-P" and value.isdigit() else flag
            problems += _take(flag, value, given, typed)
    return given, typed, problems


def _flag(spelled: str) -> Flag | None:
    """Long flags may have `-` where the table has `_`."""
    if spelled.startswith("--"):
        spelled = "--" + spelled.removeprefix("--").replace("-", "_")
    return SPELLINGS.get(spelled)


def _ends_here(words: list[str]) -> bool:
    """Whether no value follows: another flag, or nothing."""
    return not words or words[0] in SPELLINGS or words[0].startswith("--")


def _take(flag: Flag, value: str, given: dict[str, Any], typed: dict[str, str]) -> list[Problem]:
    """Put a flag's value into `given` and `typed`; what is wrong with it."""
    assert flag.kind is not None
    if flag.may_be_empty and not value:
        return []
    typed[f"--{flag.name}"] = value
    if flag.name in given:
        return [_wrong(flag, "given twice", "once")]
    try:
        given[flag.name] = flag.kind.parse(value)
    except ValueError as error:
        if flag.name in SECRETS:
            typed[f"--{flag.name}"] = "(hidden)"
        return [_wrong(flag, str(error), flag.kind.valid)]
    return []


def _wrong(flag: Flag, what: str, valid: str) -> Problem:
    return Problem(names=(f"--{flag.name}",), what=what, valid=valid)
