"""Conversions killed at random moments: `kill_worker.py OLD NEW TARGET KILLS`, where OLD and NEW are HF folders.

torch is imported once and each conversion is a forked process, slowed down at every step that a kill could come
between. After each kill the target is verified and put back. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # noqa: F401  # before the forks

from megatron_patch.checkpoint import convert, manifest, store, torch_dist  # noqa: F401
from megatron_patch.checkpoint.cli import main


def slowly(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.004)
        return function(*args, **kwargs)

    return wrapped


def slow_down() -> None:
    store.HashingFile.write = slowly(store.HashingFile.write)
    for name in ("fsync", "rename", "rmdir", "unlink", "mkdir"):
        setattr(os, name, slowly(getattr(os, name)))
    for name in ("_put_in_place", "_write_manifest", "_remove_leftovers"):
        setattr(store, name, slowly(getattr(store, name)))


def fork(command: list[str]) -> int:
    """The id of a process that converts."""
    child = os.fork()
    if child == 0:
        slow_down()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os._exit(main(command))
    return child


def state(target: Path) -> str:
    """The manifest, once everything is as it says."""
    manifest.verify(target)
    return (target / "manifest.json").read_text()


def run(old: Path, new: Path, target: Path, kills: int) -> dict:
    kept = target.parent.with_name("kept")
    assert main(["--source", str(old), "--output-path", str(target)]) == 0
    before = state(target)
    shutil.copytree(target, kept)
    command = ["--source", str(new), "--output-path", str(target), "--overwrite"]
    began = time.monotonic()
    _, status = os.waitpid(fork(command), 0)
    whole = time.monotonic() - began
    after = state(target)
    found = {"first status": status, "old": 0, "new": 0, "other": 0, "leftovers": 0}
    moments = random.Random(7)
    for _ in range(kills):
        shutil.rmtree(target)
        shutil.copytree(kept, target)
        child = fork(command)
        time.sleep(moments.uniform(0.0, whole))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        now = state(target)
        found["old" if now == before else "new" if now == after else "other"] += 1
        found["leftovers"] += any(".partial-" in path.name for path in target.parent.iterdir())
    found["last status"] = main(command)
    found["last is new"] = state(target) == after != before
    found["left at the end"] = [path.name for path in target.parent.iterdir() if ".partial-" in path.name]
    shutil.rmtree(target)
    child = fork(command)
    time.sleep(whole / 3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found["appeared although killed"] = target.exists()
    return found


if __name__ == "__main__":
    one, two, place, count = sys.argv[1:]
    print(json.dumps(run(Path(one), Path(two), Path(place), int(count))))
