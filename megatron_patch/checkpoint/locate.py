"""Finding what a checkpoint path means. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from megatron_patch.checkpoint.errors import CheckpointError

RELEASE, TRACKER = "release", "latest_checkpointed_iteration.txt"
PER_RANK_FILE = "model_optim_rng.pt"
"""Of the old format: one in each `mp_rank_XX_YYY`."""


def is_per_rank(folder: Path) -> bool:
    """Whether a folder is an iteration in Megatron's old format."""
    return any(folder.glob(f"mp_rank_*/{PER_RANK_FILE}"))


def is_iteration(folder: Path) -> bool:
    """Whether a folder holds the weights of one iteration, in either format."""
    return (folder / ".metadata").is_file() or is_per_rank(folder)


def resolve_iteration(path: Path, iteration: int | None = None) -> Path:
    """The folder of weights that a checkpoint path means: the path itself, or what its tracker says.

    Args:
        path: a checkpoint folder with a tracker, a training's output folder, or one iteration's folder.
        iteration: another than the newest.
    Raises:
        CheckpointError: there is none.
    """
    if is_iteration(path):
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
    if not is_iteration(found):
        have = sorted(folder.name for folder in root.iterdir() if folder.is_dir() and is_iteration(folder))
        raise CheckpointError(f"{found}: not a torch_dist checkpoint; there are: {', '.join(have) or 'none'}")
    return found
