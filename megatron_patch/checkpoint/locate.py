"""Finding what a checkpoint path means. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from megatron_patch.checkpoint.errors import CheckpointError

RELEASE, TRACKER = "release", "latest_checkpointed_iteration.txt"


def resolve_iteration(path: Path, iteration: int | None = None) -> Path:
    """The torch_dist folder that a checkpoint path means: the path itself, or what its tracker says.

    Args:
        path: a checkpoint folder with a tracker, a training's output folder, or one iteration's folder.
        iteration: another than the newest.
    Raises:
        CheckpointError: there is none.
    """
    if (path / ".metadata").is_file():
        return path
    root = (
        path / "checkpoints" if not (path / TRACKER).is_file() and (path / "checkpoints" / TRACKER).is_file() else path
    )
    if iteration is not None:
        found = root / f"iter_{iteration:07d}"
    else:
        try:
            said = (root / TRACKER).read_text().strip()
        except FileNotFoundError:
            raise CheckpointError(f"{path}: not a Megatron checkpoint: no {TRACKER} and no .metadata") from None
        if said != RELEASE and not said.isdigit():
            raise CheckpointError(f"{root / TRACKER}: says {said!r}; a number or {RELEASE!r} is needed")
        found = root / (RELEASE if said == RELEASE else f"iter_{int(said):07d}")
    if not (found / ".metadata").is_file():
        have = sorted(p.parent.name for p in root.glob("*/.metadata"))
        old = next(found.glob("mp_rank_*"), None) if found.is_dir() else None
        hint = "; it has per-rank files of the old format, which only Megatron reads" if old else ""
        raise CheckpointError(f"{found}: not a torch_dist checkpoint{hint}; there are: {', '.join(have) or 'none'}")
    return found
