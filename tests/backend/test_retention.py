"""Which checkpoints go."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_patch.backend.saving.folders import remove
from megatron_patch.backend.saving.retention import too_old
from megatron_patch.runs.folder import remove_leftovers


@pytest.mark.parametrize(("keep", "left"), [(1, [30, 40]), (2, [20, 30, 40]), (5, [5, 10, 20, 30, 40])])
def test_remove_older(tmp_path: Path, keep: int, left: list[int]) -> None:
    """What the tracker names stays, and what is newer: somebody may have gone back to an earlier iteration."""
    for iteration in (5, 10, 20, 30, 40):
        (tmp_path / f"iter_{iteration:07d}").mkdir()
        (tmp_path / f"iter_{iteration:07d}" / "metadata.json").touch()
    (tmp_path / "iter_0000007").touch()
    strays = ["iter_0000007", "iter_0000025", "iter_99999999999999999999", "release"]  # 25: a save was killed
    for stray in strays[1:]:
        (tmp_path / stray).mkdir()
    tracker = tmp_path / "latest_checkpointed_iteration.txt"
    tracker.write_text("30")
    for folder in too_old(tracker, keep):
        remove(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(f"iter_{iteration:07d}" for iteration in left), tracker.name, *strays]
    )


def test_a_link_to_a_checkpoint_elsewhere_goes_alone(tmp_path: Path) -> None:
    """An older checkpoint was moved to another disk, or a branch of a run began from a link: the run went down."""
    elsewhere, checkpoints = tmp_path / "elsewhere", tmp_path / "checkpoints"
    elsewhere.mkdir()
    (elsewhere / "metadata.json").touch()
    checkpoints.mkdir()
    (checkpoints / "iter_0000010").symlink_to(elsewhere)
    remove(checkpoints / "iter_0000010")
    (checkpoints / ".incomplete_old_iter_0000020").symlink_to(elsewhere)  # a kill between the two steps
    remove_leftovers(checkpoints)
    assert list(checkpoints.iterdir()) == []
    assert (elsewhere / "metadata.json").exists()
