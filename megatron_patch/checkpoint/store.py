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
from megatron_patch.checkpoint.manifest import MANIFEST, PIECE_BYTES, hash_file
from megatron_patch.common.disk import naming
from megatron_patch.common.files import real_path, sync
from megatron_patch.common.messages import Message, at, say
from megatron_patch.common.signals import answered_afterwards
from megatron_patch.common.spread import Relay

INTEGRITY = "integrity.json"
"""Megatron's own manifest inside a torch_dist folder, which its `--verify-integrity` reads."""
MARKS = (MANIFEST, TRACKER, "config.json", "metadata.json")
"""A folder with one of these is a checkpoint; --overwrite replaces nothing else."""
DIRECT_BYTES = 2 << 20
"""Written at a time past the page cache."""
SMALL_BYTES = 1 << 18
"""Into the page cache less is written together with what follows."""
_SPARE: list[Any] = []
"""Memory of files that are closed."""
_OWN = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""Python's default, MAP_SHARED, is memory that this process and all its forks have in common."""
_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_TMPFS = 0x01021994
"""Source: statfs(2)."""


@dataclass(kw_only=True)
class StagedFolder:
    """A folder under construction."""

    path: Path
    """Where to write."""
    target: Path
    sums: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By path relative to the folder: `sha256` and `bytes` of each file written so far, or its `pieces`."""
    _pieces: dict[str, dict[int, tuple[str, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._note, self._note_piece = Relay(self._add), Relay(self._add_piece)

    def name_of(self, file: Path) -> str:
        """A file's path relative to the folder that it is in. (`Path.relative_to` takes 30 µs.)"""
        return str(file).removeprefix(f"{self.path}/")

    def record(self, file: Path, sha256: str, nbytes: int) -> None:
        """Note the checksum of a file that was hashed while it was written, in whichever process."""
        self._note(file, sha256, nbytes)

    def _add(self, file: Path, sha256: str, nbytes: int) -> None:
        self.sums[self.name_of(file)] = {"sha256": sha256, "bytes": nbytes}

    def record_piece(self, file: Path, number: int, sha256: str, nbytes: int) -> None:
        """Note the checksum of one piece of a file; `join_pieces` makes an entry of them when all are there."""
        self._note_piece(file, number, sha256, nbytes)

    def _add_piece(self, file: Path, number: int, sha256: str, nbytes: int) -> None:
        self._pieces.setdefault(self.name_of(file), {})[number] = sha256, nbytes

    def join_pieces(self) -> None:
        """Note the files that were written piece by piece."""
        for name, pieces in self._pieces.items():
            sums, sizes = zip(*(pieces[number] for number in range(len(pieces))), strict=True)
            self.sums[name] = {"bytes": sum(sizes), "piece_bytes": PIECE_BYTES, "pieces": list(sums)}

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
    """A file for writing front to back that hashes what passes; `staged` flushes it with all others at the end."""

    def __init__(self, file: Path, stage: StagedFolder) -> None:
        self._open(file, stage, _Output(_open_direct(file, os.O_CREAT | os.O_EXCL)))

    def _open(self, file: Path, stage: StagedFolder, output: _Output) -> None:
        self._file, self._stage, self._output = file, stage, output
        self._sha, self._size = hashlib.sha256(), 0

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
        with naming(self._file):
            self._output.write(view)
        return len(view)

    def close(self) -> None:
        """Write the rest and record the checksum."""
        if not self.closed:
            try:
                with naming(self._file):
                    self._output.flush()
                self._record()
            finally:
                self._output.close()
                super().close()

    def _record(self) -> None:
        self._stage.record(self._file, self._sha.hexdigest(), self._size)


class HashingPiece(HashingFile):
    """One piece of a file, with a checksum of its own: other threads write the others meanwhile."""

    def __init__(self, file: Path, stage: StagedFolder, number: int) -> None:
        """
        Args:
            file: exists.
            number: of the piece, from 0; each but the last has PIECE_BYTES.
        """
        self._number = number
        self._open(file, stage, _Output(_open_direct(file, 0), number * PIECE_BYTES))

    def _record(self) -> None:
        self._stage.record_piece(self._file, self._number, self._sha.hexdigest(), self._size)


class _Output:
    """Writes on from a place in a file that is a whole number of pages.

    Past the page cache where the file system can (O_DIRECT): hashing needs the cores that copying into the cache and
    flushing it would take. Elsewhere straight from the caller's memory.
    """

    def __init__(self, descriptor: int, offset: int = 0) -> None:
        self._fd, self._offset = descriptor, offset
        self._direct = bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)
        # whole pages, as O_DIRECT demands; memory that was used before costs no page faults
        self._memory = _SPARE.pop() if _SPARE else np.frombuffer(mmap.mmap(-1, DIRECT_BYTES, flags=_OWN), np.uint8)
        self._filled = 0

    def write(self, view: memoryview) -> None:
        """Write all of it, now or with what follows."""
        if not self._direct and len(view) >= SMALL_BYTES:
            self.flush()
            self._put(view)
            return
        while len(view):
            part = view[: DIRECT_BYTES - self._filled]
            np.copyto(self._memory[self._filled : self._filled + len(part)], np.frombuffer(part, np.uint8))
            self._filled, view = self._filled + len(part), view[len(part) :]
            if self._filled == DIRECT_BYTES:
                self._put(memoryview(self._memory))
                self._filled = 0

    def flush(self) -> None:
        """Write what waits; after a part of a page nothing can follow past the page cache."""
        pages = self._filled - self._filled % mmap.PAGESIZE
        self._put(memoryview(self._memory[:pages]))
        if self._direct:
            fcntl.fcntl(self._fd, fcntl.F_SETFL, 0)  # the end is not a whole page
        self._put(memoryview(self._memory[pages : self._filled]))
        self._filled = 0

    def close(self) -> None:
        """Give back what it holds, written or not."""
        os.close(self._fd)
        _SPARE.append(self._memory)

    def _put(self, view: memoryview) -> None:
        while len(view):
            try:
                count = os.pwrite(self._fd, view, self._offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_DIRECT:
                    raise
                fcntl.fcntl(self._fd, fcntl.F_SETFL, 0)  # room for a part of a page: without O_DIRECT the disk says so
                continue
            view, self._offset = view[count:], self._offset + count


def _open_direct(file: Path, flags: int) -> int:
    """Open for writing, with O_DIRECT where it leaves the page cache out: tmpfs takes the flag and is page cache."""
    flags |= os.O_WRONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(file, flags | os.O_DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        if flags & os.O_EXCL:
            file.unlink(missing_ok=True)  # some file systems refuse only after making it
        return os.open(file, flags, 0o666)
    if _is_tmpfs(descriptor):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, 0)
    return descriptor


def _is_tmpfs(descriptor: int) -> bool:
    said = (ctypes.c_long * 32)()  # struct statfs begins with the type
    return _libc.fstatfs(descriptor, said) == 0 and said[0] == _TMPFS


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
    path = target.parent / f"{prefix}{os.getpid()}-{os.urandom(3).hex()}"  # containers have the same process ids
    with contextlib.ExitStack() as building:
        try:
            with _locked(target.parent):
                _remove_leftovers(target.parent, prefix)
                path.mkdir()  # a signal that comes meanwhile is raised here
                building.enter_context(_locked(path))
            stage = StagedFolder(path=path, target=target)
            yield stage
            before_publishing()
            _write_manifest(stage, facts)
            _sync_tree(path)
            _put_in_place(path, target)
        except BaseException:
            with answered_afterwards():  # a second one: Slurm sends the processes each theirs, and users are impatient
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
    stage.join_pieces()
    unrecorded = {stage.name_of(file) for file in stage.path.rglob("*") if file.is_file()}
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
        names = (_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(target))
        if _libc.renameat2(*names, _RENAME_EXCHANGE):
            error = os.strerror(ctypes.get_errno())
            raise CheckpointError.at(target, "target-no-exchange", error=error)
        shutil.rmtree(path)
    fd = os.open(target.parent, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
