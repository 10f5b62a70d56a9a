"""`megatron-patch generate MODEL --prompt TEXT`: what a model writes; with --before or --compare beside another."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_patch.checkpoint.hf_model import HFModel
from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UserError, print_error
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.terminal import INTERRUPTED, guard, plain, raw
from megatron_patch.generate.errors import GenerateError
from megatron_patch.generate.open import find, load, started_from, why_short
from megatron_patch.generate.options import ModelFlags, add_flags, read_flags

if TYPE_CHECKING:
    from megatron_patch.generate.model import Answer

EXAMPLES = """\
  megatron-patch generate OUTPUT_BASEPATH --prompt 'def read_file(path):'
  megatron-patch generate OUTPUT_BASEPATH --compare --chat --prompt 'Who are you?'
  megatron-patch generate trained-hf --before start-hf --prompts questions.txt --json"""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every model is asked, in the same way."""

    prompts: list[str]
    chat: bool
    system: str | None


def written_by(found: HFModel, asked: Asked, flags: ModelFlags) -> list[Answer]:
    """What one model makes of each prompt; it is out of memory again afterwards.

    Raises:
        GenerateError: it cannot be used.
        KeyboardInterrupt: Ctrl-C.
    """
    model = load(found, flags)
    from megatron_patch.generate.model import STOPPED, Sampling

    sampling = Sampling(**flags.sampling)
    system = [{"role": "system", "content": asked.system}] if asked.system else []
    answers: list[Answer] = []
    for prompt in asked.prompts:
        if asked.chat:
            answers.append(model.answered([*system, {"role": "user", "content": prompt}], sampling))
        else:
            answers.append(model.continued(prompt, sampling))
        if answers[-1].ended == STOPPED:
            raise KeyboardInterrupt
    return answers


def draw(asked: Asked, columns: Sequence[tuple[Message, list[Answer]]]) -> None:
    """One model's texts as they are; of two, a table for each prompt and a column for each model."""
    if len(columns) == 1:
        joint = "\n" if asked.chat else ""
        parts = zip(asked.prompts, columns[0][1], strict=True)
        print("\n\n".join(f"{prompt}{joint}{_told(answer)}" for prompt, answer in parts))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=raw(sys.stdout), highlight=False)
    for number, prompt in enumerate(asked.prompts):
        table = Table(title=Text(plain(prompt), style="bold"), title_justify="left", expand=True)
        for name, _ in columns:
            table.add_column(Text(plain(name.localized())), ratio=1, overflow="fold")
        table.add_row(*(Text(plain(_told(answers[number]).strip("\n"))) for _, answers in columns))
        console.print(table)


def _told(answer: Answer) -> str:
    """The text, and why it ends where it does."""
    message = why_short(answer)
    return answer.text.rstrip("\n") + (f"\n[{message.localized()}]" if message else "")


def as_json(asked: Asked, columns: Sequence[tuple[Message, list[Answer]]]) -> list[str]:
    """A line for each prompt and model."""
    return [
        json.dumps({"prompt": prompt, "model": str(name), **asdict(answers[number])}, ensure_ascii=False)
        for number, prompt in enumerate(asked.prompts)
        for name, answers in columns
    ]


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="megatron-patch generate",
        description=localized("generate-about"),
        epilog=localized("generate-epilog", examples=EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)
    add = parser.add_argument
    add("--prompt", action="append", default=[], metavar="TEXT", help=localized("generate-help-prompt"))
    add("--prompts", type=Path, metavar="FILE", help=localized("generate-help-prompts"))
    add("--chat", action="store_true", help=localized("generate-help-chat"))
    add("--system", metavar="TEXT", help=localized("generate-help-system"))
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--before", type=Path, metavar="OTHER", help=localized("generate-help-before"))
    other.add_argument("--compare", action="store_true", help=localized("generate-help-compare"))
    add("--json", action="store_true", help=localized("generate-help-json"))
    return parser


def _asked(given: dict[str, Any]) -> Asked:
    """
    Raises:
        GenerateError: no prompt, or a system prompt without a chat.
    """
    prompts = list(given["prompt"])
    if file := given["prompts"]:
        try:
            prompts += [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise GenerateError("generate-prompts", path=file, error=error) from None
    if not prompts:
        raise GenerateError("generate-no-prompt")
    if given["system"] and not given["chat"]:
        raise GenerateError("generate-system")
    return Asked(prompts=prompts, chat=given["chat"], system=given["system"])


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    given = vars(_parser().parse_args(argv))
    try:
        flags, asked = read_flags(given), _asked(given)
        other = started_from(given["model"]) if given["compare"] else given["before"]
        paths = {"generate-before": other, "generate-after" if other else "generate-only": given["model"]}
        found = {code: find(path, flags) for code, path in paths.items() if path}
        columns = [(Message(code, model=one.label), written_by(one, asked, flags)) for code, one in found.items()]
    except UserError as error:
        print_error(error, os.environ)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    if given["json"]:
        print(*as_json(asked, columns), sep="\n")
    else:
        draw(asked, columns)
    return 0


if __name__ == "__main__":
    guard()
    sys.exit(main(sys.argv[1:]))
