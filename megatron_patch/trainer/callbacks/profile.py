"""`--trace-iterations`: torch's profiler over some iterations; a trace, and a table of kernels by kind."""

from __future__ import annotations

import time
from typing import Any

from megatron_patch.backend.hooks import Step
from megatron_patch.common.files import write_json
from megatron_patch.common.run_folder import PROFILE
from megatron_patch.trainer.callbacks.base import Callback, End, Rank
from megatron_patch.trainer.profile import profile_of


def make(rank: Rank) -> Callback | None:
    """On every rank: which ones are asked for is known with the arguments."""
    return Profiler(rank)


class Profiler(Callback):
    """Records from the end of the iteration before the first to the end of the last."""

    priority = 50

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._first, self._last, self._cuda, self._shows = 0, -1, False, False
        self._profiler: Any = None
        self._began = 0.0
        self._lines: list[str] = []

    def arguments(self, args: Any) -> None:
        ranks = [int(word) for word in args.trace_ranks.split(",")]
        if args.trace_iterations and self._rank.rank in ranks:
            first, _, last = args.trace_iterations.partition("-")
            self._first, self._last = int(first), int(last or first)
            self._cuda, self._shows = args.device == "cuda", self._rank.rank == min(ranks)

    def train_start(self, args: Any, model: list[Any]) -> None:
        if self._first <= args.iteration < self._last:  # the rest of what an earlier start did not get to
            self._first = args.iteration + 1
        self._start_after(args.iteration)

    def step(self, step: Step) -> None:
        if self._profiler is not None and step.iteration == self._last:
            self._stop()
        self._start_after(step.iteration)

    def end(self, end: End) -> None:
        for line in self._lines:
            self._rank.screen.say_here(line)

    def close(self) -> None:
        """A run that ends within the window leaves no trace of a part of it."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _start_after(self, iteration: int) -> None:
        if self._last < self._first or iteration != self._first - 1:
            return
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self._cuda else [])
        self._profiler = profile(activities=activities, acc_events=True)
        self._wait()
        self._profiler.start()
        self._began = time.perf_counter()

    def _stop(self) -> None:
        self._wait()
        wall = time.perf_counter() - self._began
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        rank, folder = self._rank.rank, self._rank.output_dir / PROFILE
        folder.mkdir(exist_ok=True)
        trace = f"rank_{rank}.trace.json.gz"
        profiler.export_chrome_trace(str(folder / trace))
        found = profile_of(profiler, first=self._first, last=self._last, wall_s=wall, cuda=self._cuda)
        write_json(folder / f"rank_{rank}.json", found.record(rank=rank, device=self._rank.device, trace=trace))
        if self._shows:
            self._lines = [*found.lines(rank), f"trace: {folder / trace} (chrome://tracing, ui.perfetto.dev)"]
        else:
            print("\n".join(found.lines(rank)))

    def _wait(self) -> None:
        """For what the GPU still has to do."""
        if self._cuda:
            import torch

            torch.cuda.synchronize()
