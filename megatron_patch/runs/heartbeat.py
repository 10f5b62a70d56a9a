"""Signs of life of a machine's ranks, for their launcher: which rank hangs, and where. Standard library only.

Each rank has a small file that it keeps mapped: a thread writes twice a second that the process runs, and where its
main thread is; the main thread writes when it gets on. A rank that waits for another in a collective looks healthy
there, one that is stopped or stuck in the kernel writes nothing, and one that is busy elsewhere is neither.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from megatron_patch.common.messages import Message, named

FOLDER = "MEGATRON_PATCH_HEARTBEATS"
"""Environment variable of the ranks: a folder of their launcher's."""
RECORD = struct.Struct("=ddqq?24s?160s")
EVERY = 0.5
"""Seconds between two signs of a rank's thread."""
SILENT = 20.0
"""Seconds without one, after which a process does not run: a busy machine may take some."""
COMPUTES = "R"
"""State of a process that runs, or would if there were a free core."""
TELLING = ("/megatron_patch/", "/megatron/core/", "/megatron/training/")
"""Files whose functions say what a rank does."""
LOOKED_THROUGH = 40
"""Frames of the main thread."""


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a rank last wrote. Times are of the machine's monotonic clock."""

    pid: int
    alive: float
    """When its thread last ran."""
    advanced: float
    """When its main thread last got on."""
    step: int
    """Iteration that it works on; 0 before the first."""
    timed: bool
    """Whether the phase is one in which a rank gets on again within the time that ranks wait for each other."""
    phase: str
    waits: bool
    """Its main thread is inside of a collective."""
    where: str
    """Innermost function of the main thread that says something."""


class Heart:
    """This rank's signs of life; without a launcher that asked for them, nothing."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None
        self._lock = threading.Lock()
        self._step, self._phase, self._timed, self._advanced = 0, "start-up", False, 0.0

    @staticmethod
    def is_judged_alone(environ: Mapping[str, str]) -> bool:
        """Whether the launcher sees all ranks of the run, and ends those that hang before a collective gives up."""
        return FOLDER in environ and environ.get("LOCAL_WORLD_SIZE") == environ.get("WORLD_SIZE")

    def start(self, environ: Mapping[str, str], rank: int) -> None:
        """Begin to beat."""
        folder = environ.get(FOLDER)
        if not folder or self._map is not None:
            return
        with contextlib.suppress(OSError):
            descriptor = os.open(Path(folder) / str(rank), os.O_RDWR | os.O_CREAT, 0o600)
            os.ftruncate(descriptor, RECORD.size)
            self._map = mmap.mmap(descriptor, RECORD.size)
            os.close(descriptor)
            self._advanced = time.monotonic()
            self._write()
            threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    def advance(self, phase: str, *, step: int | None = None, timed: bool = True) -> None:
        """The main thread has got on. Costs a microsecond."""
        self._phase, self._timed, self._advanced = phase, timed, time.monotonic()
        if step is not None:
            self._step = step

    def _beat(self) -> None:
        while True:
            time.sleep(EVERY)
            self._write()

    def _write(self) -> None:
        waits, where = _main_thread()
        phase = self._phase.encode()[:24]
        record = RECORD.pack(
            time.monotonic(), self._advanced, self._step, os.getpid(), self._timed, phase, waits, where.encode()[:160]
        )
        if self._map is not None:
            self._map[:] = record


HEART = Heart()
"""Of this process."""


def _main_thread() -> tuple[bool, str]:
    """Whether it is in a collective, and where it is in code that tells something."""
    frame: FrameType | None = sys._current_frames().get(threading.main_thread().ident or 0)
    waits, where = False, ""
    for _ in range(LOOKED_THROUGH):
        if frame is None or where:
            break
        file = frame.f_code.co_filename
        waits = waits or "/torch/distributed/" in file
        place = next((file.rindex(mark) + 1 for mark in TELLING if mark in file), None)
        if place is not None:
            where = f"{frame.f_code.co_name} ({file[place:]}:{frame.f_lineno})"
        frame = frame.f_back
    return waits, where


def read_beats(folder: Path) -> dict[int, Beat]:
    """Of every rank that has begun to beat."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError, ValueError, struct.error):
            alive, advanced, step, pid, timed, phase, waits, where = RECORD.unpack(path.read_bytes())
            found[int(path.name)] = Beat(
                pid=pid,
                alive=alive,
                advanced=advanced,
                step=step,
                timed=timed,
                phase=phase.rstrip(b"\0").decode(errors="replace"),
                waits=waits,
                where=where.rstrip(b"\0").decode(errors="replace"),
            )
    return found


def find_hung(beats: Mapping[int, Beat], now: float, patience: float, *, is_alone: bool = True) -> dict[int, Message]:
    """Which ranks have not got on for `patience` seconds and keep the others waiting, each with what it does.

    Args:
        is_alone: all ranks of the run are here; else only those that do not run can be told from those that wait.
    Returns:
        Nothing where some rank gets on, or where nothing tells which one it is.
    """
    stopped = {rank for rank, beat in beats.items() if now - beat.alive > patience and _state(beat.pid) != COMPUTES}
    if not stopped and not is_alone:
        return {}
    if not stopped:
        if not beats or not all(beat.timed for beat in beats.values()):
            return {}
        if now - max(beat.advanced for beat in beats.values()) <= patience:
            return {}
        stopped = {rank for rank, beat in beats.items() if now - beat.alive > SILENT}
    hung = stopped or {rank for rank, beat in beats.items() if not beat.waits} or _last(beats)
    return {rank: _what_it_does(beats[rank], now, is_alone=len(hung) < len(beats)) for rank in sorted(hung)}


def _last(beats: Mapping[int, Beat]) -> set[int]:
    """All wait for each other: those that got on least far."""
    behind = min(beat.step for beat in beats.values())
    return {rank for rank, beat in beats.items() if beat.step == behind}


def _what_it_does(beat: Beat, now: float, *, is_alone: bool) -> Message:
    code = "hang-where-step" if beat.step else "hang-where"
    where = Message(code, phase=named(beat.phase), place=beat.where, **({"step": beat.step} if beat.step else {}))
    if now - beat.alive > SILENT:
        how = {"T": "hang-stopped", "t": "hang-debugged", "D": "hang-device", COMPUTES: "hang-computes"}
        state = Message(how.get(_state(beat.pid), "hang-silent"))
        return Message("hang-not-running", state=state, where=where)
    return Message("hang-waiting", where=where) if beat.waits and not is_alone else where


def _state(pid: int) -> str:
    """R, S, D, T ... of a process; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""
