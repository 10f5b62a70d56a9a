"""The NeMo tutorials' CLIs: named flags become the 25 values and MP_ variables, and go the driver's way."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from megatron_patch.common.messages import Message, Wording, language_of
from megatron_patch.launch import driver
from megatron_patch.launch.problems import render_all
from megatron_patch.launch.render import remark
from megatron_patch.nemo.command_line import parse
from megatron_patch.nemo.flags import SECRETS, table
from megatron_patch.nemo.model_names import listing
from megatron_patch.nemo.translate import Translation, translate
from megatron_patch.nemo.wording import wording


def main(arguments: Sequence[str], environ: Mapping[str, str], stage: str) -> int:
    """Run one of the two scripts.

    Args:
        stage: `pretrain` or `finetune`.
    Returns:
        As the driver: 0, 1 for a failed run, 2 for a wrong command line.
    """
    language = language_of(environ)
    if "--help" in arguments or "-h" in arguments:
        speech = Wording(language=language)
        print(speech.text(Message("nemo-help", script=f"{stage}_llm.py")), *table(speech), sep="\n")
        return 0
    _hide_secrets(environ, language)
    line = parse(arguments)
    if line.given.get("list"):
        print("\n".join(listing()))
        return 0
    words = wording(line, language)
    asked = Translation(given=line.given, environ=dict(environ), stage=stage)
    translate(asked)
    problems = line.problems + asked.problems
    if problems:
        print(render_all(problems, line.typed, words), file=sys.stderr)
        return driver.USAGE_ERROR
    for note in asked.notes:
        print(remark(note, words), flush=True)
    return driver.run(asked.command_line(), asked.environ, dry_run=bool(line.given.get("dry_run")), wording=words)


def _hide_secrets(environ: Mapping[str, str], language: str) -> None:
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
        note = Message("nemo-secrets", names=tuple(found))
        print(remark(note, Wording(language=language)), file=sys.stderr)
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *kept], {**environ, **found})
