"""A folder's manifest: the SHA-256 of every file in it, and holding the folder against it. Imports no torch."""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common.messages import Message, at
from megatron_patch.common.strict_json import read_json

MANIFEST = "manifest.json"


MOST_WORKERS = 16
"""Each holds 64 MiB of a conversion."""


def default_workers() -> int:
    """Threads that keep cores and disk busy: as many as cores, two more where some always wait for the disk."""
    cores = len(os.sched_getaffinity(0))
    return min(4, cores + 2) if cores <= 4 else min(MOST_WORKERS, cores)


def hash_file(file: Path) -> tuple[str, int]:
    """SHA-256 and bytes of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest(), file.stat().st_size


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
            facts["sha256"], facts["bytes"]
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise CheckpointError.at(file, "manifest-outside", name=repr(name))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError.at(file, "manifest-bad", error=error) from None
    return manifest


class Verification:
    """Holds a folder against its manifest while something else reads it, so that the disk is read once.

    with Verification(folder) as verification:
        verification.begin(file)  # for each file that is opened, in any thread
        verification.finish()
    """

    def __init__(self, folder: Path | None) -> None:
        """
        Args:
            folder: one with a manifest; None verifies nothing.
        Raises:
            CheckpointError: the manifest is damaged.
        """
        self.folder = folder
        self._wanted: dict[Path, dict[str, Any]] = {}
        if folder is not None and (manifest := read_manifest(folder)) is not None:
            self._wanted = {folder / name: facts for name, facts in manifest["files"].items()}
        self._pool, self._lock = ThreadPoolExecutor(default_workers()), threading.Lock()
        self._jobs: dict[Path, Future[None]] = {}
        self._problems: list[Message] = []

    def __enter__(self) -> Verification:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def begin(self, file: Path) -> None:
        """Have a file compared, if the manifest has it and it was not begun before. Does not wait.

        Raises:
            CheckpointError: another file was found to be damaged.
        """
        if self._problems:
            raise CheckpointError.of(self._problems)
        with self._lock:
            if file in self._wanted and file not in self._jobs:
                self._jobs[file] = self._pool.submit(self._compare, file, self._wanted[file])

    def _compare(self, file: Path, wanted: dict[str, Any]) -> None:
        if not file.is_file():
            self._problems.append(at(file, "manifest-missing"))
        elif (found := file.stat().st_size) != wanted["bytes"]:
            self._problems.append(at(file, "manifest-bytes", found=found, wanted=wanted["bytes"]))
        elif hash_file(file)[0] != wanted["sha256"]:
            self._problems.append(at(file, "manifest-sha256"))

    def finish(self) -> int:
        """Compare what was not begun, and wait.

        Returns:
            bytes verified.
        Raises:
            CheckpointError: one line for each file that is missing, has another length or other bytes.
        """
        with self._lock:
            for file in [file for file in self._wanted if file not in self._jobs]:
                self._jobs[file] = self._pool.submit(self._compare, file, self._wanted[file])
        for job in self._jobs.values():
            job.result()
        if self._problems:
            raise CheckpointError.of(sorted(self._problems, key=str))
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
