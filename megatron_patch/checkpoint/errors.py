"""What a checkpoint can be refused for."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Self

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message


class CheckpointError(UserError, ValueError):
    """Input that cannot be used, with one message for each reason, all found in one go."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        """
        Args:
            problems: in words; `CheckpointError.at` takes a code.
        """
        lines = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("uncoded", text="\n".join(lines))
        self.messages = tuple(Message("uncoded", text=line) for line in lines)
        self.args = (lines,)

    @classmethod
    def at(cls, path: Path | str, code: str, **values: object) -> Self:
        """A code of the catalogue, and the file or folder that it is about."""
        message = Message("at", path=path, what=Message(code, **values))
        error = cls(str(message))
        error.messages = (message,)
        return error

    @property
    def problems(self) -> list[str]:
        """One line for each reason, in English."""
        return [str(message) for message in self.messages]

    def __str__(self) -> str:
        return "\n".join(self.problems)
