"""The trainer with a mistake in its context parallelism: keys stand in the order of the ranks, not of the text."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.trainer import entry


def break_attention(device: str) -> None:
    """Enable the backend, then spoil the order of the keys."""
    enable(device)
    import torch

    from megatron_patch.backend.cpu import attention

    attention.text_order = lambda bounds, cp_size, rows_per_rank: torch.arange(cp_size * rows_per_rank)


if __name__ == "__main__":
    enable, entry.enable = entry.enable, break_attention
    entry.main()
