"""The folders of a run's checkpoints: complete or absent, and damaged ones set aside. A SIGKILL at any moment leaves
either the old state or the new one."""

from __future__ import annotations

import shutil
from pathlib import Path

from megatron_patch.common.files import sync
from megatron_patch.runs.folder import PARTIAL_PREFIX
from megatron_patch.runs.stored_chunks import is_reserved, iteration_of

DAMAGED_PREFIX = "damaged_"
"""Of a checkpoint that was found damaged: it stays, for whoever wants to look, and is never read or removed."""


def partial_of(final: Path) -> Path:
    """Where a checkpoint is written before it gets its name."""
    return final.with_name(PARTIAL_PREFIX + final.name)


def final_of(partial: Path) -> Path:
    """The name that it gets."""
    return partial.with_name(partial.name.removeprefix(PARTIAL_PREFIX))


def publish(partial: Path, final: Path) -> None:
    """Put `partial` on the disk and give it its name; what had the name before is removed.

    Between the two renames of a replacement neither name exists: complete or absent, never mixed.
    """
    for path in (*partial.rglob("*"), partial):
        sync(path)
    old = final.with_name(f"{PARTIAL_PREFIX}old_{final.name}")
    if final.exists():
        final.rename(old)
    partial.rename(final)
    sync(final.parent)
    if old.exists():
        _delete(old)


def remove(folder: Path) -> None:
    """Remove a checkpoint. It loses its name first, so that a kill in between leaves no half of one."""
    nameless = folder.with_name(f"{PARTIAL_PREFIX}old_{folder.name}")
    folder.rename(nameless)
    _delete(nameless)


def _delete(folder: Path) -> None:
    """A link to a checkpoint that somebody keeps elsewhere goes alone: what it leads to is not this run's."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that nothing takes it for a good one; give its new name."""
    number, aside = 1, folder.with_name(DAMAGED_PREFIX + folder.name)
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{DAMAGED_PREFIX}{folder.name}_{number}")
    folder.rename(aside)
    sync(folder.parent)
    return aside


def numbered(folder: Path) -> dict[int, Path]:
    """The checkpoints of a run by iteration, whole or damaged; stray names and folders that are still empty are passed
    over."""
    found = ((iteration_of(path), path) for path in folder.glob("iter_*") if path.is_dir() and not is_reserved(path))
    return {number: path for number, path in sorted(found, key=str) if number is not None}
