"""Who writes into a run's folder, and how the last run there ended.

Two locks, which the kernel frees however their holder dies: the launcher's (driver, then torchrun in its place) from
before plan.json is written, and rank 0's. Where the launcher's is free and the rank's is not, the launcher was killed
and its ranks are about to save and end. `ended.json` says how a run ended; where a run is gone without one, it was
killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from megatron_patch.common.errors import UserError
from megatron_patch.common.files import write_json
from megatron_patch.common.messages import Message, as_json, localized, read_message
from megatron_patch.common.strict_json import read_json
from megatron_patch.runs.folder import CHECKPOINTS, ENDED, LOGS, remove_leftovers

LAUNCHER, RANKS = f"{LOGS}/launcher.lock", f"{LOGS}/ranks.lock"
INHERITED = "MEGATRON_PATCH_LOCK"
"""Environment variable of torchrun: the launcher that became it, or that stays beside it, holds the lock."""
PATIENCE = 60.0
"""Seconds that a start waits for a run that is ending."""
LOOKS_EVERY = 0.2
"""Seconds."""
CONTENTION = 60.0
"""Seconds for which those who only look may hold a lock in turn, however busy the machine is."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that writes into a run's folder, or was the last to do so."""

    host: str
    pid: int
    since: float
    """Seconds since 1970."""
    stopping: str = ""
    """The signal that asked it to end, if one did."""

    @property
    def said(self) -> Message:
        """Which process it is."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return Message("holder", pid=self.pid, host=self.host, since=since)

    def __str__(self) -> str:
        return str(self.said)

    @property
    def is_here(self) -> bool:
        """On this machine, where its locks can be trusted."""
        return self.host == socket.gethostname()


class Occupied(UserError):
    """Another run writes into the folder; the message names it."""

    def __init__(self, folder: Path, holder: Holder | None, *, ending: bool) -> None:
        self.holder, self.ending = holder, ending
        who = holder.said if holder else Message("holder-unknown")
        super().__init__("folder-ending" if ending else "folder-taken", folder=folder, holder=who)


State = Literal["free", "running", "ending"]


def state_of(folder: Path) -> tuple[State, Holder | None]:
    """Whether a run writes there, and which; the holder of a free folder is that of the last run."""
    holder = read_holder(folder)
    if _is_locked(folder / LAUNCHER):
        return ("ending" if holder is not None and holder.stopping else "running"), holder
    if _is_locked(folder / RANKS):
        return ("ending" if holder is not None else "running"), holder
    return "free", holder


def read_holder(folder: Path) -> Holder | None:
    """What the launcher wrote; None where there was none, or an older one that wrote nothing."""
    content = _object(folder / LAUNCHER, {"host": str, "pid": int, "since": float, "stopping": str})
    return Holder(**content) if content is not None else None


def left_elsewhere(folder: Path) -> Holder | None:
    """The last run of a folder that is free, where it ran on another machine and has not written how it ended: it was
    killed, or it runs on and the file system keeps locks from other machines (NFS mounted with nolock)."""
    state, holder = state_of(folder)
    if state != "free" or holder is None or holder.is_here or read_end(folder) is not None:
        return None
    return holder


def wait_while_ending(folder: Path, say: Callable[[str], None], seconds: float = PATIENCE) -> None:
    """Wait for a run that is ending already, for so long at most; return at once in any other case."""
    deadline, told = time.monotonic() + seconds, False
    while (found := state_of(folder))[0] == "ending" and time.monotonic() < deadline:
        if not told:
            holder = found[1].said if found[1] else Message("holder-unknown")
            say(localized("waiting-for-run", folder=folder, holder=holder, seconds=seconds))
            told = True
        time.sleep(LOOKS_EVERY)


def is_mine(folder: Path, environ: Mapping[str, str]) -> bool:
    """Whether this process holds the lock already: it was the launcher, and became the driver again."""
    try:
        held = os.fstat(int(environ.get(INHERITED, "")))
        lock = (folder / LAUNCHER).stat()
    except (OSError, ValueError):
        return False
    return (held.st_dev, held.st_ino) == (lock.st_dev, lock.st_ino)


def take(folder: Path) -> int:
    """Be the launcher of the only run in a folder; forget how the last one ended, and remove the checkpoint that it did
    not finish: it may be what fills the disk.

    Returns:
        A file descriptor: the lock is held until its last copy is closed. Not inherited by other programs.
    Raises:
        Occupied: another run writes there; nothing was changed.
        OSError: the folder cannot be written.
    """
    (folder / LOGS).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LAUNCHER, os.O_RDWR | os.O_CREAT, 0o644)
    if not _lock(descriptor) or _is_locked(folder / RANKS):
        os.close(descriptor)
        state, holder = state_of(folder)
        raise Occupied(folder, holder, ending=state == "ending")
    remove_leftovers(folder / CHECKPOINTS)
    write_holder(descriptor, Holder(host=socket.gethostname(), pid=os.getpid(), since=time.time()))
    (folder / ENDED).unlink(missing_ok=True)
    return descriptor


def write_holder(descriptor: int, holder: Holder) -> None:
    """In place: the file that is locked must stay the same file."""
    content = json.dumps(asdict(holder)).encode() + b"\n"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)


def note_stopping(folder: Path, descriptor: int, name: str) -> None:
    """Say in the lock that a signal has asked its run to end: a start that comes now waits for it."""
    holder = read_holder(folder)
    if holder is not None:
        write_holder(descriptor, replace(holder, stopping=name))


def take_as_rank(folder: Path, say: Callable[[str], None]) -> None:
    """Be the only run whose ranks write into a folder, until this process ends; its forks do not count.

    Raises:
        Occupied: another run's ranks do, and did not end in time.
    """
    descriptor = os.open(folder / RANKS, os.O_RDWR | os.O_CREAT, 0o644)  # stays open
    os.register_at_fork(after_in_child=lambda: os.close(descriptor))  # data loaders outlive this process by seconds
    deadline, told = time.monotonic() + PATIENCE, False
    while not _lock(descriptor):
        if time.monotonic() > deadline:
            raise Occupied(folder, None, ending=False)
        if not told:
            say(localized("waiting-for-ranks", folder=folder, seconds=PATIENCE))
            told = True
    (folder / ENDED).unlink(missing_ok=True)  # of an earlier run, where torchrun was started by hand


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a run ended."""

    how: Literal["finished", "stopped", "failed"]
    cause: str
    """In words, in English; empty where it finished."""
    iteration: int | None
    """Steps that were done; None where that is not known."""
    at: float
    """Seconds since 1970."""
    message: Message | None = None
    """The cause in any language; None in files of earlier versions."""

    @property
    def said(self) -> Message:
        """The cause."""
        return self.message or Message("uncoded", text=self.cause)


def record_end(
    folder: Path, how: Literal["finished", "stopped", "failed"], cause: Message | None, iteration: int | None = None
) -> None:
    """Write `ended.json`, unless somebody has: who fails first knows why. A full disk keeps nobody from ending."""
    ended = Ended(how=how, cause=str(cause or ""), iteration=iteration, at=time.time(), message=cause)
    partial = folder / f".{ENDED}.{os.getpid()}"
    with contextlib.suppress(OSError):
        write_json(partial, vars(ended) | {"message": as_json(cause)})
        try:
            os.link(partial, folder / ENDED)
        finally:
            partial.unlink()


def read_end(folder: Path) -> Ended | None:
    """None where no run has ended there since the last start, or none could say so."""
    kinds = {"how": str, "cause": str, "iteration": int | None, "at": float}
    content = _object(folder / ENDED, kinds, also=("message",))
    if content is None or content["how"] not in ("finished", "stopped", "failed"):
        return None
    return Ended(**content | {"message": read_message(content.get("message"))})


def _object(file: Path, kinds: Mapping[str, Any], also: Sequence[str] = ()) -> dict[str, Any] | None:
    """A JSON object with these keys, each of its type, times between 1970 and 9999; None where it is another.

    Args:
        also: other keys that it may have.
    """
    try:
        content = read_json(file)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or content.keys() - set(also) != kinds.keys():
        return None
    right = all(isinstance(content[key], kind) and not isinstance(content[key], bool) for key, kind in kinds.items())
    times = [content[key] for key, kind in kinds.items() if kind is float]
    return content if right and all(0 <= seconds < 253e9 for seconds in times) else None


def _lock(descriptor: int) -> bool:
    """Whether it is ours now. Who only looks holds it in common, and is waited for; a run holds it alone."""
    deadline = time.monotonic() + CONTENTION
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _is_held_alone(descriptor) or time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        except OSError as error:  # a file system without locks
            _say_without_locks(error)
            return True
        else:
            return True


def _is_held_alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


@cache
def _say_without_locks(error: OSError) -> None:
    """Once: whether anybody else writes there cannot be told."""
    print(localized("no-locks", error=error.strerror), file=sys.stderr)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
