"""How srun is called; the rest of ENV=slurm is tested against a real Slurm in tests/cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from megatron_patch.launch.cluster.slurm import srun
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.plan import Plan

JOB = {"SLURM_JOB_NUM_NODES": "3", "SLURM_JOB_CPUS_PER_NODE": "96(x2),64"}


def test_one_task_with_all_cores(plan_of: Callable[..., Plan]) -> None:
    """The smallest node's cores, as a task has the same number everywhere."""
    command = srun(plan_of(ENV="slurm", MP_SLURM_NODES="3", MP_NPROC="1", GLOBAL_BATCH_SIZE="9"), JOB)
    assert command == ["srun", "--kill-on-bad-exit=1", "--ntasks-per-node=1", "--nodes=3", "--cpus-per-task=64"]


def test_a_container_sees_what_the_run_reads_and_writes(
    plan_of: Callable[..., Plan], idxmap: Callable[..., Path], world: Path, tmp_path: Path
) -> None:
    """The working directory covers what lies in it; data, output and tokenizer elsewhere are mounted too."""
    (tmp_path / "data").mkdir()
    data = idxmap(tmp_path / "data" / "text")
    changes = {"DATASET_PATH": str(data), "OUTPUT_BASEPATH": str(tmp_path / "out"), "MP_SLURM_IMAGE": "nemo:dev"}
    command = srun(plan_of(ENV="slurm", MP_NPROC="1", **changes), JOB)
    folders = sorted([REPOSITORY, world, tmp_path / "data", tmp_path / "out"])
    assert "--container-image=nemo:dev" in command
    assert f"--container-mounts={','.join(f'{folder}:{folder}' for folder in folders)}" in command
    assert f"--container-workdir={world}" in command
