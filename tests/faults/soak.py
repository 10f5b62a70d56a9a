"""Thousands of iterations with saves: memory, descriptors and threads of every process stay as they are."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from functools import partial
from pathlib import Path
from statistics import median

from .campaign import Case, Outcome, Part
from .runs import Wrong, shared_world
from .warm_start import STARTER, Started
from .world import Job

ITERATIONS, SAVE_EVERY = 10_000, 50
SHORT_ITERATIONS = 300
SETTLED = 0.3
"""Of the run, after which memory must be flat: caches and pools are full by then."""
GROWTH = 0.01
FEWEST = 6
"""Looks at a process that can be judged."""


def cases() -> list[Case]:
    """One long run for each way of saving."""
    return [
        Case(name=f"{ITERATIONS} iterations, {name}", kind=f"{name} saves", run=partial(soak, ITERATIONS, background))
        for name, background in (("asynchronous", True), ("synchronous", False))
    ]


def short_cases() -> list[Case]:
    """Descriptors and threads over two hundred iterations; memory settles later."""
    return [Case(name="short", kind="asynchronous saves", run=partial(soak, SHORT_ITERATIONS, True))]


def soak(iterations: int, background: bool, folder: Path) -> Outcome:
    """Train, and look at the processes again and again."""
    run = Job(
        world=shared_world(),
        output=folder / "out",
        background=background,
        processes=1,
        iterations=iterations,
        save_interval=SAVE_EVERY,
        variables={"MP_KEEP_CHECKPOINTS": "2", "MP_LOG_INTERVAL": "10"},
    )
    seen: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
    started = STARTER.start(run.values, run.environ, folder / "screen")
    try:
        _follow(run, started, seen, iterations)
    except Wrong as wrong:
        return Outcome(tried=iterations, problem=str(wrong))
    finally:
        started.end()
    judged = [late for late in (_settled(samples, iterations) for samples in seen.values()) if len(late) >= FEWEST]
    if len(judged) < 2:  # the launcher and the rank; what lives shorter is gone by then
        return Outcome(tried=iterations, problem=f"too few looks: {[len(samples) for samples in seen.values()]}")
    problem = "; ".join(filter(None, (_growth(late, iterations) for late in judged)))
    return Outcome(tried=iterations, noticed=0, survived=iterations if not problem else 0, problem=problem)


def _follow(run: Job, started: Started, seen: dict[int, list[tuple[int, int, int, int]]], iterations: int) -> None:
    pause = 1.0 if iterations > 1000 else 0.05
    while (status := started.wait(pause)) is None:
        done = started.iteration()
        for pid in (started.pid, *started.ranks()):
            with contextlib.suppress(OSError, KeyError):  # it has just ended
                seen[pid].append((done, *_use(pid)))
    if status:
        raise Wrong(f"it ended with status {status}: {started.said()[-800:]}")
    if len(run.losses()) < iterations // 10:
        raise Wrong(f"{len(run.losses())} lines of metrics")


def _use(pid: int) -> tuple[int, int, int]:
    """Resident kB of its own (files that it maps are the kernel's), descriptors, threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return int(status["RssAnon"].split()[0]), len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["Threads"])


def _settled(samples: list[tuple[int, int, int, int]], iterations: int) -> list[tuple[int, int, int, int]]:
    return [sample for sample in samples if SETTLED * iterations < sample[0] < iterations - SAVE_EVERY]


def _growth(late: list[tuple[int, int, int, int]], iterations: int) -> str:
    """What is more at the end than it was when the run had settled; empty if nothing is."""
    third = len(late) // 3
    before, after = ([sample[1:] for sample in part] for part in (late[:third], late[-third:]))
    found = []
    for number, name in enumerate(("kB of memory", "descriptors", "threads")):
        first, last = (median(sample[number] for sample in part) for part in (before, after))
        allowed = first * (1 + GROWTH) if number == 0 and iterations >= ITERATIONS else first
        if last > allowed and not (number == 0 and iterations < ITERATIONS):
            found.append(f"{name}: {first:.0f}, then {last:.0f}")
    return ", ".join(found)


PART = Part(
    name="soak",
    title="A long run",
    goal=ITERATIONS,
    must=f"anonymous memory flat within {GROWTH:.0%} after the first {SETTLED:.0%}, descriptors and threads constant",
    how=f"One process, {ITERATIONS} iterations, a save every {SAVE_EVERY}, two checkpoints kept; the launcher and the "
    "rank are looked at every second.",
    cases=cases,
    short=1,
)
