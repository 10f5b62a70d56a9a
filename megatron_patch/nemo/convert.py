"""The converter under the names and flags of NeMo's two scripts. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from megatron_patch.checkpoint.cli import main as convert
from megatron_patch.checkpoint.converter.options import Usage
from megatron_patch.common.messages import Message, Wording, language_of, say
from megatron_patch.launch.problems import Problem, render_all
from megatron_patch.nemo.model_names import MODEL_CLASSES, NameProblem, listing, size_of


def main(argv: Sequence[str], direction: str, script: str) -> int:
    """Run one of the scripts.

    Args:
        direction: hf2mcore or mcore2hf, as the script's name says.
    Returns:
        As the converter: 0 done, 1 the check failed, 2 refused.
    """
    if "--help" in argv or "-h" in argv:
        say("nemo-convert-usage", script=script)
        return 0
    if "--list" in argv:
        print("\n".join(listing()))
        return 0
    try:
        return convert([*_translated(argv), "--direction", direction])
    except Usage as usage:
        print(usage, file=sys.stderr)
        return usage.status


def _translated(argv: Sequence[str]) -> list[str]:
    """The converter's flags: both names of the model become one size.

    Raises:
        Usage: with status 2 and every problem.
    """
    words, kept, sizes = list(argv), [], {}
    problems: list[Problem] = []
    typed: dict[str, str] = {}
    while words:
        word, equals, value = words.pop(0).partition("=")
        name = word.replace("_", "-") if word.startswith("--") else word
        if name not in ("--model-name", "--model-config-name"):
            kept += [f"{name}{equals}{value}"]
            continue
        typed[word] = value if equals else words.pop(0) if words else ""
        if name == "--model-name" and typed[word] in MODEL_CLASSES:
            continue
        try:
            sizes[word] = size_of(typed[word])
        except NameProblem as error:
            problems += Problem.of(error, word, expected=Message("expect-model"))
    if len(set(sizes.values())) > 1:
        problems.append(Problem("nemo-two-sizes", *sizes, sizes=tuple(sizes.values())))
    if problems:
        words_of = Wording(language=language_of(os.environ), flags={word: word for word in typed})
        raise Usage(render_all(problems, typed, words_of), 2)
    return [*kept, *(["--model-name", next(iter(sizes.values()))] if sizes else [])]
