"""What this process owes to others: it ends with its launcher, and leaves signals to it."""

from __future__ import annotations

import ctypes
import os
import signal

TOLD_BY_LAUNCHER = "MEGATRON_PATCH_TORCHRUN"
"""Environment variable that `megatron_patch.torchrun` sets: it passes signals on."""
PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""


def end_with_launcher(number: int = signal.SIGTERM) -> None:
    """Get a signal when torchrun dies: SIGTERM finishes the step and saves.

    torchrun ends its ranks, but where it is killed itself (SIGKILL, out of memory) they would train on, hold the GPUs
    and write beside the next start.
    """
    launcher = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != launcher:  # it died in between
        os.kill(os.getpid(), number)


def leave_signals_to_launcher() -> None:
    """Ctrl-C, a closed terminal, and Slurm's early warning reach every process: torchrun tells ranks what to do."""
    if TOLD_BY_LAUNCHER in os.environ:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
