"""Which checkpoints go."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_patch.backend.saving.checkpoint_fixes import remove_older


@pytest.mark.parametrize(("keep", "left"), [(1, [30, 40]), (2, [20, 30, 40]), (5, [5, 10, 20, 30, 40])])
def test_remove_older(tmp_path: Path, keep: int, left: list[int]) -> None:
    """What the tracker names stays, and what is newer: somebody may have gone back to an earlier iteration."""
    for iteration in (5, 10, 20, 30, 40):
        (tmp_path / f"iter_{iteration:07d}").mkdir()
        (tmp_path / f"iter_{iteration:07d}" / "metadata.json").touch()
    (tmp_path / "release").mkdir()
    tracker = tmp_path / "latest_checkpointed_iteration.txt"
    tracker.write_text("30")
    remove_older(tracker, keep)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"iter_{iteration:07d}" for iteration in left),
        tracker.name,
        "release",
    ]
