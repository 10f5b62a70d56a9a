"""What a checkpoint can be refused for."""

from __future__ import annotations

from collections.abc import Iterable


class CheckpointError(ValueError):
    """Input that cannot be used; `problems` has one line for each reason, all found in one go."""

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))
