"""A resume whose checkpoint turns out to be damaged takes the newest good one instead, and says so.

The launcher passes over what is visibly broken; this is about content, which ranks see while they read. All ranks
agree after each read, so that none goes on alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from megatron_patch.backend.patching import wrap
from megatron_patch.backend.saving import folders
from megatron_patch.backend.saving.asynchronous import thread_group
from megatron_patch.backend.saving.errors import DamagedCheckpoint, UnloadableCheckpoint
from megatron_patch.backend.saving.optimizer_shards import forget_unfinished_load
from megatron_patch.common.errors import messages_of
from megatron_patch.common.messages import Message, localized
from megatron_patch.runs.recovery import Event, note_event
from megatron_patch.runs.stored_chunks import FILE, find_structural_damage

Say = Callable[[str], object]


def fall_back(args: Any, say: Say) -> None:
    """Watch over Megatron's loading. Call it once, with Megatron's arguments, before training.

    Args:
        say: shows a line to the user, on the rank that speaks.
    """
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing import serialization
    from megatron.core.dist_checkpointing.strategies.torch import TorchDistLoadShardedStrategy
    from megatron.training import training

    for owner, name in (
        (dist_checkpointing, "load_common_state_dict"),
        (serialization, "load_common_state_dict"),
        (TorchDistLoadShardedStrategy, "load"),
    ):
        _agree(owner, name)

    @wrap(training, "load_checkpoint", why="0.19.2 ends, or trains on damaged numbers, where a checkpoint is damaged")
    def load_checkpoint(original: Callable[..., Any], *rest: Any, **kwargs: Any) -> Any:
        while True:
            try:
                _set_broken_ones_aside(args, say)
                _say_if_unverified(args, say)
                loaded = original(*rest, **kwargs)
                _check_iteration(args, loaded[0])
                return loaded
            except DamagedCheckpoint as damage:
                if not _is_resuming(args):
                    raise
                forget_unfinished_load()
                args.ckpt_step = _next_best(Path(args.load), args.ckpt_step, damage, say)


def _is_resuming(args: Any) -> bool:
    """Whether the run goes on from its own checkpoints; nobody renames those of others, or begins with older weights
    than were asked for."""
    own = args.save and args.load and os.path.realpath(args.save) == os.path.realpath(args.load)
    return bool(own and args.ckpt_step and not args.finetune)


def _set_broken_ones_aside(args: Any, say: Say) -> None:
    """Newer checkpoints than the one that is resumed, if they are damaged: the run writes them anew."""
    if not _is_resuming(args):
        return
    lines: list[Any] = [[]]
    if torch.distributed.get_rank() == 0:
        for number, path in folders.numbered(Path(args.load)).items():
            if number <= args.ckpt_step:
                continue
            if damage := find_structural_damage(path):
                lines[0].append(Message("fallback-set-aside", damage=damage[0], aside=folders.set_aside(path).name))
                note_event(Path(args.load).parent, Event.of("fallback", lines[0][-1], iteration=number))
    torch.distributed.broadcast_object_list(lines, src=0, group=thread_group())
    for line in lines[0]:
        say(line.localized())


def _check_iteration(args: Any, iteration: int) -> None:
    """Raise for a checkpoint without checksums whose folder was renamed."""
    if _is_resuming(args) and iteration != args.ckpt_step:
        folder = Path(args.load) / f"iter_{args.ckpt_step:07d}"
        raise DamagedCheckpoint.at(folder, "folder-renamed", iteration=iteration)


def _say_if_unverified(args: Any, say: Say) -> None:
    if args.load and args.ckpt_step:
        folder = Path(args.load) / f"iter_{args.ckpt_step:07d}"
        if folder.is_dir() and not (folder / FILE).exists():
            say(localized("read-unverified", folder=folder.name, file=FILE))


def _agree(owner: Any, name: str) -> None:
    """Have a function of all ranks fail on all of them where it fails on one."""

    @wrap(owner, name, why="0.19.2 lets the other ranks wait for one that could not read")
    def agreed(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result, error = None, None
        try:
            result = original(*args, **kwargs)
        except Exception as caught:
            error = caught
        if torch.distributed.is_initialized():
            _compare(error)
        if error is not None:
            raise error
        return result


def _compare(error: Exception | None) -> None:
    """Raise what any rank met, the same on all ranks; nothing if all went well."""
    mine = None if error is None else (isinstance(error, DamagedCheckpoint), messages_of(error))
    everybodys: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everybodys, mine, group=thread_group())
    failed = {rank: found for rank, found in enumerate(everybodys) if found is not None}
    if not failed:
        return
    if all(damaged for damaged, _ in failed.values()):
        raise DamagedCheckpoint.of(list(dict.fromkeys(one for _, what in failed.values() for one in what))) from error
    if error is None or isinstance(error, DamagedCheckpoint):
        rank, what = next((rank, what) for rank, (damaged, what) in failed.items() if not damaged)
        raise UnloadableCheckpoint("on-rank", rank=rank, what=what) from error


def _next_best(checkpoints: Path, step: int, damage: DamagedCheckpoint, say: Say) -> int:
    """Set one checkpoint aside, and give the iteration of the newest of the others that looks sound.

    Raises:
        UnloadableCheckpoint: there is none.
    """
    decided: list[Any] = [None, None]
    if torch.distributed.get_rank() == 0:
        decided = list(_decide(checkpoints, step))
    torch.distributed.broadcast_object_list(decided, src=0, group=thread_group())
    best, aside = decided
    if best is None:
        raise UnloadableCheckpoint("none-is-whole", checkpoint=f"iter_{step:07d}", damage=damage, folder=checkpoints)
    count = len(list(checkpoints.glob(folders.DAMAGED_PREFIX + "*")))
    lines = [Message("fallback-damaged", checkpoint=f"iter_{step:07d}", damage=damage)]
    lines.append(Message("fallback-goes-on", aside=aside, count=count, best=best))
    for line in lines:
        say(line.localized())
    if torch.distributed.get_rank() == 0:
        both = Message("fallback-event", first=lines[0], second=lines[1])
        note_event(checkpoints.parent, Event.of("fallback", both, iteration=step))
    return int(best)


def _decide(checkpoints: Path, step: int) -> tuple[int | None, str | None]:
    found = folders.numbered(checkpoints)
    sound = [number for number, path in found.items() if number != step and not find_structural_damage(path)]
    if not sound:
        return None, None
    return max(sound), folders.set_aside(found[step]).name
