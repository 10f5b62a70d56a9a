"""The base of every error that a user can do something about."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Self

from megatron_patch.common.messages import Message, at, wording_of
from megatron_patch.common.texts import ENGLISH


class UserError(Exception):
    """Something that the user has to change: input, a file, a setting. CLIs print it without a traceback.

    Rooms derive their own (`class CorpusError(UserError, ValueError)`), and raise them with a code of the catalogue and
    its values: `raise CorpusError("no-such-file", path=path)`. Other text, as of a
    library, is taken as it is.
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

    @classmethod
    def at(cls, path: object, code: str, /, **values: object) -> Self:
        """A code of the catalogue, and the file or the value that it is about."""
        return cls.of([at(path, code, **values)])

    def about(self, place: object) -> Self:
        """The same error, said of a file, of a place in it or of a value."""
        return type(self).of([Message("at", path=place, what=message) for message in self.messages])

    @property
    def code(self) -> str:
        """Of the first message; `uncoded` for text that is not in the catalogue."""
        return self.messages[0].told.code

    @property
    def problems(self) -> list[str]:
        """What it says, in English and in the driver's names."""
        return [str(message) for message in self.messages]

    between = Message("semicolon")
    """Two of its messages."""

    def __str__(self) -> str:
        return str(self.between).join(self.problems)

    def localized(self) -> str:
        """In the language of this process's environment."""
        return self.between.localized().join(message.localized() for message in self.messages)


def messages_of(error: Exception) -> tuple[Message, ...]:
    """What any error says; of one that is not ours, its text."""
    return error.messages if isinstance(error, UserError) else (Message("uncoded", text=str(error)),)


def _message(code: str, values: dict[str, object]) -> Message:
    """A code of the catalogue, or a sentence that is not in it."""
    return Message(code, **values) if values or code in ENGLISH else Message("uncoded", text=code)


class Refusal(UserError, ValueError):
    """Input that cannot be used, with one message for each reason, all found in one go."""

    between = Message("uncoded", text="\n")


class WorkerKilled(UserError, RuntimeError):
    """A process that worked for this one has ended before its work."""


class WorkersRefused(UserError, RuntimeError):
    """The machine, or the container, gives no more processes, threads or open files."""


class UsageError(UserError, ValueError):
    """A command line that nothing can be done with: exit status 2."""


def print_error(error: UserError, environ: Mapping[str, str]) -> None:
    """Say on standard error what is wrong, a line for each thing, each with its code."""
    wording = wording_of(environ)
    for message in error.messages:
        first, *more = wording.text(Message("error", text=message)).split("\n")
        print(first + tag(message.told.code), *more, sep="\n", file=sys.stderr)


def tag(code: str) -> str:
    """The code as it ends a line."""
    return "" if code == "uncoded" else f" [{code}]"
