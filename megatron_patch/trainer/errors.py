"""Errors that a user can do something about: shown as one message, without a traceback."""

from __future__ import annotations

from typing import Literal

from megatron_patch.common.errors import UserError, WorkerKilled
from megatron_patch.common.messages import Message
from megatron_patch.common.network import NetworkError
from megatron_patch.runs.recovery import Status

Echo = Literal["connection", "time-out"]
LOST: dict[Echo, tuple[str, ...]] = {
    "connection": (
        "Connection closed by peer",
        "Connection reset by peer",
        "Broken pipe",
        "Socket closed",
        "connectFullMesh failed",
        "NCCL communicator was aborted",
        "remote process exited or there was a network error",
        "Connection was likely closed",
        "The client socket has failed",
        "failed to recv, got 0 bytes",
    ),
    "time-out": (
        "Timed out waiting",
        "Application timeout caused pair closure",
        "wait timeout after",
        "collective operation timeout",
    ),
}
"""What gloo, NCCL and the store say on ranks that survive the first failure."""


def echo_of(error: BaseException) -> Echo | None:
    """Whether an error is only what is heard of another rank's: its connection is gone, or it does not answer.

    An OSError is this rank's own: its disk, its pipe, a logger's server.
    """
    if isinstance(error, (OSError, UserError)):
        return None
    text = str(error)
    return next((kind for kind, words in LOST.items() if any(one in text for one in words)), None)


MAY_PASS = (OSError, NetworkError, WorkerKilled)
"""Errors that are told in a sentence, and after which the same start may end otherwise."""


class TrainerError(UserError):
    """Training cannot start or go on, and the message says what to change."""


class DatasetError(TrainerError):
    """The data set is damaged, or does not belong to this model."""


class SpikeError(TrainerError):
    """A spike, or NaN or inf, ends this start: see `runs/recovery.py`. Raised on all ranks alike."""

    def __init__(self, message: Message, status: Status) -> None:
        super().__init__(message.code, **message.values)
        self.status = status
