"""MP_EXPORT_HF=every: a Hugging Face folder of each checkpoint, made by another process while training goes on.

OUTPUT_BASEPATH/exports/iter_0000010 and so on, each whole or absent; OUTPUT_BASEPATH/hf (of adapters: adapter) is a
link to the newest. One is made at a time. What a killed run has not exported, the next start does, as long as the
checkpoint is there. Where saving is faster than exporting, a checkpoint that MP_KEEP_CHECKPOINTS would remove by now
is not exported any more.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from megatron_patch.backend.saving import folders, retention
from megatron_patch.checkpoint.manifest import MANIFEST
from megatron_patch.common.messages import Message, localized
from megatron_patch.runs.folder import CHECKPOINTS, EXPORTS, remove_leftovers
from megatron_patch.runs.stored_chunks import is_reserved, iteration_of

POLL_SECONDS = 0.2
"""How often it looks whether an asynchronous checkpoint has got its name."""


class Exporter:
    """A queue of iterations and the thread that works on it."""

    def __init__(
        self, output: Path, link: Path, *, adapters: bool, keep: int | None, say: Callable[[str], object]
    ) -> None:
        """
        Args:
            link: what leads to the newest.
            keep: MP_KEEP_CHECKPOINTS: so many of the newest stay, and the best.
        """
        self._output, self._link, self._adapters, self._keep, self._say = output, link, adapters, keep, say
        self._waiting: list[int] = []
        self._current: int | None = None
        self._failed: dict[int, Message] = {}
        self._closed = False
        self._change = threading.Condition()
        remove_leftovers(output / EXPORTS)
        retention.PROTECTED.append(self._not_yet_exported)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def add(self, iteration: int) -> None:
        """Export it as soon as its checkpoint is complete."""
        with self._change:
            if iteration not in (*self._waiting, self._current):
                self._waiting.append(iteration)
            self._change.notify()

    def add_missing(self) -> None:
        """All checkpoints that have no folder: what an earlier start left, and what failed."""
        found = folders.numbered(self._output / CHECKPOINTS)
        protected = retention.protected()
        newest = sorted(found)[-self._keep :] if self._keep else sorted(found)
        for iteration in sorted({*newest, *(protected & found.keys())}):
            if not (self._folder(iteration) / MANIFEST).is_file():
                self.add(iteration)

    def finish(self) -> list[Message]:
        """Wait until the queue is empty; what could not be exported, one line each."""
        with self._change:
            self._failed.clear()
        self.add_missing()
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()
        self._remove_old()
        if self._keep:
            retention.remove_without_others(self._output / CHECKPOINTS, self._keep, self._say)
        return list(self._failed.values())

    def _not_yet_exported(self) -> set[int]:
        with self._change:
            self._drop_obsolete()
            return {*self._waiting, *([] if self._current is None else [self._current])}

    def _drop_obsolete(self) -> None:
        """What retention would remove but for this queue leaves the queue. To be called with the lock."""
        tracker = self._output / CHECKPOINTS / retention.TRACKER
        if not self._keep or not self._waiting or not tracker.is_file():
            return
        needed = retention.protected(but=self._not_yet_exported)
        for folder in retention.too_old(tracker, self._keep, needed):
            iteration = iteration_of(folder)
            if iteration in self._waiting:
                self._waiting.remove(iteration)
                self._say(localized("export-obsolete", name=folder.name, keep=self._keep))

    def _folder(self, iteration: int) -> Path:
        return self._output / EXPORTS / f"iter_{iteration:07d}"

    def _work(self) -> None:
        while True:
            iteration = self._next()
            if iteration is None:
                return
            error = self._export(iteration)
            with self._change:
                self._current = None
                if error:
                    self._failed[iteration] = error
            if error:
                self._say(localized("not-exported", why=error))
            else:
                self._say(localized("exported", path=self._folder(iteration)))
                self._remove_old()

    def _next(self) -> int | None:
        """Wait for one that is still worth it; None: the queue is closed and empty."""
        with self._change:
            self._drop_obsolete()
            while not self._waiting and not self._closed:
                self._change.wait()
                self._drop_obsolete()
            self._current = self._waiting.pop(0) if self._waiting else None
            return self._current

    def _export(self, iteration: int) -> Message | None:
        """None, or why it could not be."""
        source, target = self._output / CHECKPOINTS / f"iter_{iteration:07d}", self._folder(iteration)
        while not source.is_dir() or is_reserved(source):  # the save under way; if it fails, the run ends
            if self._closed:
                return Message("not-written", path=source)
            time.sleep(POLL_SECONDS)
        command = [sys.executable, "-m", "megatron_patch.checkpoint.background", str(source), str(target)]
        command += ["--adapters"] if self._adapters else []
        environ = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            last: list[object] = [*done.stderr.strip().splitlines()[-1:]]
            what = last[0] if last else Message("status", status=done.returncode)
            return Message("at", path=f"iter_{iteration:07d}", what=what)
        self._lead_to_newest()
        return None

    def _lead_to_newest(self) -> None:
        """The link takes the place of a folder that an export at the end wrote here earlier."""
        newest = max(self._exported())
        new = self._link.with_name(f".{self._link.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(self._folder(newest).relative_to(self._link.parent))
        if self._link.is_dir() and not self._link.is_symlink():
            shutil.rmtree(self._link)
        new.replace(self._link)

    def _exported(self) -> set[int]:
        found = folders.numbered(self._output / EXPORTS)
        return {iteration for iteration, path in found.items() if (path / MANIFEST).is_file()}

    def _remove_old(self) -> None:
        if self._keep:
            exported = self._exported()
            for iteration in exported - set(sorted(exported)[-self._keep :]) - retention.protected():
                folders.remove(self._folder(iteration))
