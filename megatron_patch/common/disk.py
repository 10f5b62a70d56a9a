"""A disk that takes no more, in one sentence: which file, why, and how many bytes there are. Standard library only."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from megatron_patch.common.messages import Message, localized, named

CAUSES = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    errno.ESTALE,  # NFS: what was open is gone from the server
)
"""What a disk, a quota, a limit or a mount says; anything else is an error of a program."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Those of them that are said of writing alone."""
RUST = re.compile(r"\(os error (\d+)\)$")
"""How libraries written in Rust end such an error (tokenizers)."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """The kernel names no file where a write fails: say which one is written here."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def is_full(error: BaseException) -> bool:
    """Whether a disk, a quota or a limit takes no more, or the disk cannot be written at all."""
    return _errno_of(error) in FULL


def explain(error: BaseException, *, needed: int | None = None, written: int = 0) -> Message | None:
    """`PATH cannot be written: ...` for an error of a disk; None for any other.

    Args:
        needed: bytes that were to be written on that disk, where it is known: what is missing is then said.
        written: of these, what lies there.
    """
    number = _errno_of(error)
    if number == errno.ENAMETOOLONG and isinstance(error, OSError):  # pathlib asks about no such name: it raises
        name = os.fsdecode(error.filename) if error.filename else Message("disk-a-name")
        return Message("disk-name", what=name, error=named(os.strerror(number)))
    if number == errno.ENOENT and _is_without_folder():
        return Message("working-folder-gone")
    if number not in CAUSES:
        return None
    filename = error.filename if isinstance(error, OSError) and error.filename is not None else None
    path = Path(os.fsdecode(filename)) if filename is not None else _file_of(error.__traceback__)
    what = path if path is not None else Message("disk-a-file")
    return Message(
        "disk-cannot-write", what=what, error=named(os.strerror(number)), room=_room(number, path, needed, written)
    )


def _is_without_folder() -> bool:
    """Whether this process's working folder was removed, or lay on a disk that was mounted anew."""
    try:
        Path.cwd()
    except OSError:
        return True
    return False


def _errno_of(error: BaseException) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    found = RUST.search(str(error))
    return int(found[1]) if found else 0


def _room(number: int, path: Path | None, needed: int | None, written: int) -> Message | str:
    if number == errno.EFBIG:
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        return Message("disk-limit", limit=limit) if limit != resource.RLIM_INFINITY else ""
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    place = path.absolute() if path is not None else Path.cwd()
    while not place.exists() and place != place.parent:
        place = place.parent
    disk = os.statvfs(place)
    free = disk.f_bavail * disk.f_frsize
    if needed is not None and (missing := needed - written - free) > 0:
        return Message("disk-missing", needed=needed, free=free + written, missing=missing)
    code = "disk-free" if path is None or path.exists() else "disk-free-removed"
    return Message(code, free=free)


def _file_of(trace: TracebackType | None) -> Path | None:
    """The file that the innermost function had in hand: the kernel names none when a write fails."""
    frames: list[FrameType] = []
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    for frame in reversed(frames):
        values = [value for value in frame.f_locals.values() if not isinstance(value, io.StringIO)]
        for value in values:
            name = getattr(value, "name", None) if isinstance(value, io.IOBase) else None
            if isinstance(name, str) and not name.startswith("<"):
                return Path(name)
        paths = [value for value in values if isinstance(value, Path)]
        if paths:
            return paths[-1]
    return None


def say_instead_of_a_traceback() -> None:
    """From now on an error of a disk that nobody caught ends this process with its sentence, status 1, and Ctrl-C with
    a word."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        if isinstance(error, KeyboardInterrupt):
            print(localized("interrupted"), file=sys.stderr, flush=True)
            return None
        sentence = explain(error.with_traceback(trace))
        if sentence is None:
            return before(kind, error, trace)
        print(localized("error", text=sentence), file=sys.stderr, flush=True)
        return None

    if before is sys.__excepthook__:
        sys.excepthook = hook
