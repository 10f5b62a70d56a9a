"""What a killed launcher leaves in /tmp goes with the next start, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_patch.runs.rank_notes import OWNER, folder_of_ranks

HOLDS = "import time; from megatron_patch.runs.rank_notes import folder_of_ranks as made\nwith made() as folder: "
HOLDS += "print(folder, flush=True); time.sleep(600)"


def held(tmp: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that has such a folder, and the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS], env=os.environ | {"TMPDIR": str(tmp)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_only_folders_of_dead_launchers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    torchs = tmp_path / "torchelastic_abc"
    (torchs / "attempt_0").mkdir(parents=True)
    killed, left = held(tmp_path)
    living, kept = held(tmp_path)
    try:
        assert left.is_dir() and kept.is_dir() and left != kept
        (left / "heartbeats").mkdir()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.is_dir()
        (tmp_path / "torchelastic_link").symlink_to(left)
        with folder_of_ranks() as mine:
            assert {path.name for path in mine.iterdir()} == {OWNER}
            assert not left.exists() and kept.is_dir() and torchs.is_dir() and mine.is_dir()
        assert not mine.exists()
    finally:
        living.kill()
        living.wait()
    with folder_of_ranks():
        assert not kept.exists() and torchs.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_a_folder_of_another_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed, left = held(tmp_path)
    killed.kill()
    killed.wait()
    os.chown(left, 12345, -1)
    with folder_of_ranks():
        assert left.is_dir()
