"""`--trace-iterations`: torch's profiler over some iterations; a trace, and a table of kernels by kind."""

from __future__ import annotations

import time
from typing import Any

from megatron_patch.backend.hooks import Step
from megatron_patch.common.files import write_json
from megatron_patch.common.messages import Message, localized
from megatron_patch.runs.folder import PROFILE
from megatron_patch.trainer.callbacks.base import Callback, End, Rank
from megatron_patch.trainer.profile import profile_of


def make(rank: Rank) -> Callback | None:
    """On every rank: which ones are asked for is known with the arguments."""
    return Profiler(rank)


class Profiler(Callback):
    """Records from the begin of the first iteration to the end of the last; those that a rollback passes over are not
    among them."""

    priority = 50

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._asked = range(0)
        self._cuda, self._shows = False, False
        self._args: Any = None
        self._reached: int | None = None
        """Iterations that are done; None: training has not begun."""
        self._profiler: Any = None
        self._began = 0.0
        self._steps: list[Step] = []
        """Recorded."""
        self._lines: list[str] = []

    def arguments(self, args: Any) -> None:
        ranks = [int(word) for word in args.trace_ranks.split(",")]
        if args.trace_iterations and self._rank.rank in ranks:
            first, _, last = args.trace_iterations.partition("-")
            self._asked = range(int(first), int(last or first) + 1)
            self._cuda, self._shows = args.device == "cuda", self._rank.rank == min(ranks)

    def train_start(self, args: Any, model: list[Any]) -> None:
        self._args, self._reached = args, args.iteration
        if self._asked.stop <= args.iteration + 1:  # an earlier start got to it
            self._asked = range(0)

    def step_begins(self, iteration: int) -> None:
        if iteration in self._asked and self._profiler is None:
            self._start()

    def step(self, step: Step) -> None:
        self._reached = step.iteration
        if self._profiler is not None:
            self._steps.append(step)
            ahead = range(step.iteration + 1, self._asked.stop)
            if set(ahead) <= set(self._args.iterations_to_skip):
                self._stop()

    def end(self, end: End) -> None:
        for line in self._lines:
            self._rank.screen.say_here(line)

    def close(self) -> None:
        """A run that ends within the window leaves no trace of a part of it."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
        if self._asked and self._shows and self._reached is not None:
            why = Message("profile-none-ended", step=self._reached)
            if self._reached >= self._asked.stop:
                why = Message("profile-none-passed")
            first, last = self._asked.start, self._asked.stop - 1
            self._rank.screen.say_here(localized("profile-none", first=first, last=last, why=why))

    def _start(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if self._cuda else [])
        self._profiler = profile(activities=activities, acc_events=True)
        self._wait()
        self._profiler.start()
        self._began = time.perf_counter()

    def _stop(self) -> None:
        self._wait()
        wall = time.perf_counter() - self._began
        profiler, self._profiler, self._asked = self._profiler, None, range(0)
        profiler.stop()
        rank, folder = self._rank.rank, self._rank.output_dir / PROFILE
        folder.mkdir(exist_ok=True)
        trace = f"rank_{rank}.trace.json.gz"
        profiler.export_chrome_trace(str(folder / trace))
        done = [step.iteration for step in self._steps]
        skipped = [step.iteration for step in self._steps if step.skipped]
        found = profile_of(profiler, done, skipped, wall, cuda=self._cuda)
        write_json(folder / f"rank_{rank}.json", found.record(rank=rank, device=self._rank.device, trace=trace))
        if self._shows:
            self._lines = [*found.lines(rank), localized("trace", path=folder / trace)]
        else:
            print("\n".join(found.lines(rank)))

    def _wait(self) -> None:
        """For what the GPU still has to do."""
        if self._cuda:
            import torch

            torch.cuda.synchronize()
