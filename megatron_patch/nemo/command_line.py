"""The parser of the NeMo tutorials' command lines: everything that is wrong with the words is found at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from megatron_patch.common.values import ValueProblem, nearest_word
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


@dataclass(kw_only=True)
class CommandLine:
    """A command line, read."""

    given: dict[str, Any] = field(default_factory=dict)
    """Values of the flags that were given, by the flag's name; True for a switch."""
    spelled: dict[str, str] = field(default_factory=dict)
    """`-mbs` by `--micro_batch_size`: how each of them was typed, for messages."""
    typed: dict[str, str] = field(default_factory=dict)
    """The text after each of them."""
    problems: list[Problem] = field(default_factory=list)

    def wrong(self, code: str, flag: Flag, **values: object) -> None:
        """Note what is wrong with a flag."""
        self.problems.append(Problem(code, f"--{flag.name}", **values))


def parse(arguments: Sequence[str]) -> CommandLine:
    """Read a command line, with everything that is wrong with its words."""
    line, words = CommandLine(), list(arguments)
    while words:
        word = words.pop(0)
        spelled, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        flag = _flag(spelled)
        if flag is None:
            _unknown(line, spelled)
            follows = not equals and words and not words[0].startswith("-")
            line.typed[spelled] = words.pop(0) if follows else value  # its value, or what it would be
            continue
        flag = PIPELINE if spelled == "-P" and not equals and words and words[0].isdigit() else flag
        line.spelled[f"--{flag.name}"] = spelled
        if flag.kind is None:
            line.given[flag.name] = True
            if equals:
                line.typed[f"--{flag.name}"] = value
                line.wrong("flag-is-switch", flag)
        elif not equals and _ends_here(words):
            if not flag.may_be_empty:
                line.wrong("flag-without-value", flag, expected=flag.kind.expects)
        else:
            _take(line, flag, value if equals else words.pop(0))
    return line


def _flag(spelled: str) -> Flag | None:
    """Long flags may have `-` where the table has `_`."""
    if spelled.startswith("--"):
        spelled = "--" + spelled.removeprefix("--").replace("-", "_")
    return SPELLINGS.get(spelled)


def _unknown(line: CommandLine, spelled: str) -> None:
    near = nearest_word(spelled, tuple(SPELLINGS)) if spelled.startswith("-") else None
    if near is None:
        line.problems.append(Problem("flag-unknown", spelled))
    else:
        line.problems.append(Problem("flag-unknown-nearest", spelled, nearest=near))


def _ends_here(words: list[str]) -> bool:
    """Whether no value follows: another flag, or nothing."""
    return not words or words[0] in SPELLINGS or words[0].startswith("--")


def _take(line: CommandLine, flag: Flag, value: str) -> None:
    """Read a flag's value."""
    assert flag.kind is not None
    if flag.may_be_empty and not value:
        return
    name = f"--{flag.name}"
    line.typed[name] = "(hidden)" if flag.name in SECRETS else value
    if flag.name in line.given:
        line.wrong("flag-twice", flag)
        return
    try:
        line.given[flag.name] = flag.kind.parse(value)
    except ValueProblem as error:
        line.problems += Problem.of(error, name, expected=flag.kind.expects)
