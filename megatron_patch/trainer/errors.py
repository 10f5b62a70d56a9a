"""Errors that a user can do something about: shown as one message, without a traceback."""

from __future__ import annotations

from megatron_patch.common.errors import UserError


class TrainerError(UserError):
    """Training cannot start or go on, and the message says what to change."""


class DataError(TrainerError):
    """The data set is damaged, or does not belong to this model."""
