"""What keeps the planner from an answer."""

from __future__ import annotations

from megatron_patch.common.errors import UserError


class PlannerError(UserError, ValueError):
    """A value that the planner cannot work with."""


class NothingFits(UserError):
    """No layout of the choice can run; the message says what is closest."""
