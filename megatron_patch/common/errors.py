"""The base of every error that a user can do something about."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Self

from megatron_patch.common.messages import Message, Wording, language_of


class UserError(Exception):
    """Something that the user has to change: input, a file, a setting. CLIs print it without a traceback.

    Rooms derive their own (`class CorpusError(UserError, ValueError)`), and raise them with a code of the catalogue and
    its values: `raise CorpusError("no-such-file", path=path)`. Text that is not in the catalogue yet is taken as it is.
    """

    def __init__(self, code: str, /, **values: object) -> None:
        self.messages: tuple[Message, ...] = (_message(code, values),)
        super().__init__(code)

    @classmethod
    def of(cls, messages: Sequence[Message]) -> Self:
        """An error that says several things."""
        error = cls(messages[0].code, **messages[0].values)
        error.messages = tuple(messages)
        return error

    @property
    def code(self) -> str:
        """Of the first message; `uncoded` for text that is not in the catalogue."""
        return self.messages[0].told.code

    def __str__(self) -> str:
        """In English, in the driver's names."""
        return "; ".join(map(str, self.messages))


def _message(code: str, values: dict[str, object]) -> Message:
    """Codes have no spaces, sentences do."""
    return Message(code, **values) if values or " " not in code.strip() else Message("uncoded", text=code)


def print_error(error: UserError, environ: Mapping[str, str]) -> None:
    """Say on standard error what is wrong, a line for each thing, each with its code."""
    wording = Wording(language=language_of(environ))
    for message in error.messages:
        print(wording.text(Message("error", text=message)) + tag(message.code), file=sys.stderr)


def tag(code: str) -> str:
    """The code as it ends a line."""
    return "" if code == "uncoded" else f" [{code}]"
