"""The trainer, whose last save is still being written when everything else is over: `torchrun slow_save.py FLAGS`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.backend.saving import checkpoint_fixes
from megatron_patch.trainer.entry import main

SECONDS = 3.0


def publish_late(partial: Path, final: Path) -> None:
    """Stands for a large model's save."""
    time.sleep(SECONDS)
    publish(partial, final)


if __name__ == "__main__":
    publish, checkpoint_fixes.publish = checkpoint_fixes.publish, publish_late
    main()
