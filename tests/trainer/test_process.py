"""What a run's process does for others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from megatron_patch.launch.resume import is_written

from .harness import REPOSITORY

CLAIM_AND_FORK = """
import os, sys, time
from pathlib import Path
from megatron_patch.trainer.process import claim

claim(Path(sys.argv[1]))
if child := os.fork():
    print(child, flush=True)
    sys.stdin.read()
    os._exit(0)
time.sleep(60)
"""


def test_a_folder_is_free_when_its_run_is_gone(tmp_path: Path) -> None:
    """Also while a data loader of that run, which shares its files, still lives."""
    (tmp_path / "logs").mkdir()
    run = subprocess.Popen(
        [sys.executable, "-c", CLAIM_AND_FORK, str(tmp_path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None and run.stdin is not None
    child = int(run.stdout.readline())
    try:
        assert is_written(str(tmp_path))
        run.stdin.close()
        run.wait(timeout=30)
        assert Path(f"/proc/{child}").exists()
        assert not is_written(str(tmp_path))
    finally:
        os.kill(child, signal.SIGKILL)
