"""The trainer, whose ranks stand still after iteration HOLD_AFTER until they are killed: `torchrun held.py FLAGS`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.runs.heartbeat import Heart
from megatron_patch.trainer.entry import main

LAUNCHER = os.getppid()


def advance_and_wait(self: Heart, phase: str, *, step: int | None = None, timed: bool = True) -> None:
    """What ranks call at the end of each iteration, with the number of the next."""
    advance(self, phase, step=step, timed=timed)
    if step is not None and step > int(os.environ["HOLD_AFTER"]):
        while os.getppid() == LAUNCHER:
            time.sleep(0.05)


if __name__ == "__main__":
    advance, Heart.advance = Heart.advance, advance_and_wait  # type: ignore[method-assign]
    main()
