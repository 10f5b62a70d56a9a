"""Megatron prints 800 lines of arguments and warnings: they go to the rank's log, the person keeps the screen."""

from __future__ import annotations

import faulthandler
import io
import os
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO, cast

from megatron_patch.common.disk import explain, is_full, naming
from megatron_patch.common.errors import UserError
from megatron_patch.common.messages import Message, localized
from megatron_patch.common.terminal import Guarded
from megatron_patch.runs import status as run_status
from megatron_patch.runs.folder import LOGS, rank_log
from megatron_patch.trainer.errors import echo_of

SHOWN_LINES = 12
"""How much of a traceback or of a log is repeated on the screen."""


class _Log(io.FileIO):
    """A rank's log, which an error of its disk names."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._path = path

    def write(self, data: Any) -> int:
        with naming(self._path):
            return super().write(data)


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
        sys.stdout = self._log(1)
        sys.stderr = self._log(2)
        faulthandler.enable(self.stderr)  # a crash in a library shows where

    def _log(self, descriptor: int) -> TextIO:
        raw = io.BufferedWriter(_Log(descriptor, self.log_path))
        return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def report(self, error: BaseException) -> None:
        """Say on the real standard error what ended this rank, and note it for `watch` if it is the first one."""
        _close_log(error)
        message, lines, cause = self._told(error)
        if cause is not None:
            run_status.record_end(self._output_dir, "failed", cause)
        shown = [message.localized(), *lines, localized("rank-log", path=self.log_path)]
        print("\n".join(shown), file=self.stderr, flush=True)

    def _told(self, error: BaseException) -> tuple[Message, list[str], Message | None]:
        """What is said, the lines of a traceback or a log that follow it, and the cause: None where a person or another
        rank ended this one."""
        where = Message("rank-of", rank=self.rank, size=self.world_size)
        if isinstance(error, KeyboardInterrupt):
            return Message("rank-interrupted", rank=where), [], None
        if isinstance(error, UserError):
            return Message("rank-error", rank=where, error=error), [], Message("rank-says", rank=where, error=error)
        if is_full(error):
            told = explain(error)
            return Message("rank-error", rank=where, error=told), [], Message("rank-says", rank=where, error=told)
        if echo_of(error) == "connection":
            return Message("rank-lost-connection", rank=where), [], None
        if isinstance(error, SystemExit):
            message, lines = Message("rank-ended", rank=where, status=error.code), self._log_tail()
        else:
            message, lines = Message("rank-traceback", rank=where), _tail("".join(traceback.format_exception(error)))
        return message, lines, Message("rank-says", rank=where, error=lines[-1].strip() if lines else "")

    def _log_tail(self) -> list[str]:
        with self.log_path.open(errors="replace") as log:
            log.seek(self._begin)
            return _tail(log.read())


def _close_log(error: BaseException) -> None:
    """Put what is still said into the log, and where only one sentence reaches the screen, where it comes from."""
    try:
        if is_full(error):
            traceback.print_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # it is what cannot be written: what is left goes nowhere, so that Python ends as it should
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)


def _tail(text: str) -> list[str]:
    return text.rstrip().splitlines()[-SHOWN_LINES:]
