"""A disk that takes no more, in one sentence: which file, why, and how many bytes there are. Standard library only."""

from __future__ import annotations

import errno
import io
import os
import re
import resource
import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from megatron_patch.common.messages import Message, localized, named

CAUSES = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO),
    errno.ESTALE,  # NFS: what was open is gone from the server
)
"""What a disk, a quota, a limit or a mount says; anything else is an error of a program."""
RUST = re.compile(r"\(os error (\d+)\)$")
"""How libraries written in Rust end such an error (tokenizers)."""


def explain(error: BaseException) -> Message | None:
    """`PATH cannot be written: ...` for an error of a disk; None for any other."""
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
    return Message("disk-cannot-write", what=what, error=named(os.strerror(number)), room=_room(number, path))


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


def _room(number: int, path: Path | None) -> Message | str:
    if number == errno.EFBIG:
        limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
        return Message("disk-limit", limit=limit) if limit != resource.RLIM_INFINITY else ""
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    place = path.absolute() if path is not None else Path.cwd()
    while not place.exists() and place != place.parent:
        place = place.parent
    free = os.statvfs(place)
    code = "disk-free" if path is None or path.exists() else "disk-free-removed"
    return Message(code, free=free.f_bavail * free.f_frsize)


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
    """From now on an error of a disk that nobody caught ends this process with its sentence, status 1."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
        sentence = explain(error.with_traceback(trace))
        if sentence is None:
            return before(kind, error, trace)
        print(localized("error", text=sentence), file=sys.stderr, flush=True)
        return None

    if before is sys.__excepthook__:
        sys.excepthook = hook
