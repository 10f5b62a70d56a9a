"""The trainer, killed at one moment of its second save: `torchrun kill_while_saving.py FLAGS`.

`KILL_AT` names a function of `backend.checkpoint_fixes`: the process dies by SIGKILL when it is about to be called.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.backend import checkpoint_fixes
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


if __name__ == "__main__":
    die_at_second_call(os.environ["KILL_AT"])
    main()
