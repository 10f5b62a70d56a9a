"""The folder in which torchrun's ranks note how they failed: one a start, gone with it.

A launcher that is killed (SIGKILL, out of memory) cannot remove its own. The next one on this machine does: each folder
has a file that its launcher keeps locked, and the lock goes with the process, whatever became of its number. A folder
without that file is somebody else's: torchrun's own have the same prefix. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "torchelastic_"
OWNER = "megatron_patch.lock"
"""Locked by the launcher that the folder belongs to; appears locked."""


@contextlib.contextmanager
def folder_of_ranks() -> Iterator[Path]:
    """A new folder below TMPDIR, for as long as this process needs it; those of dead launchers go first."""
    remove_those_of_the_dead(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        lock = _lock(folder)
        try:
            yield folder
        finally:
            if lock is not None:
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """None on a file system without locks: such a folder is nobody's to remove."""
    made = folder / f".{OWNER}"
    descriptor = os.open(made, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    made.rename(folder / OWNER)
    return descriptor


def remove_those_of_the_dead(parent: Path) -> list[Path]:
    """Remove the folders of this user's launchers that are gone.

    Returns:
        What was removed.
    """
    removed = []
    for owner in parent.glob(f"{PREFIX}*/{OWNER}"):
        with contextlib.suppress(OSError):
            if _is_free(owner):
                shutil.rmtree(owner.parent, ignore_errors=True)
                removed.append(owner.parent)
    return removed


def _is_free(owner: Path) -> bool:
    """Whether a plain file of this user's is locked by nobody."""
    folder = owner.parent
    if folder.is_symlink() or owner.is_symlink() or {folder.stat().st_uid, owner.stat().st_uid} != {os.geteuid()}:
        return False
    descriptor = os.open(owner, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
