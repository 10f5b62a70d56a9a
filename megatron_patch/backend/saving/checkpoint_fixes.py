"""Checkpoints that are complete or absent, and failures to load them that end the run.

A SIGKILL at any moment leaves either the old state or the new one. A checkpoint that was asked for and cannot be
loaded is an error: 0.19.2 ends with status 0 in eight places, or trains from random weights.
"""

from __future__ import annotations

import io
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from megatron_patch.backend.patching import replace, wrap
from megatron_patch.backend.saving.asynchronous import wait_for_last_save
from megatron_patch.backend.saving.errors import UnloadableCheckpoint
from megatron_patch.backend.saving.folders import partial_of, publish, set_aside
from megatron_patch.common.files import write_text
from megatron_patch.runs.folder import remove_leftovers


def fix_checkpoints() -> None:
    """Patch saving and loading. Call it once, before training."""
    from megatron.core import dist_checkpointing
    from megatron.training import checkpointing

    _save_beside_and_rename(dist_checkpointing)
    _fail_instead_of_exit(checkpointing)
    why = "0.19.2 writes latest_checkpointed_iteration.txt in place: a kill leaves it empty"
    replace(checkpointing, "maybe_msc", _AtomicTrackerFiles(checkpointing.maybe_msc), why=why)


def _save_beside_and_rename(dist_checkpointing: Any) -> None:
    import torch

    @wrap(dist_checkpointing, "save", why="0.19.2 writes into the final folder, over what is there")
    def save(original: Callable[..., Any], state_dict: Any, checkpoint_dir: str, *args: Any, **kwargs: Any) -> Any:
        wait_for_last_save()
        final = Path(checkpoint_dir)
        partial = partial_of(final)
        rank = torch.distributed.get_rank()
        if rank == 0:
            remove_leftovers(final.parent)
            partial.mkdir(parents=True)
        torch.distributed.barrier()
        request = original(state_dict, str(partial), *args, **kwargs)
        if request is not None:  # it is written while training goes on
            for write_metadata_json in request.finalize_fns:
                write_metadata_json()  # has a barrier, which is no work for a thread
            request.finalize_fns = [lambda: publish(partial, final)] if rank == 0 else []
            return request
        torch.distributed.barrier()
        if rank == 0:
            publish(partial, final)
        torch.distributed.barrier()
        return None


class _AtomicTrackerFiles:
    """Stands for the module's file functions; a file opened for writing appears whole or not at all."""

    def __init__(self, files: Any) -> None:
        self._files = files

    def __getattr__(self, name: str) -> Any:
        return getattr(self._files, name)

    def open(self, path: str, mode: str = "r") -> Any:
        """As the built-in; used by 0.19.2 for the tracker alone."""
        return _replaced_when_closed(Path(path)) if mode == "w" else self._files.open(path, mode)


@contextmanager
def _replaced_when_closed(path: Path) -> Iterator[IO[str]]:
    text = io.StringIO()
    yield text
    if path.is_dir():
        print(f"{path} is a folder: set aside as {set_aside(path).name}", flush=True)
    write_text(path, text.getvalue(), durable=True)


def _fail_instead_of_exit(checkpointing: Any) -> None:
    def fail(code: Any = None) -> NoReturn:
        raise UnloadableCheckpoint("load-failed")

    without_exit = types.SimpleNamespace(exit=fail)
    replace(checkpointing, "sys", without_exit, why="0.19.2 exits with 0 when a checkpoint is unreadable")

    @wrap(checkpointing, "read_metadata", why="0.19.2 reads the tracker even when --ckpt-step names the iteration")
    def read_metadata(original: Callable[..., Any], tracker: str) -> tuple[int, bool]:
        step = checkpointing.get_args().ckpt_step
        return (step, False) if step else original(tracker)

    @wrap(checkpointing, "_load_base_checkpoint", why="0.19.2 trains from random weights when there is no checkpoint")
    def load_base_checkpoint(original: Callable[..., Any], load_dir: str, *args: Any, **kwargs: Any) -> Any:
        result = original(load_dir, *args, **kwargs)
        if result[0] is None:
            raise UnloadableCheckpoint("load-nothing", folder=load_dir)
        return result


def allow_holes() -> None:
    """Save an optimizer in whose tensors frozen layers are missing: they are stored over all layers, [layers, ...].

    On one rank torch does not look whether a tensor is filled; bounds and overlaps are looked at all the same.
    """
    from torch.distributed.checkpoint import default_planner

    @wrap(default_planner, "_validate_global_plan", why="2.11 refuses, on several ranks, a tensor that is not filled")
    def validate(original: Callable[..., Any], plans: list[Any], metadata: Any) -> bool:
        return bool(original(plans[:1], metadata))
