"""SIGKILL around saves: of one rank, of everything, of the launcher; then the same command, until the run is done.

A case is one run of 24 iterations that saves every second one and is killed up to five times. Each kill has a save, and
a moment within 0.2 s from the end of the iteration before it: before, while and after it is written.
"""

from __future__ import annotations

import os
import random
import signal
import time
from functools import cache, partial
from itertools import product
from pathlib import Path

from megatron_patch.runs.stored_chunks import find_damage, find_structural_damage, read_checksums

from .campaign import Case, Outcome, Part
from .runs import Wrong, compare, finish, reference, shared_world
from .warm_start import STARTER, Started, is_alive
from .world import Job

TARGETS = ("one rank", "all processes", "the launcher")
CHAINS, KILLS = 40, 5
ITERATIONS, SAVE_INTERVAL = 24, 2
WINDOW = 0.2
"""Seconds from the end of the iteration before a save, in which the kill comes."""
PATIENCE = 90.0


def cases() -> list[Case]:
    """40 runs."""
    modes = list(product(TARGETS, (True, False), (False, True)))
    found = []
    for number in range(CHAINS):
        target, background, sft = modes[number % len(modes)]
        save = "asynchronous" if background else "synchronous"
        kind = f"{target}, {save} saves, {'SFT' if sft else 'pretraining'}"
        run = partial(killed_run, number, target, background, sft, KILLS)
        found.append(Case(name=f"run {number}", kind=kind, run=run))
    return found


def short_cases() -> list[Case]:
    """One kill of each target."""
    return [
        Case(name=target, kind=target, run=partial(killed_run, number, target, number != 1, False, 1))
        for number, target in enumerate(TARGETS)
    ]


def job(output: Path, background: bool, sft: bool) -> Job:
    """The run, killed or not."""
    return Job(
        world=shared_world(),
        output=output,
        background=background,
        sft=sft,
        iterations=ITERATIONS,
        save_interval=SAVE_INTERVAL,
    )


@cache
def undisturbed(sft: bool) -> Job:
    """The run that nothing happens to."""
    return reference(partial(job, background=False, sft=sft), f"kills-{sft}")


def killed_run(number: int, target: str, background: bool, sft: bool, most: int, folder: Path) -> Outcome:
    """Start, kill, look, start again; at the end all is as if nothing had been."""
    chance = random.Random(number)
    run = job(folder / "out", background, sft)
    kills = lost = 0
    try:
        for attempt in range(most):
            started = STARTER.start(run.values, run.environ, folder / f"screen{attempt}")
            try:
                did = _kill(run, started, target, chance)
            finally:
                started.end()
            if did is None:
                break
            kills, lost = kills + 1, lost + did
        finish(run, folder / "screen")
        compare(run, undisturbed(sft))
    except Wrong as wrong:
        return Outcome(tried=max(kills, 1), problem=str(wrong))
    return Outcome(tried=kills, noticed=kills, survived=kills, lost=lost)


def _kill(run: Job, started: Started, target: str, chance: random.Random) -> int | None:
    """Wait for the moment, kill, and look at what is left; iterations to compute again, None where it was over."""
    first = max(run.complete(), default=0)
    save = min(first + SAVE_INTERVAL * chance.randint(1, 2), ITERATIONS)
    delay = chance.uniform(0, WINDOW)
    while started.iteration() < save - 1:
        if started.wait(0.002) is not None:
            if started.poll() == 0:  # before this process, on a busy machine, saw it come so far
                return None
            raise Wrong(f"it ended with status {started.poll()} before it was killed: {started.said()[-500:]}")
    time.sleep(delay)
    ranks = started.ranks()
    before = run.complete()
    victims = {"one rank": ranks[:1], "the launcher": [started.pid], "all processes": [started.pid, *ranks]}[target]
    if target == "one rank" and ranks:
        victims = [chance.choice(ranks)]
    if started.poll() is not None or not victims:
        return None
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
    _wait_for_the_end(started, ranks, target)
    _look(run, before)
    done = len(run.losses())
    return max(0, done - max(run.complete(), default=0))


def _wait_for_the_end(started: Started, ranks: list[int], target: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and (started.poll() is None or any(map(is_alive, ranks))):
        time.sleep(0.01)
    left = [pid for pid in ranks if is_alive(pid)]
    if started.poll() is None or left:
        raise Wrong(f"{len(left)} ranks live on {PATIENCE:.0f} s after SIGKILL of {target}")
    if target == "one rank" and started.poll() == 1 and "was killed by SIGKILL" not in started.said():
        raise Wrong(f"nobody says that a rank was killed: {started.said()[-500:]}")
    if target == "one rank" and started.poll() not in (0, 1):
        raise Wrong(f"exit status {started.poll()} after a rank was killed")


def _look(run: Job, before: list[int]) -> None:
    """What was complete is there and sound; what is there under its name is sound."""
    after = run.complete()
    if gone := set(before) - set(after):
        raise Wrong(f"checkpoints {sorted(gone)} were complete before the kill and are not there after it")
    for step in after[-2:]:
        checkpoint = run.checkpoints / f"iter_{step:07d}"
        damage = find_structural_damage(checkpoint)
        checksums = None if damage else read_checksums(checkpoint)
        if checksums is not None:
            damage = list(find_damage(checkpoint, checksums))
        if damage:
            raise Wrong(f"a kill left a checkpoint that is damaged: {damage[0]}")


PART = Part(
    name="kills",
    title="SIGKILL at random moments around saves",
    goal=CHAINS * KILLS,
    must="the same command goes on from the newest complete checkpoint; losses, rates, norms and every stored tensor "
    "are the bits of an undisturbed run; no complete checkpoint is lost; nothing lives on",
    how="Two processes with the distributed optimizer, 24 iterations, a save every second one; five kills in each run, "
    "each at a random moment within 0.2 s of a save.",
    cases=cases,
    short=2,
)
