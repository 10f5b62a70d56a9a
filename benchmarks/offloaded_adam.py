"""The step of an optimizer in RAM, on the processor alone: seconds a parameter, beside what its memory allows.

    python benchmarks/offloaded_adam.py [--parameters N] [--rounds N]

For each size of a window: gradients from bf16 to fp32, Adam, weights to bf16, as backend/gpu/offloaded_adam.py does
between copies. Beside it torch's fused AdamW on all of it at once, with fp32 gradients, as Megatron does, and a limit:
28 bytes a parameter, what Adam reads and writes, at the rate at which this machine adds one fp32 tensor to another.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from megatron_patch.backend.gpu.offloaded_adam import WINDOW, Window, in_ram
from megatron_patch.common.command_line import ArgumentParser

ADAM_BYTES = 28
"""Of a parameter: weight and two moments read and written, and the gradient read."""


def main() -> int:
    """Print one line for each way."""
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=int, default=500_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    count = args.parameters
    if count < 2 * WINDOW:
        parser.error(f"--parameters: at least {2 * WINDOW}, the largest window that is tried")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    copy, exp_avg, exp_avg_sq = (in_ram(torch.empty(count, device="meta")) for _ in range(3))
    gradients = in_ram(torch.empty(count, device="meta")).fill_(1e-3)
    limit = ADAM_BYTES * median(lambda: copy.add_(gradients), args.rounds) / 12
    print(f"{torch.get_num_threads()} threads, {count:,} parameters, ns a parameter")
    print(f"{'limit':>12}  {limit / count * 1e9:.3f}")
    step, group = torch.ones(()), {"lr": 1e-5, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}

    def adam(start: int, end: int, gradient: torch.Tensor) -> None:
        part = slice(start, end)
        state = {"copy": copy[part], "exp_avg": exp_avg[part], "exp_avg_sq": exp_avg_sq[part]}
        Window(gradient=gradient, weight=None, step=step, group=group, **state).adam(gradient)

    took = median(lambda: adam(0, count, gradients), args.rounds)
    print(f"{'whole':>12}  {took / count * 1e9:.3f}  {limit / took:.2f} of the limit")
    for window in (WINDOW // 8, WINDOW // 4, WINDOW // 2, WINDOW, WINDOW * 2):
        arrived, leaving = torch.full((window,), 1e-3, dtype=torch.bfloat16), torch.empty(window, dtype=torch.bfloat16)
        gradient = torch.empty(window)

        def in_windows(window: int = window, arrived: torch.Tensor = arrived, leaving: torch.Tensor = leaving) -> None:
            for start in range(0, count - window + 1, window):
                adam(start, start + window, gradient.copy_(arrived))  # noqa: B023
                leaving.copy_(copy[start : start + window])

        took = median(in_windows, args.rounds) / (count // window * window)
        print(f"{window:>12,}  {took * 1e9:.3f}  {limit / count / took:.2f} of the limit")
    return 0


def median(work: Callable[[], object], rounds: int) -> float:
    """Seconds, after one round that is not counted."""
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    sys.exit(main())
