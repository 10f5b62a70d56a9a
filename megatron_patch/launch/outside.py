"""The facts that come from outside the 25 values: MP_* variables, this machine, its place among several."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from megatron_patch.launch.cluster.scontrol import SlurmError, first_address
from megatron_patch.launch.cluster.variables import RANK, Cluster, read_cluster, read_slurm, slurm_stage
from megatron_patch.launch.environment import read_environment
from megatron_patch.launch.knobs import read_knobs
from megatron_patch.launch.problems import Problem

ANY_PLACE = {"RANK": "0", "MASTER_ADDR": "FIRST_MACHINE_OF_THE_JOB", "MASTER_PORT": "29500"}
"""What a job that is only written down cannot know."""


def facts_from_outside(
    environ: Mapping[str, str], env: str | None, dry_run: bool, emit: bool = False
) -> tuple[dict[str, Any], list[Problem]]:
    """By name, as `resolve.py` wants them (`mp_...`, `environment`, `cluster`), and what is wrong.

    Args:
        environ: normally os.environ.
        env: position 1, or None if it could not be read.
        dry_run: the flag; DRY_RUN=1 counts too.
        emit: a job is written down for other machines.
    """
    knobs, problems = read_knobs(environ)
    elsewhere = emit or (env == "slurm" and slurm_stage(environ) != RANK)
    environment, more = read_environment(environ, device="cpu" if elsewhere else knobs.get("device", "auto"))
    environment = dataclasses.replace(environment, dry_run=environment.dry_run or dry_run, elsewhere=elsewhere)
    facts = {f"mp_{name}": value for name, value in knobs.items()} | {"environment": environment}
    problems += more
    if env == "dsw":
        return facts | {"cluster": None}, problems
    if env is not None:
        cluster, more = _read_place(env, {**ANY_PLACE, **environ} if emit else environ, knobs)
        problems += more
        facts |= {"cluster": cluster} if cluster is not None else {}
    return facts, problems


def _read_place(env: str, environ: Mapping[str, str], knobs: Mapping[str, Any]) -> tuple[Cluster | None, list[Problem]]:
    if env == "dlc":
        return read_cluster(environ, nproc=knobs.get("nproc"))
    address = None
    if slurm_stage(environ) == RANK and not environ.get("MASTER_ADDR"):
        try:
            address = first_address(environ.get("SLURM_STEP_NODELIST", ""))
        except SlurmError as error:
            return None, [Problem(names=("MASTER_ADDR",), what=str(error), valid="the address of the job's first node")]
    return read_slurm(environ, nodes=knobs.get("slurm_nodes"), gpus=knobs.get("slurm_gpus"), address=address)
