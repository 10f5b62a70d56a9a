"""Conversions killed at chosen moments: `kill_worker.py OLD NEW TARGET KILLS`, where OLD and NEW are HF folders.

torch is imported once and each conversion is a forked process. Its steps are counted, each a call that changes the
disk; at the step that was chosen it is killed, before the call or after it, wherever its other threads are then. So no
kill comes too early or too late, however busy the machine is. After each kill the target is verified and put back.
Prints one JSON object.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # noqa: F401  # before the forks

from megatron_patch.checkpoint import manifest, store
from megatron_patch.checkpoint.cli import main
from megatron_patch.checkpoint.converter import convert  # noqa: F401
from megatron_patch.checkpoint.formats import torch_dist  # noqa: F401


class Steps:
    """Counts steps from 0, and dies by SIGKILL at one of them: 2k is before the call of step k, 2k + 1 after it."""

    def __init__(self, dies_at: int | None) -> None:
        self._dies_at = dies_at
        self._numbers = itertools.count()

    def step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            number = next(self._numbers)
            self._die_at(2 * number)
            try:
                return function(*args, **kwargs)
            finally:
                self._die_at(2 * number + 1)

        return counted

    def _die_at(self, moment: int) -> None:
        if moment == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def count(self) -> int:
        """Steps so far."""
        return next(self._numbers)


def watch_steps(steps: Steps) -> None:
    store.HashingFile.write = steps.step(store.HashingFile.write)
    for name in ("fsync", "rename", "rmdir", "unlink", "mkdir"):
        setattr(os, name, steps.step(getattr(os, name)))
    for name in ("_put_in_place", "_write_manifest", "_remove_leftovers"):
        setattr(store, name, steps.step(getattr(store, name)))


def run_forked(command: list[str], counted: Path, dies_at: int | None = None) -> int:
    """Convert in a process of its own, which writes how many steps there were. Returns its status by waitpid."""
    child = os.fork()
    if child == 0:
        steps = Steps(dies_at)
        watch_steps(steps)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = main(command)
        counted.write_text(str(steps.count()))
        os._exit(status)
    return os.waitpid(child, 0)[1]


def state(target: Path) -> str:
    """The manifest, once everything is as it says."""
    manifest.verify(target)
    return (target / "manifest.json").read_text()


def leftovers(target: Path) -> list[Path]:
    return [path for path in target.parent.iterdir() if ".partial-" in path.name]


def run(old: Path, new: Path, target: Path, kills: int) -> dict:
    kept, counted = target.parent.with_name("kept"), target.parent.with_name("steps")
    assert main(["--source", str(old), "--output-path", str(target)]) == 0
    before = state(target)
    shutil.copytree(target, kept)
    command = ["--source", str(new), "--output-path", str(target), "--overwrite"]
    found = {"first status": run_forked(command, counted), "old": 0, "new": 0, "other": 0, "leftovers": 0}
    moments = 2 * int(counted.read_text())
    found["steps"] = moments // 2
    after = state(target)
    for number in range(kills):
        shutil.rmtree(target)
        shutil.copytree(kept, target)
        if number % 2 == 0:  # every other one removes what the last one left, which takes steps of its own
            for leftover in leftovers(target):
                shutil.rmtree(leftover)
        status = run_forked(command, counted, dies_at=number * moments // kills)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
        now = state(target)
        found["old" if now == before else "new" if now == after else "other"] += 1
        found["leftovers"] += bool(leftovers(target))
    found["last status"] = main(command)
    found["last is new"] = state(target) == after != before
    found["left at the end"] = [path.name for path in leftovers(target)]
    shutil.rmtree(target)
    run_forked(command, counted, dies_at=moments // 3)
    found["appeared although killed"] = target.exists()
    return found


if __name__ == "__main__":
    one, two, place, count = sys.argv[1:]
    print(json.dumps(run(Path(one), Path(two), Path(place), int(count))))
