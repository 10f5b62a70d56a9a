"""What torch's profiler saw of some iterations: a table of kernels by kind, and how a person reads it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from megatron_patch.common.kernel_kinds import CPU_KINDS, GPU_KINDS, IDLE, NOT_KERNELS, covered, kind_of
from megatron_patch.common.messages import Message, localized, named
from megatron_patch.common.terminal import padded

TOP = 30
"""Kernels that are listed one by one."""


class Kernel(NamedTuple):
    """One kernel or operator, over the whole window."""

    name: str
    kind: str
    calls: int
    seconds: float
    """On a CPU without the operators that it calls."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Some iterations of one rank."""

    iterations: tuple[int, ...]
    """Those that were recorded, in their order; a rollback passes over others."""
    skipped: tuple[int, ...]
    """Of them, those whose optimizer step was not taken."""
    wall_s: float
    kernels: tuple[Kernel, ...]
    """Longest first."""
    idle_s: float
    """In which the GPU did nothing; on a CPU outside of operators: Python, data, waiting."""
    exposed_communication_s: float | None
    """In which the GPU did nothing else; None on a CPU."""

    def kinds(self) -> list[tuple[str, float, int]]:
        """Name, seconds and calls of each kind, longest first, and the idle time."""
        seconds: dict[str, float] = defaultdict(float)
        calls: dict[str, int] = defaultdict(int)
        for kernel in self.kernels:
            seconds[kernel.kind] += kernel.seconds
            calls[kernel.kind] += kernel.calls
        found = sorted(((kind, time, calls[kind]) for kind, time in seconds.items()), key=lambda one: -one[1])
        return [*found, (IDLE, self.idle_s, 0)]

    def record(self, *, rank: int, device: str, trace: str) -> dict[str, Any]:
        """For rank_N.json, which the report reads."""
        return {
            "rank": rank,
            "device": device,
            "iterations": [self.iterations[0], self.iterations[-1]],
            "steps": len(self.iterations),
            "skipped": list(self.skipped),
            "wall_s": self.wall_s,
            "exposed_communication_s": self.exposed_communication_s,
            "kinds": [{"kind": kind, "seconds": time, "calls": calls} for kind, time, calls in self.kinds()],
            "kernels": [kernel._asdict() for kernel in self.kernels[:TOP]],
            "trace": trace,
        }

    def lines(self, rank: int) -> list[str]:
        """For the screen: of one iteration, in percent of its time."""
        steps = len(self.iterations)
        ms = 1e3 * self.wall_s / steps
        lines = [localized("profile-head", rank=rank, which=self._which(), ms=ms)]
        for kind, seconds, calls in self.kinds():
            more = localized("profile-calls", calls=calls / steps) if calls else ""
            if kind == "communication" and self.exposed_communication_s is not None:
                more += localized("profile-exposed", share=self.exposed_communication_s / self.wall_s)
            name = padded(named(kind).localized(), 28)
            lines.append(f"  {name}{seconds / self.wall_s:>7.1%}{1e3 * seconds / steps:>11.2f} ms{more}")
        return lines

    def _which(self) -> list[Message]:
        first, last = self.iterations[0], self.iterations[-1]
        passed = sorted(set(range(first, last + 1)) - set(self.iterations))
        which = Message("profile-iterations", first=first, last=last)
        if passed:
            which = Message("profile-passed-over", which=which, passed=passed)
        return [which, *([Message("profile-skipped", skipped=self.skipped)] if self.skipped else [])]


def profile_of(
    profiler: Any, iterations: Sequence[int], skipped: Sequence[int], wall_s: float, *, cuda: bool
) -> Profile:
    """Read a torch.profiler.profile that was stopped.

    Args:
        iterations: that were recorded; `skipped`: of them those without an optimizer step.
        cuda: kernels of the GPU count; else the operators of the CPU, each without those that it calls.
    """
    if not cuda:
        rows = [(one.key, one.count, one.self_cpu_time_total / 1e6) for one in profiler.key_averages()]
        kernels = _kernels(rows, CPU_KINDS)
        busy = sum(kernel.seconds for kernel in kernels)
        return Profile(
            iterations=tuple(iterations),
            skipped=tuple(skipped),
            wall_s=wall_s,
            kernels=kernels,
            idle_s=max(0.0, wall_s - busy),
            exposed_communication_s=None,
        )
    spans = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if str(event.device_type).endswith("CUDA") and not event.name.startswith(NOT_KERNELS)
    ]
    either = covered((start, end) for _, start, end in spans) / 1e6
    compute = covered((start, end) for name, start, end in spans if kind_of(name) != "communication") / 1e6
    return Profile(
        iterations=tuple(iterations),
        skipped=tuple(skipped),
        wall_s=wall_s,
        kernels=_kernels(((name, 1, (end - start) / 1e6) for name, start, end in spans), GPU_KINDS),
        idle_s=max(0.0, wall_s - either),
        exposed_communication_s=either - compute,
    )


def _kernels(rows: Iterable[tuple[str, int, float]], kinds: Any) -> tuple[Kernel, ...]:
    calls: dict[str, int] = defaultdict(int)
    seconds: dict[str, float] = defaultdict(float)
    for name, count, time in rows:
        calls[name] += count
        seconds[name] += time
    found = [Kernel(name, kind_of(name, kinds), calls[name], seconds[name]) for name in seconds]
    return tuple(sorted(found, key=lambda kernel: -kernel.seconds))
