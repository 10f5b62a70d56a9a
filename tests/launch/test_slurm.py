"""How srun is called; the rest of ENV=slurm is tested against a real Slurm in tests/cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_patch.launch.cluster.slurm import srun
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.driver import make_plan
from megatron_patch.launch.plan import Plan
from megatron_patch.runs import status as run_status

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


def batch_job(world: Path, output: Path, tools: dict[str, str]) -> tuple[int, str, str]:
    """The batch script's own process, with Slurm's commands as scripts: its status, its screen, what was requeued."""
    folder = output.parent / "bin"
    folder.mkdir()
    for name, text in tools.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    typed = "slurm tiny 1 8 1e-3 1e-4 128 128 fp32 1 1 1 false false true false false false 100 text none none 10240 0"
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node1", "SLURM_JOB_NUM_NODES": "1"}
    job["REQUEUED"] = str(folder / "log")
    environ = {"PATH": f"{folder}:/usr/bin:/bin", "MP_DEVICE": "cpu", "MP_TOKENIZER_PATH": "tokenizer", "MP_LANG": "en"}
    command = [sys.executable, "-m", "megatron_patch.launch", *typed.split(), str(output)]
    ours = environ | job | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=ours, cwd=world, capture_output=True, text=True, timeout=100)
    log = folder / "log"
    return done.returncode, done.stdout + done.stderr, log.read_text() if log.exists() else ""


SCONTROL = 'case $2 in hostnames) echo node1;; node) echo NodeAddr=127.0.0.1;; *) echo "$*" >> "$REQUEUED";; esac'
WARNED = "trap : USR1; kill -USR1 $PPID; sleep 0.2"
"""A step that ends after Slurm's early warning."""


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_that_has_finished_is_not_requeued(world: Path, tmp_path: Path, finished: bool) -> None:
    output = tmp_path / "out"
    output.mkdir()
    srun = f"{WARNED}; cp {tmp_path}/ended.json {output}/" if finished else WARNED
    run_status.record_end(tmp_path, "finished", None, 9)
    status, said, requeued = batch_job(world, output, {"scontrol": SCONTROL, "srun": srun})
    assert status == 0, said
    assert requeued == ("" if finished else "requeue 7\n")


def test_a_job_on_a_machine_without_srun(world: Path, tmp_path: Path) -> None:
    status, said, _ = batch_job(world, tmp_path / "out", {"scontrol": SCONTROL})
    assert status == 1
    assert "srun is not installed here" in said
    assert "Traceback" not in said


def test_what_no_batch_script_can_say_stands_beside_the_rest(
    values: Callable[..., list[str]], surroundings: Callable[..., dict[str, str]]
) -> None:
    bad = surroundings(MP_SLURM_ARGS="--comment='open", MP_SLURM_TIME='1:00"', MP_SLURM_NODES="1", MP_SLURM_GPUS="8")
    plan, _, problems = make_plan(values(ENV="slurm", TP="three"), bad, dry_run=True)
    assert plan is None
    assert {"not-whole", "slurm-args-form", "slurm-path"} <= {problem.code for problem in problems}
