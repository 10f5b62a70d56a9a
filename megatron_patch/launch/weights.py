"""PRETRAIN_CHECKPOINT_PATH as Megatron can load it; what a path holds is told by checkpoint/contents.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.contents import (
    HUGGING_FACE,
    PER_RANK,
    Contents,
    DamagedPlan,
    look,
    own_config,
    read_config,
)
from megatron_patch.checkpoint.errors import CheckpointError
from megatron_patch.peft.base import FILE as RECORD
from megatron_patch.peft.folder import CONFIG


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where a run's first weights come from."""

    kind: str
    """`none` (random), `hf` (safetensors) or `mcore` (torch_dist)."""
    path: str = ""
    """The folder that `--hf-checkpoint` or `--load` gets, absolute; empty for `none`."""
    folder: str = ""
    """The weights themselves, absolute: of a Megatron checkpoint one iteration or `release`."""
    step: int | None = None
    """mcore: the iteration to load; None leaves it to the tracker, which says `release` or 0."""
    config: Mapping[str, Any] | None = None
    """config.json, or what an earlier run's plan.json says in its words; None where there is neither."""
    origin: str = ""
    """The file that it comes from."""
    homes: tuple[str, ...] = ()
    """Folders in which the tokenizer may lie."""


def read_weights(path: str) -> Weights:
    """Recognise PRETRAIN_CHECKPOINT_PATH.

    Raises:
        CheckpointError: nothing there, or something that Megatron cannot start from.
    """
    if path == "none":
        return Weights(kind="none")
    typed = Path(path)
    if (typed / CONFIG).is_file() and not (typed / "config.json").is_file():
        raise CheckpointError.at(typed, "checkpoint-adapters")
    found = look(path)
    folder = str(found.path)
    if found.kind == HUGGING_FACE:
        origin = f"{folder}/config.json"
        return Weights(
            kind="hf", path=folder, folder=folder, config=read_config(found.path), origin=origin, homes=(folder,)
        )
    if found.kind == PER_RANK:
        raise CheckpointError.at(found.path, "checkpoint-per-rank", folder=found.path.name)
    return _torch_dist(found)


def _torch_dist(found: Contents) -> Weights:
    """Megatron finds release/ and iter_0000000/ only through the tracker beside them: --ckpt-step 0 counts as unset."""
    name = found.path.name
    if (found.root / RECORD).is_file():
        raise CheckpointError.at(found.path, "checkpoint-adapters")
    if found.iteration is None and name != "release":
        raise CheckpointError.at(found.path, "checkpoint-name")
    if not found.iteration and not found.tracked:
        pointed = name if found.iteration is None else "0"
        raise CheckpointError.at(found.path, "checkpoint-tracker", folder=name, pointed=pointed)
    try:
        own = own_config(found.path)
    except DamagedPlan:
        own = None
    homes = [str(found.root), str(found.path), *([str(own.home)] if own else [])]
    return Weights(
        kind="mcore",
        path=str(found.root),
        folder=str(found.path),
        step=found.iteration or None,
        config=own.config if own else None,
        origin=str(own.origin) if own else "",
        homes=tuple(dict.fromkeys(homes)),
    )
