"""Find and read what runs, checks and evaluations left in a folder; nothing is taken for granted.

A training run is a folder with `plan.json` or `metrics.jsonl`. It may still be written: a torn last line is left
out. Everything that cannot be read is said, not guessed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_patch.charts.lines import Point

SKIPPED = ("cache", "tensorboard", "logs", "data", "text", "node_modules")
"""Folders that hold nothing of interest, or far too much."""
DEPTH = 5


@dataclass(kw_only=True)
class Run:
    """One training run."""

    folder: Path
    name: str
    """Shortest path that tells it from the others."""
    plan: dict[str, Any] = field(default_factory=dict)
    """Of plan.json; empty if there is none."""
    command: str = ""
    """Of command.txt."""
    startup: dict[str, Any] = field(default_factory=dict)
    """Of startup.json; empty if there is none."""
    steps: list[dict[str, Any]] = field(default_factory=list)
    """One for each iteration, of metrics.jsonl."""
    validation: list[Point] = field(default_factory=list)
    """Iteration and loss."""
    written: float = 0.0
    """When metrics.jsonl was last written, in seconds since 1970; 0 if never."""
    problems: list[str] = field(default_factory=list)

    def points(self, key: str, scale: float = 1.0) -> list[Point]:
        """Iteration and value, where there is one."""
        return [(s["iteration"], s[key] * scale) for s in self.steps if isinstance(s.get(key), int | float)]

    def take(self, line: str | bytes) -> bool:
        """Take in a line of metrics.jsonl; False if it cannot be read."""
        try:
            record = json.loads(line)
            iteration = int(record["iteration"])
        except (ValueError, KeyError, TypeError):
            return False
        if "loss" in record:
            self.steps.append(record)
        elif isinstance(loss := record.get("validation_loss"), int | float):
            self.validation.append((iteration, loss))
        return True

    @property
    def total(self) -> int | None:
        """Iterations that the run is to have."""
        schedule = self.plan.get("schedule") or {}
        return schedule.get("train_iters")

    @property
    def done(self) -> int:
        """Iterations that it has."""
        return self.steps[-1]["iteration"] if self.steps else 0

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        return self.total is not None and self.done >= self.total

    @property
    def alive(self) -> bool:
        """Not finished, and written to in the last ten minutes."""
        return not self.finished and time.time() - self.written < 600


@dataclass(kw_only=True)
class Finding:
    """A JSON file of a layer check or an evaluation."""

    file: Path
    name: str
    content: dict[str, Any]


@dataclass(kw_only=True)
class Material:
    """All that a page is made from."""

    folders: list[Path]
    runs: list[Run] = field(default_factory=list)
    checks: list[Finding] = field(default_factory=list)
    evaluations: list[Finding] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    """Of commands.txt, where a script that runs several noted them; each once, in their order."""
    problems: list[str] = field(default_factory=list)
    """Files that could not be used, and why."""


def collect(folders: Sequence[Path]) -> Material:
    """Read everything below the folders, in the order in which it was made."""
    material = Material(folders=[folder.resolve() for folder in folders])
    places = sorted({place for folder in material.folders for place in _walk(folder)}, key=_age)
    for place in places:
        name = _name(place, material.folders)
        if (place / "commands.txt").is_file():
            lines = (place / "commands.txt").read_text(encoding="utf-8", errors="replace").splitlines()
            material.commands = list(dict.fromkeys([*material.commands, *lines]))
        if (place / "plan.json").is_file() or (place / "metrics.jsonl").is_file():
            material.runs.append(read_run(place, name))
        for file, found, valid in (
            ("check.json", material.checks, lambda content: isinstance(content["rows"], list)),
            ("results.json", material.evaluations, lambda content: isinstance(content["subjects"], list)),
        ):
            if (place / file).is_file():
                content = _read_json(place / file, material.problems, valid)
                found += [Finding(file=place / file, name=name, content=content)] if content else []
    return material


def _walk(folder: Path) -> Iterator[Path]:
    """A folder and those below it."""
    for place, below, _ in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        below[:] = [n for n in below if n not in SKIPPED and not n.startswith((".", "iter_")) and depth < DEPTH]
        yield Path(place)


def _age(place: Path) -> tuple[float, str]:
    """What was made first comes first; the path decides between equals."""
    files = [place / name for name in ("plan.json", "check.json", "results.json", "metrics.jsonl")]
    return min((file.stat().st_mtime for file in files if file.is_file()), default=0.0), str(place)


def _name(place: Path, folders: Sequence[Path]) -> str:
    """Path below what was named on the command line, with that folder's own name where it is needed."""
    folder = next(folder for folder in folders if folder == place or folder in place.parents)
    below = place.relative_to(folder).as_posix()
    if below == ".":
        return folder.name
    return below if len(folders) == 1 else f"{folder.name}/{below}"


def _read_json(file: Path, problems: list[str], valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not valid(content):
            raise ValueError("it has another form than expected")
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"{file}: not used: {error!r}")
        return None
    return content


def read_run(folder: Path, name: str) -> Run:
    """One run, as far as it goes."""
    run = Run(folder=folder, name=name)
    if (folder / "plan.json").is_file():
        run.plan = _read_json(folder / "plan.json", run.problems, lambda content: isinstance(content, dict)) or {}
    else:
        run.problems.append("plan.json is missing: nothing is known about model, layout, memory and schedule")
    if (folder / "command.txt").is_file():
        run.command = (folder / "command.txt").read_text(encoding="utf-8", errors="replace").strip()
    if (folder / "startup.json").is_file():
        run.startup = _read_json(folder / "startup.json", run.problems, _is_startup) or {}
    if (folder / "metrics.jsonl").is_file():
        run.written = (folder / "metrics.jsonl").stat().st_mtime
        _read_metrics(run, (folder / "metrics.jsonl").read_text(encoding="utf-8", errors="replace"))
    else:
        run.problems.append("metrics.jsonl is missing: no step was recorded")
    return run


def _is_startup(content: dict[str, Any]) -> bool:
    return content["seconds"] >= 0 and isinstance(content["parts"], dict)


def _read_metrics(run: Run, text: str) -> None:
    lines = text.split("\n")
    torn = lines.pop()
    if torn.strip():
        run.problems.append("the last line of metrics.jsonl is not complete yet: left out")
    bad = sum(not run.take(line) for line in lines if line.strip())
    if bad:
        run.problems.append(f"{bad} lines of metrics.jsonl are not readable: left out")
