"""The trainer, whose rank 0 takes seconds to end once it has said why: `torchrun slow_to_end.py FLAGS`.

As on a busy machine, or where CUDA takes its time; the others hear of it at once.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.trainer import entry
from megatron_patch.trainer.streams import Streams

SECONDS = 60.0


def hang_up(descriptor: int) -> None:
    """As the system does with a process that ends."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)


def report_and_linger(self: Streams, error: BaseException) -> None:
    """Say what is wrong, close every connection, and stay; torchrun ends a rank that does so."""
    report(self, error)
    if self.rank == 0:
        for one in Path("/proc/self/fd").iterdir():
            hang_up(int(one.name))
        time.sleep(SECONDS)


if __name__ == "__main__":
    report, entry.Streams.report = Streams.report, report_and_linger
    entry.main()
