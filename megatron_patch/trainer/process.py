"""What a rank owes to its launcher: it leaves signals to it, and tells it how it failed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
import traceback
from pathlib import Path

TOLD_BY_LAUNCHER = "MEGATRON_PATCH_TORCHRUN"
"""Environment variable that `megatron_patch.torchrun` sets: it passes signals on."""


def leave_signals_to_launcher() -> None:
    """Ctrl-C, a closed terminal, and Slurm's early warning reach every process: torchrun tells ranks what to do."""
    if TOLD_BY_LAUNCHER in os.environ:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)


def note_failure(error: BaseException, status: int) -> None:
    """Write down how this rank failed, before it says so and ends.

    It may be slow to end. Another rank, which only lost its connection to this one, is then the first that torchrun
    sees, and this one is ended by torchrun with a signal: what it ended with tells nothing, and this file does.

    Source: torch/distributed/elastic/multiprocessing/errors/error_handler.py, 2.11, whose format this is; written at
    once, since torchrun fails on half a file.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not path:
        return
    extra = {"py_callstack": "".join(traceback.format_exception(error)), "timestamp": str(int(time.time()))}
    message = {"message": f"{type(error).__name__}: {error}", "errorCode": status, "extraInfo": extra}
    half = Path(f"{path}.{os.getpid()}")
    with contextlib.suppress(OSError):  # no descriptors are left, or /tmp is full
        half.write_text(json.dumps({"message": message}))
        half.replace(path)
