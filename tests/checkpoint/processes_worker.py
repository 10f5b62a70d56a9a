"""A model there and back by several processes, after torch had threads here: `processes_worker.py HF FOLDER`.

A process of its own, as torch's pool keeps the number of threads that it is made with: the more, the longer its
replacement takes after a fork. Prints how many processes it forked.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from megatron_patch.checkpoint.cli import main
from megatron_patch.checkpoint.formats import hf_writer
from megatron_patch.common.spread import spread
from megatron_patch.data.workers import in_order

WORKERS = 34
"""Seventeen processes, on any machine; the first one forks five, three times."""
forks: list[None] = []


def use_threads() -> None:
    """As a program that computed something before."""
    torch.set_num_threads(8)
    assert torch.ones(1 << 20).add_(1).sum() == 2 << 20


if __name__ == "__main__":
    os.register_at_fork(after_in_parent=lambda: forks.append(None))
    hf_writer.SMALLEST_SHARD = 1  # a file for each tensor: there is work for all processes
    hf, folder = map(Path, sys.argv[1:])
    for source, target in ((hf, folder / "megatron"), (folder / "megatron", folder / "back")):
        use_threads()
        if status := main(["--source", str(source), "--output-path", str(target), "--workers", str(WORKERS)]):
            sys.exit(status)
    use_threads()
    assert set(spread(lambda task: torch.get_num_threads(), range(WORKERS), WORKERS)) == {1}
    print("forked", len(forks))
    sums = in_order(lambda number: float(torch.full((1 << 20,), number).sum()), [0, 1, 2], 2)
    assert list(sums) == [0, 1 << 20, 2 << 20]
