"""Read metrics.jsonl as it grows: each line once, and all over when a resumed run has cut it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from megatron_patch.report.collect import Run


class Follower:
    """A run's folder, looked at again and again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = Run(folder=folder, name=folder.resolve().name)
        self._file = (0, 0)
        """Inode of metrics.jsonl, and how many bytes of it are read."""
        self._plan_written = 0.0

    def exists(self) -> bool:
        """Whether there is anything of a run."""
        return any((self.folder / name).is_file() for name in ("plan.json", "metrics.jsonl"))

    def look(self) -> None:
        """Take in what is new."""
        self._look_at_plan()
        path = self.folder / "metrics.jsonl"
        try:
            with path.open("rb") as file:
                facts = os.fstat(file.fileno())
                inode, done = self._file
                if inode != facts.st_ino or facts.st_size < done:
                    self.run.steps, self.run.validation, self.run.problems = [], [], []
                    done = 0
                file.seek(done)
                text = file.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]  # a line that is still being written is left for the next look
        self._file, self.run.written = (facts.st_ino, done + len(whole)), facts.st_mtime
        for line in whole.splitlines():
            if not self.run.take(line):
                said = line[:60].decode(errors="replace")
                self.run.problems.append(f"a line of metrics.jsonl cannot be read: {said}")

    def _look_at_plan(self) -> None:
        try:
            written = (self.folder / "plan.json").stat().st_mtime
            if written != self._plan_written:
                self.run.plan = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
                self._plan_written = written
        except (OSError, ValueError):
            return
