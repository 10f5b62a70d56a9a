"""The command line of `evaluate.sh`. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.common import tools
from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UsageError
from megatron_patch.common.messages import Message, at, localized
from megatron_patch.common.values import Kind, choice, whole
from megatron_patch.evaluation.benchmarks import BENCHMARKS, named_twice, task_owner, task_problems
from megatron_patch.evaluation.data import HARNESS
from megatron_patch.evaluation.run import SCORINGS, Settings

DTYPES = ("auto", "float32", "bfloat16", "float16")
VALUES: dict[str, tuple[Kind, str | None, str]] = {
    "scoring": (
        choice(*SCORINGS),
        "exact",
        "eval-help-scoring",
    ),
    "num-fewshot": (whole(0), None, "eval-help-shots"),
    "batch-size": (whole(1), "16", "eval-help-batch"),
    "tokens-per-batch": (whole(1), None, "eval-help-tokens"),
    "limit": (whole(1), None, "eval-help-limit"),
    "dtype": (choice(*DTYPES), "auto", "help-dtype"),
}
"""Flags with a checked value: how it is read, default, meaning."""
EXAMPLES = """\
  {command} /mnt/llama3-ckpts/Meta-Llama-3.1-8B
  {command} OUTPUT_BASEPATH hellaswag,arc_easy,gsm8k /data/hub
  {command} OUTPUT_BASEPATH cmmlu /workspace/cmmlu.tgz --against /mnt/llama3-ckpts/Meta-Llama-3.1-8B"""


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What to do."""

    checkpoint: Path
    against: Path | None
    """What the checkpoint is compared with."""
    places: list[Path]
    """Where the questions are; empty looks in the usual places."""
    output: Path | None
    hf_path: Path | None
    """Configuration and tokenizer of a Megatron checkpoint, if not beside it."""
    cache: Path
    """Gets exported checkpoints and unpacked archives."""
    settings: Settings
    others: bool
    """The tasks are lm_eval's others, not CMMLU's and C-Eval's: see any_tasks.py."""
    num_fewshot: int | None
    """As typed."""
    chat_template: bool


def parse(argv: Sequence[str]) -> EvaluationRequest:
    """Understand a command line.

    Raises:
        UsageError: with all that is wrong.
    """
    args = vars(_parser().parse_args(argv))
    tasks = tuple(task for task in args["tasks"].split(",") if task)
    others = [task for task in tasks if task not in BENCHMARKS and task_owner(task) is None]
    problems = _task_problems(tasks, others)
    folders = {"CHECKPOINT": args["checkpoint"], "--against": args["against"], "--hf-path": args["hf_path"]}
    for name, path in folders.items():
        if path and not path.is_dir():
            problems.append(at(name, "usage-no-folder", path=path))
    problems += [at("DATA", "data-missing", source=place) for place in args["data"] if not place.exists()]
    values: dict[str, Any] = {}
    for name, (kind, default, _) in VALUES.items():
        typed = args[name.replace("-", "_")]
        try:
            values[name.replace("-", "_")] = None if typed is default is None else kind.parse(typed)
        except ValueError as error:
            problems.append(at(f"--{name}", "usage-value", typed=typed, why=error, valid=kind.expects))
    if args["apply_chat_template"] and not others:
        problems.append(at("--apply-chat-template", "eval-without-template"))
    if problems:
        raise UsageError.of(problems)
    num_fewshot = values.pop("num_fewshot")
    values["num_fewshot"] = num_fewshot or 0
    settings = Settings(tasks=tasks, device=args["device"], trust_remote_code=args["trust_remote_code"], **values)
    return EvaluationRequest(
        checkpoint=args["checkpoint"],
        against=args["against"],
        places=args["data"],
        output=args["output"],
        hf_path=args["hf_path"],
        cache=args["cache"],
        settings=settings,
        others=bool(others),
        num_fewshot=num_fewshot,
        chat_template=args["apply_chat_template"],
    )


def _task_problems(tasks: Sequence[str], others: Sequence[str]) -> list[Message]:
    """What can be told without lm_eval, which is seconds away."""
    if not tasks:
        return [at("TASKS", "eval-no-task")]
    if not others:
        return task_problems(tasks)
    ours = [task for task in tasks if task not in others]
    problems = named_twice(tasks)
    if ours:
        problems.append(at("TASKS", "eval-mixed", name=ours[0], other=others[0]))
    return problems


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="evaluate.sh",
        description=localized("eval-about-tool"),
        epilog=localized("eval-epilog", examples=EXAMPLES.format(command=tools.started_as or "sh evaluate.sh")),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help=localized("eval-help-checkpoint"),
    )
    add(
        "tasks",
        nargs="?",
        default=",".join(BENCHMARKS),
        metavar="TASKS",
        help=localized("eval-help-tasks"),
    )
    add(
        "data",
        nargs="*",
        type=Path,
        metavar="DATA",
        help=localized("eval-help-data"),
    )
    add("--against", type=Path, metavar="CHECKPOINT", help=localized("eval-help-against"))
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help=localized("eval-help-output"),
    )
    add("--hf-path", type=Path, metavar="DIR", help=localized("eval-help-hf-path"))
    add(
        "--cache",
        type=Path,
        default=HARNESS,
        metavar="DIR",
        help=localized("eval-help-cache"),
    )
    for name, (kind, default, meaning) in VALUES.items():
        usual = f" [{default}]" if default else ""
        shown = localized("help-value", meaning=Message(meaning), valid=kind.expects, default=usual)
        add(f"--{name}", default=default, metavar="X", help=shown)
    add("--device", metavar="DEVICE", help=localized("eval-help-device"))
    add("--apply-chat-template", action="store_true", help=localized("eval-help-template"))
    add("--trust-remote-code", action="store_true", help=localized("eval-help-code"))
    return parser
