"""What training takes of a GPU's memory, and what is lent of the rest for moments."""

from __future__ import annotations

import threading

import torch

KEPT_FREE = 0.1
"""Part of a GPU that is not lent: what other libraries take, and what training may take that it has not taken yet."""


class GpuMemory:
    """The peak of training alone, and a loan from what it leaves free. One at a time, given back by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peak = 0
        """Of training, in bytes; 0 until a step was measured."""
        self._lent = 0
        self._lent_in_step = 0
        self.beside = 0
        """Bytes that training takes and torch does not count as allocated: of CUDA graphs."""

    def step_peak(self) -> tuple[int, int]:
        """Most bytes that training had allocated since the last call, without the loan; and that torch had reserved."""
        with self._lock:
            allocated = torch.cuda.max_memory_allocated() - self._lent_in_step + self.beside
            self._peak = max(self._peak, allocated)
            self._lent_in_step = self._lent
            reserved = torch.cuda.max_memory_reserved()
            torch.cuda.reset_peak_memory_stats()
        return allocated, reserved

    def free(self) -> int:
        """Bytes that can be lent: neither training's peak nor anybody else needs them; 0 before the first step."""
        if not self._peak:
            return 0
        free, total = torch.cuda.mem_get_info()
        others = total - free - torch.cuda.memory_reserved()
        since_the_step = torch.cuda.max_memory_allocated() - self._lent_in_step + self.beside  # a validation's
        return max(0, int(total * (1 - KEPT_FREE)) - others - max(self._peak, since_the_step))

    def borrow(self, nbytes: int) -> torch.Tensor | None:
        """So many bytes, as uint8; None where torch finds no such block."""
        try:
            memory = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            return None
        with self._lock:
            self._lent = nbytes
            self._lent_in_step = max(self._lent_in_step, nbytes)
        return memory

    def give_back(self) -> None:
        """Nobody has the tensor any more: torch may use its memory for training."""
        with self._lock:
            self._lent = 0


GPU_MEMORY = GpuMemory()
"""Of this process."""
