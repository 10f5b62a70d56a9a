"""Folders that appear whole or not at all, and the SHA-256 of every byte in them.

A folder is built beside its target under a hidden name, flushed to the disk, and renamed at the end. Killed
at any moment, the target is absent or the old one. What a killed process left is removed by the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import io
import json
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from megatron_patch.checkpoint.contents import TRACKER
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.checkpoint.manifest import MANIFEST, hash_file
from megatron_patch.common.files import real_path, sync
from megatron_patch.common.messages import Message, at, say

INTEGRITY = "integrity.json"
"""Megatron's own manifest inside a torch_dist folder, which its `--verify-integrity` reads."""
MARKS = (MANIFEST, TRACKER, "config.json", "metadata.json")
"""A folder with one of these is a checkpoint; --overwrite replaces nothing else."""
DIRECT_BYTES = 2 << 20
"""Written at a time."""
_SPARE: list[Any] = []
"""Memory of files that are closed."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@dataclass(kw_only=True)
class StagedFolder:
    """A folder under construction."""

    path: Path
    """Where to write."""
    target: Path
    sums: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By path relative to the folder: `sha256` and `bytes` of each file written so far."""

    def record(self, file: Path, sha256: str, nbytes: int) -> None:
        """Note the checksum of a file that was hashed while it was written."""
        self.sums[file.relative_to(self.path).as_posix()] = {"sha256": sha256, "bytes": nbytes}

    def write_text(self, name: str, text: str) -> None:
        """Write and record a small file."""
        data = text.encode()
        (self.path / name).write_bytes(data)
        self.record(self.path / name, hashlib.sha256(data).hexdigest(), len(data))

    def record_small(self, *files: Path) -> None:
        """Hash and record files that something else wrote."""
        for file in files:
            self.record(file, *hash_file(file))


class HashingFile(io.RawIOBase):
    """A file for writing front to back that hashes what passes; `staged` flushes it with all others at the end.

    Written past the page cache where the file system can (O_DIRECT): hashing needs the cores that copying into the
    cache and flushing it would take.
    """

    def __init__(self, file: Path, stage: StagedFolder) -> None:
        self._file, self._stage = file, stage
        self._fd = _open_direct(file)
        self._sha, self._size = hashlib.sha256(), 0
        # whole pages, as O_DIRECT demands; memory that was used before costs no page faults
        self._memory = _SPARE.pop() if _SPARE else np.frombuffer(mmap.mmap(-1, DIRECT_BYTES), np.uint8)
        self._filled = 0

    def writable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Bytes written."""
        return self._size

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        view = memoryview(data).cast("B")
        self._sha.update(view)
        self._size += len(view)
        rest = view
        while len(rest):
            part = rest[: DIRECT_BYTES - self._filled]
            np.copyto(self._memory[self._filled : self._filled + len(part)], np.frombuffer(part, np.uint8))
            self._filled, rest = self._filled + len(part), rest[len(part) :]
            if self._filled == DIRECT_BYTES:
                self._write_out(0, DIRECT_BYTES)
                self._filled = 0
        return len(view)

    def _write_out(self, first: int, last: int) -> None:
        while first < last:
            try:
                first += os.write(self._fd, self._memory[first:last])
            except OSError as error:
                if error.errno != errno.EINVAL or not fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_DIRECT:
                    raise
                fcntl.fcntl(self._fd, fcntl.F_SETFL, 0)  # room for a part of a page: without O_DIRECT the disk says so

    def close(self) -> None:
        """Write the rest and record the checksum."""
        if not self.closed:
            try:
                pages = self._filled - self._filled % mmap.PAGESIZE
                self._write_out(0, pages)
                fcntl.fcntl(self._fd, fcntl.F_SETFL, 0)  # the end is not a whole page
                self._write_out(pages, self._filled)
                self._stage.record(self._file, self._sha.hexdigest(), self._size)
            finally:
                os.close(self._fd)
                _SPARE.append(self._memory)
                super().close()


def _open_direct(file: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        return os.open(file, flags | os.O_DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        file.unlink(missing_ok=True)  # some file systems refuse only after making it
        return os.open(file, flags, 0o666)


def check_target(target: Path, *, overwrite: bool, sources: list[Path]) -> list[Message]:
    """Why `target` cannot be written, one line each; empty if it can."""
    problems: list[Message] = []
    if not os.access(parent := _existing_parent(target), os.W_OK):
        problems.append(at(target, "target-not-writable", parent=parent))
    for source in sources:
        if real_path(target) in (real_path(source), *real_path(source).parents):
            problems.append(at(target, "target-is-source", source=source))
    if target.is_symlink() and not target.exists():
        problems.append(at(target, "target-dead-link"))
    elif target.exists() and not target.is_dir():
        problems.append(at(target, "target-is-file"))
    elif os.path.ismount(target):
        problems.append(at(target, "target-is-mount"))
    elif target.is_dir() and any(target.iterdir()):
        if not overwrite:
            problems.append(at(target, "target-not-empty"))
        elif not any((target / mark).exists() for mark in MARKS):
            problems.append(at(target, "target-not-checkpoint"))
    return problems


def _existing_parent(path: Path) -> Path:
    path = real_path(path).parent
    while not path.exists():
        path = path.parent
    return path


def free_bytes(target: Path) -> int:
    """Free space where `target` will lie."""
    return shutil.disk_usage(_existing_parent(target)).free


@contextlib.contextmanager
def staged(
    target: Path, facts: dict[str, Any], before_publishing: Callable[[], object] = lambda: None
) -> Iterator[StagedFolder]:
    """Build a folder beside `target`; on leaving, write the manifest, flush, and put it in place in one step.

    Args:
        facts: what the manifest says besides the checksums.
        before_publishing: called when everything is written; what it raises keeps the folder from appearing.
    """
    target = real_path(target)  # beside the folder that a link leads to: on its disk, and the link stays
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}.partial-"
    with _locked(target.parent):
        _remove_leftovers(target.parent, prefix)
        path = target.parent / f"{prefix}{os.getpid()}"
        path.mkdir()
        building = contextlib.ExitStack()
        building.enter_context(_locked(path))
    stage = StagedFolder(path=path, target=target)
    with building:
        try:
            yield stage
            before_publishing()
            _write_manifest(stage, facts)
            _sync_tree(path)
            _put_in_place(path, target)
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold flock(2) on a folder: it ends with the process, however that ends.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
    """
    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(fd)


def _remove_leftovers(parent: Path, prefix: str) -> None:
    """Remove what killed processes left for this target: their locks are gone with them."""
    for leftover in [path for path in parent.iterdir() if path.name.startswith(prefix)]:
        with contextlib.suppress(BlockingIOError, FileNotFoundError), _locked(leftover, wait=False):
            say("convert-leftover", path=leftover)
            shutil.rmtree(leftover, ignore_errors=True)


def _write_manifest(stage: StagedFolder, facts: dict[str, Any]) -> None:
    unrecorded = {f.relative_to(stage.path).as_posix() for f in stage.path.rglob("*") if f.is_file()}
    stage.record_small(*(stage.path / name for name in sorted(unrecorded - stage.sums.keys())))
    manifest = {"algorithm": "sha256", **facts, "files": dict(sorted(stage.sums.items()))}
    (stage.path / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _sync_tree(path: Path) -> None:
    """Flush every file and folder. Together: one after another each would wait for the journal."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(sync, [*path.rglob("*"), path]))


def _put_in_place(path: Path, target: Path) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        path.rename(target)  # rename(2) replaces an empty folder
    else:
        libc = ctypes.CDLL(None, use_errno=True)
        names = (_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(target))
        if libc.renameat2(*names, _RENAME_EXCHANGE):
            error = os.strerror(ctypes.get_errno())
            raise CheckpointError.at(target, "target-no-exchange", error=error)
        shutil.rmtree(path)
    fd = os.open(target.parent, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
