"""`megatron-patch chat MODEL`: a conversation with a model, in a terminal or in a script."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from megatron_patch.common.command_line import ArgumentParser
from megatron_patch.common.errors import UserError, print_error
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.terminal import INTERRUPTED, guard
from megatron_patch.generate.open import find, load, why_short
from megatron_patch.generate.options import add_flags, read_flags

if TYPE_CHECKING:
    from megatron_patch.generate.model import Answer, AnsweringModel, Sampling

EXAMPLES = """\
  megatron-patch chat OUTPUT_BASEPATH --system 'You write docstrings.'
  megatron-patch chat meta-llama/Llama-3.1-8B-Instruct-folder --prompt 'Who are you?' --temperature 0"""
ASKS = "> "


class ChatSession:
    """Turns of the user and the model."""

    def __init__(self, model: AnsweringModel, sampling: Sampling, system: str | None) -> None:
        self._model, self._sampling = model, sampling
        self.reset(system)

    def reset(self, system: str | None = None) -> None:
        """Forget all turns; the system prompt stays unless another is given."""
        self.system = system or getattr(self, "system", None)
        self.messages = [{"role": "system", "content": self.system}] if self.system else []

    def ask(self, text: str) -> Answer | None:
        """Show the answer as it is written. A question that has none is forgotten."""
        asked = [*self.messages, {"role": "user", "content": text}]
        try:
            answer = self._model.answered(asked, self._sampling, show)
        except UserError as error:
            print_error(error, os.environ)
            return None
        print(flush=True)
        self.messages = [*asked, {"role": "assistant", "content": answer.text}]
        if message := why_short(answer):
            say(message)
        return answer


def show(text: str) -> None:
    """A piece of an answer."""
    print(text, end="", flush=True)


def say(message: Message) -> None:
    """Something of ours, beside the answers."""
    print(f"[{message.localized()}]", file=sys.stderr, flush=True)


def talk(conversation: ChatSession) -> None:
    """Turns of standard input until it ends or /quit."""
    for line in _lines():
        word, _, rest = line.strip().partition(" ")
        if word == "/quit":
            return
        if word == "/reset" or (word == "/system" and rest.strip()):
            conversation.reset(rest.strip() if word == "/system" else None)
            say(Message("chat-new"))
        elif word.startswith("/"):
            say(Message("chat-commands", word=word))
        elif word:
            conversation.ask(line)


def _lines() -> Iterator[str]:
    """What is typed, with the history and the keys of readline where there is a terminal; Ctrl-C empties the line."""
    marker = ASKS if sys.stdin.isatty() else ""
    if marker and os.environ.get("TERM") != "dumb":
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # `input` uses it from now on
    while True:
        try:
            yield input(marker)
        except KeyboardInterrupt:
            print(flush=True)
        except EOFError:
            if marker:
                print(flush=True)
            return


def answer_all(conversation: ChatSession, prompts: Sequence[str]) -> int:
    """A script's turns; returns the exit status. The first without a whole answer is the last."""
    from megatron_patch.generate.model import STOPPED

    for prompt in prompts:
        answer = conversation.ask(prompt)
        if answer is None:
            return 1
        if answer.ended == STOPPED:
            return INTERRUPTED
    return 0


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit status."""
    parser = ArgumentParser(
        prog="megatron-patch chat",
        description=localized("chat-about"),
        epilog=localized("chat-epilog", examples=EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_flags(parser)
    parser.add_argument("--system", metavar="TEXT", help=localized("chat-help-system"))
    again = localized("chat-help-prompt")
    parser.add_argument("--prompt", action="append", metavar="TEXT", help=again)
    given = vars(parser.parse_args(argv))
    try:
        flags = read_flags(given)
        model = load(find(given["model"], flags), flags)
        _ = model.template
        from megatron_patch.generate.model import Sampling

        conversation = ChatSession(model, Sampling(**flags.sampling), given["system"])
    except UserError as error:
        print_error(error, os.environ)
        return 2
    except KeyboardInterrupt:
        return INTERRUPTED
    if given["prompt"]:
        return answer_all(conversation, given["prompt"])
    if sys.stdin.isatty():
        say(Message("chat-help"))
    talk(conversation)
    return 0


if __name__ == "__main__":
    guard()
    sys.exit(main(sys.argv[1:]))
