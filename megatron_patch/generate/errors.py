"""What chat and generate are refused for."""

from __future__ import annotations

from megatron_patch.common.errors import UserError


class GenerateError(UserError, ValueError):
    """A model that cannot be asked, or a question that it cannot be given."""
