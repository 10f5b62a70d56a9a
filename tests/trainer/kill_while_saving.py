"""The trainer, killed at one moment of its second save, or out of disk then: `torchrun kill_while_saving.py FLAGS`.

`KILL_AT` names a function of `backend.checkpoint_fixes`: the process dies by SIGKILL when it is about to be called.
`FULL_ON` is a rank whose disk is full from its third file on.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.backend.saving import asynchronous as background_save
from megatron_patch.backend.saving import checkpoint_fixes
from megatron_patch.trainer.entry import main

calls = []


def die_at_second_call(name: str) -> None:
    """Replace `checkpoint_fixes.name`."""
    original = getattr(checkpoint_fixes, name)

    def deadly(*args: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args)

    setattr(checkpoint_fixes, name, deadly)


def run_out_of_disk() -> None:
    """Every file after those of the first checkpoint cannot be written."""
    original = background_save.write_items

    def write_items(stream: object, *rest: object) -> object:
        calls.append(rest)
        if len(calls) > background_save.FILES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(stream, *rest)

    background_save.write_items = write_items


if __name__ == "__main__":
    if "KILL_AT" in os.environ:
        die_at_second_call(os.environ["KILL_AT"])
    if os.environ.get("FULL_ON") == os.environ["RANK"]:
        run_out_of_disk()
    main()
