"""What this process owes to others: it ends with its launcher, and no two runs write into one folder."""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
from pathlib import Path

from megatron_patch.common.run_folder import LOGS
from megatron_patch.trainer.errors import TrainerError

PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""


def end_with_launcher() -> None:
    """Get SIGTERM when torchrun dies, which finishes the step and saves.

    torchrun ends its ranks, but where it is killed itself (SIGKILL, out of memory) they would train on, hold the GPUs
    and write beside the next start.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def claim(folder: Path) -> None:
    """Be the only run that writes into `folder`, until this process ends, however it ends.

    The lock is on its logs: the folder itself is locked by what is exported into it.

    Raises:
        TrainerError: another run does.
    """
    descriptor = os.open(folder / LOGS, os.O_RDONLY)  # stays open
    os.register_at_fork(after_in_child=lambda: os.close(descriptor))  # data loaders outlive this process by seconds
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TrainerError(f"another run is writing into {folder}: wait until it has ended, or stop it") from None
