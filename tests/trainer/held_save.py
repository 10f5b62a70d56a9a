"""The trainer, whose saves hold everything in RAM that stands for a GPU's: `torchrun held_save.py FLAGS`.

What is held is copied when the optimizer has taken two more steps, or nobody takes one any more.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.backend.saving import asynchronous, gpu_copies, host_copies
from megatron_patch.trainer.entry import main


class Ram:
    """Lends what a GPU would."""

    def free(self) -> int:
        return 1 << 30

    def borrow(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8)


class Holding(asynchronous.Save):
    """Counts the steps that follow."""

    def start(self) -> None:
        self.steps = 0
        may_copy.clear()
        super().start()

    def wait_until_copied(self) -> None:
        super().wait_until_copied()
        if self.steps == 2:
            may_copy.set()
        else:
            self.steps += 1

    def done(self, *, wait: bool) -> bool:
        if wait:
            may_copy.set()
        return super().done(wait=wait)

    def _copies(self, *args: Any) -> Any:
        copies = super()._copies(*args)
        print(f"copied after {self.steps} steps", flush=True)
        return copies


def copy_late(self: host_copies.Copier, item: Any, content: Any, *rest: Any) -> Any:
    """Stands for a slow bus."""
    if isinstance(content, gpu_copies.Held):
        may_copy.wait()
    return copy(self, item, content, *rest)


if __name__ == "__main__":
    may_copy = threading.Event()
    copy, host_copies.Copier._copy = host_copies.Copier._copy, copy_late  # type: ignore[method-assign]
    gpu_copies.HELD_ON, gpu_copies.GPU_MEMORY = "cpu", Ram()  # type: ignore[assignment]
    asynchronous.Save = Holding  # type: ignore[misc]
    main()
