"""The converter's command line: ten positions as in Pai-Megatron-Patch, or named flags. Imports no torch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.contents import is_megatron
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.positions import (
    BETWEEN,
    DIRECTIONS,
    POSITIONS,
    PRECISIONS,
    TO_HF,
    TO_MEGATRON,
    help_text,
    list_text,
)
from megatron_patch.common.values import whole
from megatron_patch.models import AUTO, families, qualify, size_kind


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
    max_shard_bytes: int | None = None
    workers: int | None = None


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
        raise Usage(problem_text([f"--family: is {family!r}; valid: {', '.join(families())}"]), 2)
    if "-h" in flags or "--help" in flags:
        raise Usage(help_text(family), 0)
    if values == ["list"]:
        raise Usage(list_text(), 0)
    problems: list[str] = []
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
        problems.append(f"positions and --{', --'.join(clash)} say the same: give one of them")
    facts |= {key: value for key, value in given.items() if facts.get(key) in (None, False)}
    if os.environ.get("DRY_RUN", "") not in ("", "0"):
        facts["dry_run"] = True
    if named["no_verify"]:
        facts["verify"] = False
    if problems:
        raise Usage(problem_text(problems), 2)
    options = Options(**facts)
    problems = _contradictions(options)
    if problems:
        raise Usage(problem_text(problems), 2)
    return options


def _contradictions(options: Options) -> list[str]:
    """What is right alone and wrong together."""
    problems = []
    if options.per_rank_files and options.direction == TO_HF:
        problems.append(
            "--per-rank-files writes a Megatron checkpoint, and mcore2hf none: give hf2mcore or mcore2mcore"
        )
    if (options.per_rank_files or options.direction == BETWEEN) and (options.check or options.check_only):
        problems.append(
            "the check holds torch_dist against Hugging Face: set CHECK and CHECK_ONLY to false for --per-rank-files "
            "and mcore2mcore"
        )
    if options.iteration is not None and options.direction == TO_MEGATRON:
        problems.append("--iteration is for Megatron sources only")
    return problems


def _first_flag(argv: Sequence[str]) -> int:
    return next((i for i, word in enumerate(argv) if word.startswith("--") or word == "-h"), len(argv))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(message)


def _parse_flags(flags: list[str], problems: list[str]) -> dict[str, Any]:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--output-path", "--output_path", dest="target", type=Path)
    parser.add_argument("--model-name", dest="size")
    parser.add_argument("--direction")
    parser.add_argument("--precision")
    parser.add_argument("--hf-path", type=Path)
    for name in ("--tp", "--pp", "--workers"):
        parser.add_argument(name, type=whole(1).parse)
    parser.add_argument("--iteration", type=whole(0).parse)
    parser.add_argument("--max-shard-size", dest="max_shard_bytes", type=_bytes)
    for name in ("overwrite", "check", "check-only", "dry-run", "allow-pickle", "no-verify", "per-rank-files"):
        parser.add_argument(f"--{name}", action="store_true")
    try:
        return vars(parser.parse_args(flags))
    except (ValueError, argparse.ArgumentError) as error:
        problems.append(str(error))
        return vars(parser.parse_args([]))


def _bytes(value: str) -> int:
    units = {"MB": 10**6, "GB": 10**9}
    if value[-2:].upper() not in units or not value[:-2].isdigit() or not int(value[:-2]):
        raise argparse.ArgumentTypeError(f"{value!r} is not a size such as 5GB or 500MB")
    return int(value[:-2]) * units[value[-2:].upper()]


def _from_positions(values: list[str], problems: list[str]) -> dict[str, Any]:
    least = len(POSITIONS) - 1
    if not least <= len(values) <= len(POSITIONS):
        missing = ", ".join(f"{n + 1} {p.name}" for n, p in enumerate(POSITIONS[:least]) if n >= len(values))
        what = f"missing: position {missing}" if missing else f"the last is not known: {values[-1]!r}"
        problems.append(f"{len(values)} values where {least} or {len(POSITIONS)} are needed; {what}")
        return {}
    found: dict[str, Any] = {}
    for number, (position, value) in enumerate(zip(POSITIONS, values, strict=False), 1):
        try:
            found[position.name] = position.kind.parse(value)
        except ValueError as error:
            line = f'position {number} {position.name}: {error}: is "{value}"; valid: {position.kind.valid}'
            problems.append(line)
    hf_path = found.get("HF_CKPT_PATH")
    return {
        "size": found.get("MODEL_SIZE"),
        "source": Path(found.get("SOURCE_CKPT_PATH", "")),
        "target": Path(found.get("TARGET_CKPT_PATH", "")),
        "tp": found.get("TP"),
        "pp": found.get("PP"),
        "direction": TO_HF if found.get("mg2hf") else TO_MEGATRON,
        "check": found.get("CHECK"),
        "check_only": found.get("CHECK_ONLY"),
        "precision": found.get("PR"),
        "hf_path": Path(hf_path) if hf_path else None,
    }


def _from_flags(named: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    for name, flag in (("source", "--source"), ("target", "--output-path")):
        if named[name] is None:
            problems.append(f"{flag} is missing (or the {len(POSITIONS) - 1} positions: --help shows them)")
    size = named["size"] or AUTO
    kind = size_kind()
    try:
        size = kind.parse(size)
    except ValueError as error:
        problems.append(f'--model-name: {error}: is "{size}"; valid: {kind.valid}')
    direction = named["direction"]
    if direction is None and named["source"] is not None:
        from_megatron = BETWEEN if named["per_rank_files"] else TO_HF
        direction = from_megatron if is_megatron(named["source"]) else TO_MEGATRON
    elif direction not in (None, *DIRECTIONS):
        problems.append(f'--direction: unknown: is "{direction}"; valid: {", ".join(DIRECTIONS)}')
    if named["precision"] not in (None, *PRECISIONS):
        problems.append(f'--precision: unknown: is "{named["precision"]}"; valid: {", ".join(PRECISIONS)}')
    return {"size": size, "direction": direction}


def problem_text(problems: Sequence[str]) -> str:
    """All problems, one line each, under a line that counts them."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return "\n".join(
        [f"{count}; nothing was written.", *(f"  {line}" for line in problems), "  `--help` shows the form."]
    )


def refusal(error: CheckpointError) -> Usage:
    """A refused checkpoint as a message with its status."""
    return Usage(problem_text(error.problems), 2)
