"""Errors that a user can do something about: shown as one message, without a traceback."""

from __future__ import annotations

from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message
from megatron_patch.common.recovery import Status


class TrainerError(UserError):
    """Training cannot start or go on, and the message says what to change."""


class DataError(TrainerError):
    """The data set is damaged, or does not belong to this model."""


class SpikeError(TrainerError):
    """A spike, or NaN or inf, ends this start: see `common/recovery.py`. Raised on all ranks alike."""

    def __init__(self, message: Message, status: Status) -> None:
        super().__init__(message.code, **message.values)
        self.status = status
