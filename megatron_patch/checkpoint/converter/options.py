"""The converter's command line: ten positions as in Pai-Megatron-Patch, or named flags. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from megatron_patch.checkpoint.contents import is_megatron
from megatron_patch.checkpoint.converter.positions import (
    BETWEEN,
    DIRECTIONS,
    POSITIONS,
    PRECISIONS,
    TO_HF,
    TO_MEGATRON,
    help_text,
    list_text,
)
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, Wording, language_of
from megatron_patch.common.values import Kind, ValueProblem, choice, whole
from megatron_patch.models import AUTO, families, qualify, size_kind

FLAGS = {
    "MODEL_SIZE": "--model-name",
    "TP": "--tp",
    "PP": "--pp",
    "CHECK": "--check",
    "CHECK_ONLY": "--check-only",
    "HF_CKPT_PATH": "--hf-path",
}
"""What the positions are called by those who type flags."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """A command line, understood."""

    size: str
    source: Path
    target: Path
    direction: str
    """hf2mcore, mcore2hf or mcore2mcore."""
    tp: int = 1
    pp: int = 1
    check: bool = False
    check_only: bool = False
    precision: str | None = None
    """None keeps the source's."""
    hf_path: Path | None = None
    overwrite: bool = False
    dry_run: bool = False
    allow_pickle: bool = False
    verify: bool = True
    """Hold the source against its manifest, if it has one."""
    per_rank_files: bool = False
    iteration: int | None = None
    """Of a Megatron source: another than the newest."""
    max_shard_size: int | None = None
    """Bytes."""
    workers: int | None = None
    named: bool = field(default=True, compare=False)
    """Typed as flags: messages call the values as they were typed."""

    @property
    def hf_path_called(self) -> str:
        """What names a folder of config.json and tokenizer."""
        return wording(named=self.named).name("HF_CKPT_PATH")


class Usage(Exception):
    """Something to print that is not a conversion: help, a list, or what is wrong with the command line."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def parse(argv: Sequence[str]) -> Options:
    """Read a command line of either form.

    Args:
        argv: a family's script puts `--family NAME` in front; its sizes need no name then.
    Raises:
        Usage: for `--help` and `list`, with status 0; for a bad command line, with status 2 and every problem.
    """
    family, argv = (argv[1], argv[2:]) if list(argv[:1]) == ["--family"] and len(argv) > 1 else (None, argv)
    first = _first_flag(argv)
    values, flags = list(argv[:first]), list(argv[first:])
    if family is not None and family not in families():
        problem = Message("convert-family", family=repr(family), families=list(families()))
        raise Usage(problem_text([problem], named=True), 2)
    if "-h" in flags or "--help" in flags:
        raise Usage(help_text(family), 0)
    if values == ["list"]:
        raise Usage(list_text(), 0)
    problems: list[Message] = []
    named = _parse_flags(flags, problems)
    values[:1] = [qualify(size, family) for size in values[:1]]
    named["size"] = named["size"] and qualify(named["size"], family)
    facts = _from_positions(values, problems) if values else _from_flags(named, problems)
    given = {
        key: value for key, value in named.items() if value not in (None, False) and key in Options.__annotations__
    }
    twice = {"source", "target", "direction", "size", "tp", "pp", "precision"}
    twice |= {"hf_path"} if facts.get("hf_path") else set()
    if values and (clash := sorted(given.keys() & twice)):
        problems.append(Message("convert-said-twice", flags=[f"--{name}" for name in clash]))
    facts |= {key: value for key, value in given.items() if facts.get(key) in (None, False)}
    if os.environ.get("DRY_RUN", "") not in ("", "0"):
        facts["dry_run"] = True
    if named["no_verify"]:
        facts["verify"] = False
    if problems:
        raise Usage(problem_text(problems, named=not values), 2)
    options = Options(**facts, named=not values)
    problems = _contradictions(options)
    if problems:
        raise Usage(problem_text(problems, named=options.named), 2)
    return options


def _contradictions(options: Options) -> list[Message]:
    """What is right alone and wrong together."""
    problems = []
    if options.per_rank_files and options.direction == TO_HF:
        problems.append(Message("convert-rank-files-hf"))
    if (options.per_rank_files or options.direction == BETWEEN) and (options.check or options.check_only):
        problems.append(Message("convert-no-check"))
    if options.iteration is not None and options.direction == TO_MEGATRON:
        problems.append(Message("convert-iteration"))
    return problems


def _first_flag(argv: Sequence[str]) -> int:
    return next((i for i, word in enumerate(argv) if word.startswith("--") or word == "-h"), len(argv))


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError("uncoded", text=message)


def _shard_size(value: str) -> int:
    units = {"MB": 10**6, "GB": 10**9}
    if value[-2:].upper() not in units or not value[:-2].isdigit() or not int(value[:-2]):
        raise ValueProblem("not-shard-size")
    return int(value[:-2]) * units[value[-2:].upper()]


KINDS: Mapping[str, Kind] = {
    "--direction": choice(*DIRECTIONS),
    "--precision": choice(*PRECISIONS),
    "--tp": whole(1),
    "--pp": whole(1),
    "--workers": whole(1),
    "--iteration": whole(0),
    "--max-shard-size": Kind(parse=_shard_size, expects=Message("expect-shard-size")),
}


def _parse_flags(flags: list[str], problems: list[Message]) -> dict[str, Any]:
    parser = _Parser(add_help=False)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--output-path", "--output_path", dest="target", type=Path)
    parser.add_argument("--model-name", dest="size")
    parser.add_argument("--hf-path", type=Path)
    for flag in KINDS:
        parser.add_argument(flag)
    for name in ("overwrite", "check", "check-only", "dry-run", "allow-pickle", "no-verify", "per-rank-files"):
        parser.add_argument(f"--{name}", action="store_true")
    try:
        named = vars(parser.parse_args(flags))
    except UserError as error:
        problems += error.messages
        named = vars(parser.parse_args([]))
    for flag, kind in KINDS.items():
        name = flag[2:].replace("-", "_")
        if named[name] is not None:
            named[name] = _parsed(flag, kind, named[name], problems)
    return named


def _parsed(where: str | Message, kind: Kind, value: str, problems: list[Message]) -> Any:
    """The value; None, and what is wrong with it, where it is not of its kind."""
    try:
        return kind.parse(value)
    except ValueProblem as error:
        shown = Message("problem-value", value=f'"{value}"')
        problems.append(Message("problem-line", where=where, what=error, shown=shown, valid=kind.expects))
        return None


def _from_positions(values: list[str], problems: list[Message]) -> dict[str, Any]:
    least = len(POSITIONS) - 1
    if not least <= len(values) <= len(POSITIONS):
        counts = {"given": len(values), "least": least, "most": len(POSITIONS)}
        missing = [f"{n} {p.name}" for n, p in enumerate(POSITIONS[:least], 1) if n > len(values)]
        if missing:
            problems.append(Message("convert-values", **counts, missing=missing))
        else:
            problems.append(Message("convert-values-more", **counts, last=repr(values[-1])))
        return {}
    found: dict[str, Any] = {}
    for number, (position, value) in enumerate(zip(POSITIONS, values, strict=False), 1):
        where = Message("position", number=number, name=position.name)
        found[position.name] = _parsed(where, position.kind, value, problems)
    hf_path = found.get("HF_CKPT_PATH")
    return {
        "size": found.get("MODEL_SIZE"),
        "source": Path(found.get("SOURCE_CKPT_PATH") or ""),
        "target": Path(found.get("TARGET_CKPT_PATH") or ""),
        "tp": found.get("TP"),
        "pp": found.get("PP"),
        "direction": TO_HF if found.get("mg2hf") else TO_MEGATRON,
        "check": found.get("CHECK"),
        "check_only": found.get("CHECK_ONLY"),
        "precision": found.get("PR"),
        "hf_path": Path(hf_path) if hf_path else None,
    }


def _from_flags(named: dict[str, Any], problems: list[Message]) -> dict[str, Any]:
    for name, flag in (("source", "--source"), ("target", "--output-path")):
        if named[name] is None:
            problems.append(Message("convert-flag-missing", flag=flag, least=len(POSITIONS) - 1))
    size = _parsed("--model-name", size_kind(), named["size"] or AUTO, problems)
    direction = named["direction"]
    if direction is None and named["source"] is not None:
        from_megatron = BETWEEN if named["per_rank_files"] else TO_HF
        direction = from_megatron if is_megatron(named["source"]) else TO_MEGATRON
    return {"size": size, "direction": direction}


def wording(*, named: bool) -> Wording:
    """The user's language, and the positions as they were typed."""
    return Wording(language=language_of(os.environ), flags=FLAGS if named else {})


def problem_text(problems: Sequence[Message], *, named: bool) -> str:
    """All problems, one line each, under a line that counts them, in the user's language."""
    said = [Message("convert-problems", count=len(problems)), *problems, Message("convert-see-help")]
    return "\n  ".join(map(wording(named=named).text, said))


def refusal(error: CheckpointError, options: Options) -> Usage:
    """A refused checkpoint as a message with its status."""
    return Usage(problem_text(error.messages, named=options.named), 2)
