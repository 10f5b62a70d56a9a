"""`verify` of a run's checkpoints: every stored chunk is read again and held against `checksums.json`. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.common.messages import Message, at
from megatron_patch.runs.stored_chunks import (
    FILE,
    METADATA,
    find_damage,
    find_structural_damage,
    is_reserved,
    iteration_of,
    read_checksums,
)

MOST_READERS = 8


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints of a run: of its output folder, its `checkpoints`, or one of them; empty if it is neither."""
    if (folder / FILE).exists() or (folder / METADATA).exists() or iteration_of(folder) is not None:
        return [folder]
    home = folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder
    numbered = [path for path in home.glob("iter_*") if path.is_dir() and iteration_of(path) is not None]
    return sorted(path for path in numbered if not is_reserved(path))


def verify_checkpoints(folders: list[Path]) -> Iterator[Message]:
    """Read each checkpoint whole.

    Returns:
        A line for each sound one.
    Raises:
        CheckpointError: when all are read: file, item and kind of damage of each; or none has checksums.
    """
    problems: list[Message] = []
    verified = 0
    threads = min(MOST_READERS, len(os.sched_getaffinity(0)))
    for folder in folders:
        found = find_structural_damage(folder)
        checksums = None if found else read_checksums(folder)
        if checksums is not None:
            found = list(find_damage(folder, checksums, threads=threads))
            verified += 1
        problems += found
        if checksums is not None and not found:
            yield at(folder.name, "verify-sound", gigabytes=f"{sum(checksums.sizes().values()) / 1e9:.2f}")
        elif not found:
            yield at(folder.name, "verify-without", file=FILE)
    if problems:
        raise CheckpointError.of(problems)
    if not verified:
        raise CheckpointError.at(folders[0].parent, "no-checksums", file=FILE)
