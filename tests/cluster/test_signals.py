"""torchrun behind a launcher of several machines: what a terminal or Slurm sends to both is one signal."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from megatron_patch.runs.restart import ASKS_RANKS
from megatron_patch.runs.status import INHERITED

from ..trainer.harness import REPOSITORY, environment

RANK = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print("rank is up", flush=True)
signal.sigwait({signal.SIGTERM})
print("rank was asked", flush=True)
sys.stdin.readline()
print("rank has saved", flush=True)
"""


def test_only_the_launcher_asks_the_ranks_to_end(tmp_path: Path) -> None:
    """Whatever else comes, before or after it and however late, neither asks nor ends them at once."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    words = [sys.executable, "-m", "megatron_patch.torchrun", "--nproc-per-node=1", "--master-port=0", str(script)]
    job = subprocess.Popen(
        words, cwd=REPOSITORY, env=environment() | {INHERITED: "held on node 0"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert job.stdin is not None and job.stdout is not None
    try:
        assert job.stdout.readline() == "rank is up\n"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            job.send_signal(number)
        job.send_signal(ASKS_RANKS)
        assert job.stdout.readline() == "rank was asked\n"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            job.send_signal(number)
        rest, _ = job.communicate("save\n", timeout=300)
    finally:
        job.kill()
    assert rest == "rank has saved\n" and job.returncode == 128 + signal.SIGTERM
