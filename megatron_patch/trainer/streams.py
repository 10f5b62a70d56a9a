"""Megatron prints 800 lines of arguments and warnings: they go to the rank's log, the person keeps the screen."""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
from pathlib import Path
from typing import TextIO, cast

from megatron_patch.backend import BackendError
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common import run_status
from megatron_patch.common.run_folder import LOGS, rank_log
from megatron_patch.common.terminal import Guarded
from megatron_patch.trainer.errors import TrainerError

EXPLAINED = (TrainerError, BackendError, CheckpointError, run_status.Occupied)
"""Errors whose message says what to change: shown without a traceback."""

LOST_CONNECTION = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "NCCL communicator was aborted",
)
"""What gloo and NCCL say on the ranks that survive the first failure."""

SHOWN_LINES = 12
"""How much of a traceback or of a log is repeated on the screen."""


class Streams:
    """The real standard output and error of this rank, and the log that took their place."""

    def __init__(self, output_dir: Path, rank: int, world_size: int) -> None:
        """Send file descriptors 1 and 2, of this process and its children, to `logs/rank_N.log`."""
        self.rank, self.world_size, self._output_dir = rank, world_size, output_dir
        self.log_path = output_dir / LOGS / rank_log(rank)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        self.stdout = cast(TextIO, Guarded(os.fdopen(os.dup(1), "w", buffering=1)))
        self.stderr = cast(TextIO, Guarded(os.fdopen(os.dup(2), "w", buffering=1)))
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._begin = os.fstat(log).st_size
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        faulthandler.enable(self.stderr)  # a crash in a library shows where

    def report(self, error: BaseException) -> None:
        """Say on the real standard error what ended this rank, and note it for `watch` if it is the first one."""
        sys.stdout.flush()
        sys.stderr.flush()
        where = f"rank {self.rank} of {self.world_size}"
        if isinstance(error, KeyboardInterrupt):
            lines = [f"{where} was interrupted"]
        elif isinstance(error, EXPLAINED):
            lines = [f"error on {where}: {error}"]
        elif any(words in str(error) for words in LOST_CONNECTION):
            lines = [f"{where} lost its connection to another rank, which failed first"]
        elif isinstance(error, SystemExit):
            lines = [f"error: {where} ended with status {error.code}; its log ends with", *self._log_tail()]
        else:
            trace = "".join(traceback.format_exception(error)).rstrip().splitlines()
            lines = [f"error on {where}", *trace[-SHOWN_LINES:]]
        if not isinstance(error, KeyboardInterrupt) and "lost its connection" not in lines[0]:
            run_status.record_end(self._output_dir, "failed", _in_short(where, lines, error))
        print("\n".join([*lines, f"the whole log: {self.log_path}"]), file=self.stderr, flush=True)

    def _log_tail(self) -> list[str]:
        with self.log_path.open(errors="replace") as log:
            log.seek(self._begin)
            return log.read().rstrip().splitlines()[-SHOWN_LINES:]


def _in_short(where: str, lines: list[str], error: BaseException) -> str:
    """The first line of what an error says; of a traceback, its last."""
    if isinstance(error, EXPLAINED):
        return lines[0].removeprefix("error on ")
    return f"{where}: {lines[-1].strip()}"
