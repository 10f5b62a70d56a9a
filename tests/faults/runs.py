"""Runs as the campaign's parts need them: a world that all share, a reference, the same command again, a comparison."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from megatron_patch.runs.stored_chunks import read_checksums

from .warm_start import STARTER
from .world import Job, make_world

REPEATABLE = ("iteration", "loss", "lr", "grad_norm", "tokens", "validation_loss")
LONGEST = 240.0
"""Seconds that a run of these sizes may take on a busy machine."""


class Wrong(AssertionError):
    """Something that must not be; the message says what."""


@cache
def shared_folder() -> Path:
    """For what all cases of this process read; removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="faults-shared-"))
    owner = os.getpid()
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    return folder


@cache
def shared_world() -> Path:
    """Data, tokenizer and model."""
    return make_world(shared_folder() / "world")


def reference(job: Callable[[Path], Job], name: str) -> Job:
    """A run that nothing happens to, from its start to its end."""
    run = job(shared_folder() / name)
    finish(run, shared_folder() / f"{name}.screen")
    return run


def finish(run: Job, screen: Path) -> str:
    """The same command, to the end of training; what it said.

    Raises:
        Wrong: it did not get there.
    """
    started = STARTER.start(run.values, run.environ, screen)
    try:
        status = started.wait(LONGEST)
    finally:
        started.end()
    if status is None:
        raise Wrong(f"the run hangs: {LONGEST:.0f} s; {started.said()[-500:]}")
    if status:
        raise Wrong(f"the same command ended with status {status}: {started.said()[-1500:]}")
    return started.said()


def results(run: Job) -> list[dict[str, Any]]:
    """What must not depend on what happened: everything but times and memory."""
    return [{name: record.get(name) for name in REPEATABLE} for record in run.metrics()]


def stored(run: Job, step: int) -> dict[str, str]:
    """SHA-256 of every stored tensor of a checkpoint, random states too; not of the arguments, which hold paths."""
    checksums = read_checksums(run.checkpoints / f"iter_{step:07d}")
    if checksums is None:
        raise Wrong(f"iteration {step} has no checksums")
    return {chunk.item: chunk.sha256 for chunk in checksums.chunks.values() if "common_state" not in chunk.item}


def compare(run: Job, whole: Job, *, since: int = 1) -> None:
    """Hold a run against an undisturbed one.

    Args:
        since: first iteration whose losses are compared.
    Raises:
        Wrong: a bit differs.
    """
    mine, theirs = ([record for record in results(one) if record["iteration"] >= since] for one in (run, whole))
    if mine != theirs:
        at = next((i for i, pair in enumerate(zip(mine, theirs, strict=False)) if pair[0] != pair[1]), None)
        found = f"{mine[at]}, not {theirs[at]}" if at is not None else f"{len(mine)} lines, not {len(theirs)}"
        raise Wrong(f"metrics differ from an undisturbed run: {found}")
    last = whole.iterations
    mine_stored, theirs_stored = stored(run, last), stored(whole, last)
    if mine_stored != theirs_stored:
        differing = [item for item in theirs_stored if mine_stored.get(item) != theirs_stored[item]]
        raise Wrong(f"{len(differing)} stored chunks differ from an undisturbed run, the first at {differing[0]}")
