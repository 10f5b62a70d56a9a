"""The NeMo tutorials' front door: named flags become the 25 values and MP_ variables, and go the driver's way."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from megatron_patch.launch import driver
from megatron_patch.launch.problems import render_all
from megatron_patch.nemo.command_line import parse
from megatron_patch.nemo.flags import SECRETS, table
from megatron_patch.nemo.model_names import listing
from megatron_patch.nemo.request import LABELS, Request
from megatron_patch.nemo.translate import translate


def main(arguments: Sequence[str], environ: Mapping[str, str], stage: str) -> int:
    """Run one of the two scripts.

    Args:
        stage: `pretrain` or `finetune`.
    Returns:
        As the driver: 0, 1 for a failed run, 2 for a wrong command line.
    """
    if "--help" in arguments or "-h" in arguments:
        print(f"python {stage}_llm.py FLAGS; the flags, with what the tutorials document as default:")
        print("\n".join(table()))
        return 0
    _hide_secrets(environ)
    given, typed, problems = parse(arguments)
    if given.get("list"):
        print("\n".join(listing()))
        return 0
    asked = Request(given=given, environ=dict(environ), stage=stage)
    translate(asked)
    problems += asked.problems
    if problems:
        print(render_all(problems, typed, LABELS), file=sys.stderr)
        return driver.USAGE_ERROR
    for note in asked.notes:
        print(f"note        {note}", flush=True)
    dry_run = bool(given.get("dry_run"))
    return driver.run(asked.command_line(), asked.environ, dry_run=dry_run, labels=LABELS)


def _hide_secrets(environ: Mapping[str, str]) -> None:
    """Take tokens off the command line, which `ps` shows to everybody: start again with them in the environment."""
    found: dict[str, str] = {}
    kept: list[str] = []
    words = list(sys.orig_argv[1:])
    while words:
        word = words.pop(0)
        spelled, equals, value = word.partition("=")
        name = spelled.replace("-", "_").removeprefix("__")
        if spelled.startswith("--") and name in SECRETS and (equals or words):
            found[SECRETS[name]] = value if equals else words.pop(0)
        else:
            kept.append(word)
    if found:
        names = ", ".join(found)
        print(f"note        tokens were visible in the process list until now; export {names} instead", file=sys.stderr)
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *kept], {**environ, **found})
