"""A folder's manifest: the SHA-256 of every file in it, and holding the folder against it. Imports no torch.

A large file may have one SHA-256 for each piece of `piece_bytes` instead (`pieces`), which `split -b` and `sha256sum`
give too: one SHA-256 of a whole file is one core's work, however many there are.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common.checksum import range_sha256
from megatron_patch.common.messages import Message, at
from megatron_patch.common.spread import SideTask
from megatron_patch.common.strict_json import JsonError, is_whole, read_json
from megatron_patch.common.threads import started_pool

MANIFEST = "manifest.json"
PIECE_BYTES = 64 << 20
"""Of a file that is written piece by piece: about as much as a file of a torch_dist folder has."""
READ_BYTES = 8 << 20
"""Read and hashed at a time."""
MOST_BYTES = 1 << 62
"""Of any file."""
MOST_WORKERS = 64
"""More were not measured."""


def default_workers() -> int:
    """Threads that keep cores and disk busy: as many as cores, two more where some always wait for the disk."""
    cores = len(os.sched_getaffinity(0))
    return min(4, cores + 2) if cores <= 4 else min(MOST_WORKERS, cores)


def hash_file(file: Path) -> tuple[str, int]:
    """SHA-256 and bytes of a file."""
    return range_sha256(file, 0, file.stat().st_size)


class _Piece(NamedTuple):
    """Bytes of a file that have a SHA-256 in the manifest."""

    offset: int
    length: int
    sha256: str


def _pieces(facts: dict[str, Any]) -> list[_Piece]:
    """What a manifest says of one file.

    Raises:
        ValueError, KeyError, TypeError: it says no SHA-256, or pieces that do not make up the file.
    """
    nbytes, step, sums = facts["bytes"], facts.get("piece_bytes", MOST_BYTES), facts.get("pieces")
    if not is_whole(nbytes, 0, MOST_BYTES) or not is_whole(step, 1, MOST_BYTES):
        raise JsonError("manifest-sizes", bytes=nbytes, piece_bytes=step)
    if sums is None:
        return [_Piece(0, nbytes, facts["sha256"])]
    if len(sums) != -(-nbytes // step):
        raise JsonError("manifest-pieces", pieces=len(sums), piece_bytes=step, bytes=nbytes)
    return [_Piece(i * step, min(step, nbytes - i * step), sha256) for i, sha256 in enumerate(sums)]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, None if it has none.

    Raises:
        CheckpointError: it is damaged.
    """
    file = folder / MANIFEST
    if not file.exists():
        return None
    try:
        manifest: dict[str, Any] = read_json(file)
        if manifest["algorithm"] != "sha256":
            raise CheckpointError.at(file, "manifest-algorithm", algorithm=repr(manifest["algorithm"]))
        for name, facts in manifest["files"].items():
            _pieces(facts)
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise CheckpointError.at(file, "manifest-outside", name=repr(name))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError.at(file, "manifest-bad", error=error) from None
    return manifest


def _compare(file: Path, nbytes: int, piece: _Piece) -> Message | None:
    """What is wrong with a piece of a file."""
    if not file.is_file():
        return at(file, "manifest-missing")
    if (found := file.stat().st_size) != nbytes:
        return at(file, "manifest-bytes", found=found, wanted=nbytes)
    if range_sha256(file, piece.offset, piece.length, READ_BYTES) != (piece.sha256, piece.length):
        return at(file, "manifest-sha256")
    return None


class Verification:
    """Holds a folder against its manifest while something else reads it, so that the disk is read once.

    with Verification(folder) as verification:
        verification.begin(file)  # for each file that is opened, in any thread
        verification.finish()
    """

    def __init__(self, folder: Path | None, workers: int | None = None, manifest: dict[str, Any] | None = None) -> None:
        """
        Args:
            folder: one with a manifest; None verifies nothing.
            workers: threads; None lets the machine decide.
            manifest: the folder's, where it has been read.
        Raises:
            CheckpointError: the manifest is damaged.
        """
        self.folder = folder
        self._wanted: dict[Path, dict[str, Any]] = {}
        if folder is not None and (manifest := manifest or read_manifest(folder)) is not None:
            self._wanted = {folder / name: facts for name, facts in manifest["files"].items()}
        self._workers, self._lock = workers or default_workers(), threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._side_task = SideTask(_compare)
        self._jobs: dict[Path, list[Future[Message | None]]] = {}
        self._problems: dict[Path, Message] = {}

    def __enter__(self) -> Verification:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def begin(self, file: Path) -> None:
        """Have a file compared, if the manifest has it and it was not begun before. Does not wait.

        Raises:
            CheckpointError: another file was found to be damaged.
        """
        self._raise()
        with self._lock:
            if file in self._wanted and file not in self._jobs:
                self._begin(file)

    def _begin(self, file: Path) -> None:
        nbytes, pieces = self._wanted[file]["bytes"], _pieces(self._wanted[file])
        jobs = [self._side_task.begin(file, nbytes, piece) or self._here(file, nbytes, piece) for piece in pieces]
        for job in jobs:
            job.add_done_callback(partial(self._note, file))
        self._jobs[file] = jobs

    def _here(self, file: Path, nbytes: int, piece: _Piece) -> Future[Message | None]:
        """By a thread of this process, where no others convert."""
        if self._pool is None:  # not before: processes are forked where there are no threads yet
            left = [facts for file, facts in self._wanted.items() if not self._is_begun(file)]
            count = sum(len(_pieces(facts)) for facts in left)
            self._pool = started_pool(min(count, self._workers))
        return self._pool.submit(_compare, file, nbytes, piece)

    def _note(self, file: Path, job: Future[Message | None]) -> None:
        if not job.cancelled() and job.exception() is None and (problem := job.result()) is not None:
            self._problems[file] = problem

    def _is_begun(self, file: Path) -> bool:
        return file in self._jobs and not any(job.cancelled() for job in self._jobs[file])

    def _raise(self) -> None:
        if self._problems:
            raise CheckpointError.of(sorted(self._problems.values(), key=str))

    def finish(self) -> int:
        """Compare what was not begun, and wait.

        Returns:
            bytes verified.
        Raises:
            CheckpointError: one line for each file that is missing, has another length or other bytes.
        """
        with self._lock:
            for file in [file for file in self._wanted if not self._is_begun(file)]:
                self._begin(file)
        for jobs in self._jobs.values():
            for job in jobs:
                job.result()
        self._raise()
        return sum(facts["bytes"] for facts in self._wanted.values())


def verify(folder: Path) -> int:
    """Read every file of the manifest again and compare.

    Returns:
        bytes verified.
    Raises:
        CheckpointError: no manifest, or one line for each file that is missing, has another length or other bytes.
    """
    if read_manifest(folder) is None:
        raise CheckpointError.at(folder, "manifest-absent", file=MANIFEST)
    with Verification(folder) as verification:
        return verification.finish()
