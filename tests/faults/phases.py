"""Kinds of fault in three phases of a run: at the start, in a step, while a checkpoint is written.

The run must end in time and say why, and the same command, once the cause is gone, must end as an undisturbed run.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from .campaign import Case, Outcome, Part
from .injection import KINDS, PLACES
from .runs import Wrong, compare, finish, reference, shared_world
from .warm_start import STARTER, Started, is_alive
from .world import Job

NEEDS_TMPFS = ("a full disk (tmpfs)", "a read-only disk (tmpfs)")
HANGS = ("stopped (SIGSTOP)", "a call that never returns")
RANKS = {"start": 1, "step": 1, "save": 0}
LIMIT = 60.0
"""Seconds from the fault to the end of all processes, besides MP_DISTRIBUTED_TIMEOUT_MINUTES where a rank hangs."""
TIMEOUT_MINUTES = 1


def cases() -> list[Case]:
    """Every kind in every phase; first those that end at once."""
    found = []
    for kind in sorted(KINDS, key=lambda kind: kind in HANGS):
        for phase in PLACES:
            if kind not in NEEDS_TMPFS or can_mount():
                found.append(Case(name=f"{kind}, {phase}", kind=kind, run=partial(disturbed_run, kind, phase)))
    return found


def job(output: Path) -> Job:
    """Eight iterations with asynchronous saves."""
    variables = {"MP_DISTRIBUTED_TIMEOUT_MINUTES": str(TIMEOUT_MINUTES)}
    return Job(world=shared_world(), output=output, iterations=8, save_interval=2, variables=variables)


@cache
def undisturbed() -> Job:
    """The run that nothing happens to."""
    return reference(job, "phases")


@cache
def can_mount() -> bool:
    """Whether small file systems can be made here."""
    return subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """16 MB in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disturbed_run(kind: str, phase: str, folder: Path) -> Outcome:
    """Let it happen, look at the end, repair, and go on."""
    undisturbed()
    shutil.copytree(shared_world(), folder / "world")
    run = replace(job(folder / "out"), world=folder / "world")
    try:
        if kind not in NEEDS_TMPFS:
            return _disturb(run, kind, phase, folder)
        with small_disk(run.output):
            return _disturb(run, kind, phase, folder)
    except Wrong as wrong:
        return Outcome(problem=str(wrong))


def _disturb(run: Job, kind: str, phase: str, folder: Path) -> Outcome:
    data = run.world / "text_document.bin"
    fault = {"kind": kind, "phase": phase, "rank": RANKS[phase], "output": str(run.output), "data": str(data)}
    environ = run.environ | {"FAULTS_INJECT": json.dumps(fault)}
    started = STARTER.start(run.values, environ, folder / "screen")
    try:
        _wait(run, started, kind)
    finally:
        started.end()
    said = started.said()
    if "Traceback (most recent call last)" in said:
        raise Wrong(f"a traceback on the screen: {said[-1500:]}")
    done = len(run.losses())
    noticed = int(bool(started.poll()) and len(said.strip()) > 0)
    _repair(run, kind)
    lost = max(0, done - max(run.complete(), default=0))
    finish(run, folder / "screen again")
    compare(replace(run, world=shared_world()), undisturbed())
    return Outcome(noticed=noticed, survived=1, lost=lost)


def _wait(run: Job, started: Started, kind: str) -> None:
    """Until all processes are gone; the time counts from the fault."""
    limit = LIMIT + (60 * TIMEOUT_MINUTES + 30 if kind in HANGS else 0)
    ranks: set[int] = set()
    struck = None
    began = time.monotonic()
    while started.wait(0.02) is None or any(map(is_alive, ranks)):
        ranks |= set(started.ranks())
        if struck is None and (_was_injected(run) or time.monotonic() - began > 120):
            struck = time.monotonic()
        if struck is not None and time.monotonic() - struck > limit:
            raise Wrong(f"it lives on {limit:.0f} s after the fault: {started.said()[-600:]}")
    if not _was_injected(run):
        raise Wrong(f"the fault did not come: {started.said()[-600:]}")


def _was_injected(run: Job) -> bool:
    logs = run.output / "logs"
    return any("injected: " in log.read_text(errors="replace") for log in logs.glob("rank_*.log"))


def _repair(run: Job, kind: str) -> None:
    """What a person does who has read the message."""
    (run.output / "filler").unlink(missing_ok=True) if kind != NEEDS_TMPFS[1] else None
    if kind == NEEDS_TMPFS[1]:
        subprocess.run(["mount", "-o", "remount,rw", str(run.output)], check=True)
    shutil.copy(shared_world() / "text_document.bin", run.world)
    if kind == "checkpoints removed":  # nothing is there to go on from: the run begins anew where it says so
        shutil.rmtree(run.checkpoints, ignore_errors=True)


PART = Part(
    name="phases",
    title="Kinds of fault in three phases",
    goal=36,
    must="the run ends by itself within a minute of the fault (and the minute of MP_DISTRIBUTED_TIMEOUT_MINUTES where "
    "a rank hangs), in words; the same command then ends with the bits of an undisturbed run",
    how="Injected into one of two ranks before the data are built, before the fourth step, and before the second "
    "checkpoint is written; small file systems are tmpfs of 16 MB, or RLIMIT_FSIZE.",
    cases=cases,
    short=3,
)
