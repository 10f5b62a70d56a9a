"""When a command was typed: handed to the ranks, for their account of the way to the first step."""

from __future__ import annotations

import os
import time
from pathlib import Path

VARIABLE = "MEGATRON_PATCH_STARTED"
"""Environment variable of the ranks: when the command was typed and when it became torchrun, in seconds since 1970."""
IMPORTED = time.time()
LONGEST = 10.0
"""Seconds that a shell and Python may take to get here; a clock that says more is wrong."""


def command_began() -> float:
    """The start of this process, which was the shell's before `exec` made it Python's."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # since the machine's start
    began = time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    return began if 0 <= IMPORTED - began < LONGEST else IMPORTED


def note() -> dict[str, str]:
    """The variable as it has to be when torchrun is started now."""
    return {VARIABLE: f"{command_began():.3f} {time.time():.3f}"}
