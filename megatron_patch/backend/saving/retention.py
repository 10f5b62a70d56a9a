"""MP_KEEP_CHECKPOINTS: older checkpoints go when the newest one has been read back and found to be what was written.

Each rank reads back the files that it wrote while training goes on: one more read of every byte of a checkpoint, and
none where nothing is to be removed. A save that comes before that is done waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from megatron_patch.backend.patching import wrap
from megatron_patch.backend.saving import asynchronous, folders
from megatron_patch.common.errors import messages_of
from megatron_patch.common.messages import Message, localized
from megatron_patch.runs.stored_chunks import ChunkError, find_damage, read_checksums

TRACKER = "latest_checkpointed_iteration.txt"
PROTECTED: list[Callable[[], set[int]]] = []
"""Each gives iterations that are not to be removed now, on rank 0."""


def protected(*, but: Callable[[], set[int]] | None = None) -> set[int]:
    """Iterations that somebody still needs; `but`: without this one's."""
    return set().union(*(ask() for ask in PROTECTED if ask != but))


def keep_newest(count: int, say: Callable[[str], object]) -> None:
    """Keep only so many checkpoints of this run. Call it once, before training.

    Args:
        say: shows a line to the user, on the rank that speaks.
    """
    from megatron.training import checkpointing, training

    def prune(newest: Path) -> None:
        remove_when_verified(newest, count, say)

    asynchronous.AFTERWARDS.append(prune)

    @wrap(training, "save_checkpoint", why="0.19.2 keeps all checkpoints")
    def save_checkpoint(original: Callable[..., Any], iteration: int, *args: Any, **kwargs: Any) -> Any:
        original(iteration, *args, **kwargs)
        run = checkpointing.get_args()
        if not run.async_save:
            newest = Path(checkpointing.get_checkpoint_name(run.save, iteration, return_base_dir=True))
            asynchronous.do_meanwhile(lambda: prune(newest))


def remove_when_verified(newest: Path, keep: int, say: Callable[[str], object]) -> None:
    """Read `newest` back, each rank its own files, and remove the oldest. To be called by all ranks, in any thread."""
    rank, group = torch.distributed.get_rank(), asynchronous.thread_group()
    doomed = too_old(newest.parent / TRACKER, keep) if rank == 0 else []
    wanted = [bool(doomed)]
    torch.distributed.broadcast_object_list(wanted, src=0, group=group)
    if not wanted[0]:
        return
    everybodys: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everybodys, _read_back(newest, rank), group=group)
    damage = [line for lines in everybodys for line in lines]
    if damage:
        say(localized("older-kept", damage=damage[0], count=len(damage)))
        return
    for folder in doomed:
        folders.remove(folder)


def remove_without_others(checkpoints: Path, keep: int, say: Callable[[str], object]) -> None:
    """The same by one process alone, when training is over and what protected older ones is done."""
    doomed = too_old(checkpoints / TRACKER, keep)
    if not doomed:
        return
    newest = checkpoints / f"iter_{int((checkpoints / TRACKER).read_text()):07d}"
    try:
        checksums = read_checksums(newest)
        damage = list(find_damage(newest, checksums, threads=asynchronous.FILES)) if checksums else []
    except (ChunkError, OSError) as error:
        damage = [*messages_of(error)]
    if damage:
        say(localized("older-kept", damage=damage[0], count=len(damage)))
        return
    for folder in doomed:
        folders.remove(folder)


def _read_back(newest: Path, rank: int) -> list[Message]:
    """What is wrong with the files that this rank wrote."""
    try:
        checksums = read_checksums(newest)
        assert checksums is not None  # every checkpoint of this process has them
        files = [name for name in checksums.sizes() if name.startswith(f"__{rank}_")]
        return list(find_damage(newest, checksums, files=files, threads=asynchronous.FILES))
    except (ChunkError, OSError) as error:
        return [*messages_of(error)]


def too_old(tracker: Path, keep: int, needed: set[int] | None = None) -> list[Path]:
    """The checkpoints to remove: the one that the tracker names stays, those of later iterations, and those of
    `needed` (all that is protected, where it is not given)."""
    named = tracker.read_text().strip()
    checkpoints = folders.numbered(tracker.parent)
    older = [number for number in checkpoints if named.isdecimal() and number < int(named)]
    doomed = set(sorted(older)[: 1 - keep or None]) - (protected() if needed is None else needed)
    return [checkpoints[number] for number in sorted(doomed)]
