"""Find and read what runs, checks and evaluations left in a folder; nothing is taken for granted.

A training run is a folder with `plan.json` or `metrics.jsonl`. It may still be written: a torn last line is left
out. Everything that cannot be read is said, not guessed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from megatron_patch.charts.lines import Point
from megatron_patch.common.files import real_path
from megatron_patch.common.messages import Message
from megatron_patch.common.records import Record, read, read_file
from megatron_patch.evaluation.records import Results, TaskResults
from megatron_patch.report.records import CheckFile, MetricsLine, PlanFile, ProfileFile, StartupFile
from megatron_patch.runs.folder import COMMAND, METRICS, PLAN, PROFILE, STARTUP, PlanError, is_run, load_plan
from megatron_patch.runs.recovery import Event, read_events
from megatron_patch.runs.status import state_of

SKIPPED = ("cache", "tensorboard", "logs", "data", "text", "node_modules")
"""Folders that hold nothing of interest, or far too much."""
DEPTH = 5
MINUTES = 600.0
"""Seconds without a step, or ten steps where they are slower, after which a run elsewhere is not taken for running."""
RECENT = 20
"""Steps."""


@dataclass(kw_only=True)
class Run:
    """One training run."""

    folder: Path
    name: str
    """Shortest path that tells it from the others."""
    plan: PlanFile | None = None
    """None if there is none that can be read."""
    command: str = ""
    """Of command.txt."""
    startup: StartupFile | None = None
    """None if there is none that can be read."""
    profiles: list[ProfileFile] = field(default_factory=list)
    """Of the ranks that MP_PROFILE recorded."""
    steps: list[MetricsLine] = field(default_factory=list)
    """One for each iteration, of metrics.jsonl."""
    events: list[Event] = field(default_factory=list)
    """Skips, rollbacks, restarts, fallbacks, hangs and slow ranks, of events.jsonl."""
    validation: list[Point] = field(default_factory=list)
    """Iteration and loss."""
    written: float = 0.0
    """When metrics.jsonl was last written, in seconds since 1970; 0 if never."""
    problems: list[Message] = field(default_factory=list)

    def points(self, key: str, scale: float = 1.0) -> list[Point]:
        """Iteration and value, where there is one."""
        found = ((step.iteration, getattr(step, key)) for step in self.steps)
        return [(iteration, value * scale) for iteration, value in found if value is not None]

    def take(self, line: str | bytes) -> None:
        """Take in a line of metrics.jsonl.

        Raises:
            ValueError: it cannot be read, and why.
        """
        record = read(MetricsLine, line)
        if record.is_step:
            self.steps.append(record)
        elif record.validation_loss is not None:
            self.validation.append((record.iteration, record.validation_loss))

    @property
    def total(self) -> int | None:
        """Iterations that the run is to have."""
        return self.plan.schedule.train_iters if self.plan else None

    @property
    def done(self) -> int:
        """Iterations that it has."""
        return self.steps[-1].iteration if self.steps else 0

    @property
    def finished(self) -> bool:
        """Nothing is left to do."""
        return self.total is not None and self.done >= self.total

    @property
    def alive(self) -> bool:
        """Not finished, and a process holds its lock here, or it was written to not long ago, from wherever that is."""
        if self.finished:
            return False
        slow = 10 * max([seconds for _, seconds in self.points("step_ms", 1e-3)][-RECENT:], default=0.0)
        return state_of(self.folder)[0] != "free" or time.time() - self.written < max(MINUTES, slow)


@dataclass(kw_only=True)
class ResultFile[R: Record]:
    """A JSON file of a layer check or an evaluation."""

    file: Path
    name: str
    content: R


@dataclass(kw_only=True)
class Material:
    """All that a page is made from."""

    folders: list[Path]
    runs: list[Run] = field(default_factory=list)
    checks: list[ResultFile[CheckFile]] = field(default_factory=list)
    evaluations: list[ResultFile[Results]] = field(default_factory=list)
    """Of CMMLU and C-Eval."""
    tasks: list[ResultFile[TaskResults]] = field(default_factory=list)
    """Of lm_eval's other tasks."""
    commands: list[str] = field(default_factory=list)
    """Of commands.txt, where a script that runs several noted them; each once, in their order."""
    problems: list[Message] = field(default_factory=list)
    """Files that could not be used, and why."""


def collect(folders: Sequence[Path]) -> Material:
    """Read everything below the folders, in the order in which it was made."""
    material = Material(folders=[real_path(folder) for folder in folders])
    for place in sorted({place for folder in material.folders for place in _walk(folder)}, key=_age):
        name, problems = _name(place, material.folders), material.problems
        commands = _text(place / "commands.txt", problems).splitlines()
        material.commands = list(dict.fromkeys([*material.commands, *commands]))
        if is_run(place):
            material.runs.append(read_run(place, name))
        material.checks += _findings(CheckFile, place / "check.json", name, problems)
        material.evaluations += _findings(Results, place / "results.json", name, problems)
        material.tasks += _findings(TaskResults, place / "tasks.json", name, problems)
    return material


def _findings[R: Record](kind: type[R], file: Path, name: str, problems: list[Message]) -> list[ResultFile[R]]:
    content = read_file(kind, file, problems) if file.is_file() else None
    return [ResultFile(file=file, name=name, content=content)] if content else []


def _walk(folder: Path) -> Iterator[Path]:
    """A folder and those below it."""
    for place, below, _ in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        below[:] = [n for n in below if n not in SKIPPED and not n.startswith((".", "iter_")) and depth < DEPTH]
        yield Path(place)


def _age(place: Path) -> tuple[float, str]:
    """What was made first comes first; the path decides between equals."""
    files = [place / name for name in (PLAN, "check.json", "results.json", "tasks.json", METRICS)]
    return min((file.stat().st_mtime for file in files if file.is_file()), default=0.0), str(place)


def _name(place: Path, folders: Sequence[Path]) -> str:
    """Path below what was named on the command line, with that folder's own name where it is needed."""
    folder = next(folder for folder in folders if folder == place or folder in place.parents)
    below = place.relative_to(folder).as_posix()
    if below == ".":
        return folder.name
    return below if len(folders) == 1 else f"{folder.name}/{below}"


def _text(file: Path, problems: list[Message]) -> str:
    """Of a file that may be missing."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    except OSError as error:
        problems.append(Message("not-used", path=file, error=error))
        return ""


def read_run(folder: Path, name: str) -> Run:
    """One run, as far as it goes."""
    run = Run(folder=folder, name=name)
    run.plan = read_plan_of(folder, run.problems)
    if not (folder / PLAN).is_file():
        run.problems.append(Message("report-no-plan"))
    run.events = read_events(folder)
    run.command = _text(folder / COMMAND, run.problems)
    if (folder / STARTUP).is_file():
        run.startup = read_file(StartupFile, folder / STARTUP, run.problems)
    files = sorted((folder / PROFILE).glob("rank_*.json"))
    run.profiles = [one for file in files if (one := read_file(ProfileFile, file, run.problems)) is not None]
    if (folder / METRICS).is_file():
        _read_metrics(run, folder / METRICS)
    else:
        run.problems.append(Message("report-no-metrics"))
    return run


def read_plan_of(folder: Path, problems: list[Message]) -> PlanFile | None:
    """A run's plan.json as the page shows it; None, and perhaps a line in `problems`, where there is none."""
    try:
        content = load_plan(folder)
        return None if content is None else read(PlanFile, json.dumps(content))
    except ValueError as error:
        text = Message("uncoded", text=error)
        problems.append(text if isinstance(error, PlanError) else Message("not-used", path=folder / PLAN, error=error))
        return None


def _read_metrics(run: Run, file: Path) -> None:
    bad: list[Message] = []
    try:
        run.written = file.stat().st_mtime
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    run.problems.append(Message("report-torn"))
                elif line.strip():
                    bad += _unreadable(run, number, line)
    except OSError as error:
        run.problems.append(Message("report-metrics", error=error))
    if bad:
        run.problems.append(Message("report-unreadable", count=len(bad), first=bad[0]))


def _unreadable(run: Run, number: int, line: bytes) -> list[Message]:
    try:
        run.take(line)
    except ValueError as error:
        return [Message("report-line", number=number, error=error)]
    return []
