"""What surrounds the 25 values: MP_* variables, this machine, its place among several, variables that are not ours."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from megatron_patch.common.machine import (
    Gpu,
    available_memory,
    installed_gpus,
    shared_memory,
    total_memory,
    usable_cores,
    visible_gpus,
)
from megatron_patch.common.messages import Message
from megatron_patch.launch.cluster.place import (
    RANK,
    Cluster,
    SlurmError,
    first_address,
    read_cluster,
    read_slurm,
    slurm_stage,
)
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.variables import read_variables


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What the launch takes from its surroundings beside the MP_* variables."""

    gpus: tuple[Gpu, ...]
    """Empty under MP_DEVICE=cpu."""
    cores: int
    memory_bytes: int
    """RAM that is free now."""
    memory_total_bytes: int
    """RAM of this machine, or of this container."""
    shared_memory_bytes: int
    """Of /dev/shm."""
    dry_run: bool
    emits: bool
    """The job is written down for Kubernetes: `--emit k8s`."""
    elsewhere: bool
    """The run is only prepared here (submitted to Slurm, written down for Kubernetes): GPUs here do not count."""
    wandb_key: bool
    """A key or an offline mode for Weights & Biases is set."""
    wandb_installed: bool
    mine: Mapping[str, str]
    """Variables of the user's that the ranks get as they are although we would have set them."""
    others: Mapping[str, str]
    """Variables of the user's that NCCL, Transformer Engine and torch's communication read."""
    machines: str
    """The variable and its value by which a scheduler says that there are several machines; empty where none does."""
    python_path: str
    inherited: frozenset[str]
    """Names of all variables of this process."""
    given: Mapping[str, str]
    """The MP_ variables that are set, as typed; an empty one counts as not set."""

    @property
    def only_plans(self) -> bool:
        """Nothing will be computed on this machine."""
        return self.dry_run or self.elsewhere


THREADS = "OMP_NUM_THREADS"
"""OpenMP takes all cores, with a line in a log, where it cannot read this one; an empty one counts as not set."""
KEPT_IF_SET = (
    THREADS,
    "OMP_WAIT_POLICY",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_NCCL_AVOID_RECORD_STREAMS",
    "NVTE_FWD_LAYERNORM_SM_MARGIN",
    "NVTE_BWD_LAYERNORM_SM_MARGIN",
    "UB_SKIPMC",
    "TOKENIZERS_PARALLELISM",
    "HF_HUB_OFFLINE",
)


READ_BY_LIBRARIES = re.compile("(NCCL|NVTE|UB|TORCH_NCCL|GLOO|NVSHMEM|CUBLAS|UCX)_.+|NVIDIA_TF32_OVERRIDE")
"""What changes how GPUs compute and talk, without a word."""
INFORMS = ("NCCL_VERSION", "CUBLAS_VERSION")
"""What NVIDIA's images say of themselves."""


def read_by_libraries(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of READ_BY_LIBRARIES that are set, by name."""
    found = (name for name in sorted(environ) if READ_BY_LIBRARIES.fullmatch(name) and name not in INFORMS)
    return {name: environ[name] for name in found if environ[name]}


def read_environment(environ: Mapping[str, str], *, device: str) -> tuple[Environment, list[Problem]]:
    """Look at this machine, and at the variables that are not ours.

    Args:
        environ: normally os.environ.
        device: MP_DEVICE; under `cpu` no GPU is looked for.
    """
    dry_run, problems = environ.get("DRY_RUN", "").lower(), []
    if dry_run not in ("", "0", "1", "true", "false"):
        problems.append(Problem("dry-run-value", "DRY_RUN"))
    threads = environ.get(THREADS, "")
    if threads and not re.fullmatch("[1-9][0-9]{0,3}(,[1-9][0-9]{0,3})*", threads):
        problems.append(Problem("omp-threads", THREADS))
    gpus = () if device == "cpu" else visible_gpus(installed_gpus(), environ.get("CUDA_VISIBLE_DEVICES"))
    environment = Environment(
        gpus=gpus,
        cores=usable_cores(),
        memory_bytes=available_memory(),
        memory_total_bytes=total_memory(),
        shared_memory_bytes=shared_memory(),
        dry_run=dry_run in ("1", "true"),
        emits=False,
        elsewhere=False,
        wandb_key=bool(environ.get("WANDB_API_KEY")) or environ.get("WANDB_MODE") == "offline",
        wandb_installed=find_spec("wandb") is not None,
        mine={name: environ[name] for name in KEPT_IF_SET if name in environ and (environ[name] or name != THREADS)},
        others={k: v for k, v in read_by_libraries(environ).items() if k not in KEPT_IF_SET},
        machines=_machines(environ),
        python_path=environ.get("PYTHONPATH", ""),
        inherited=frozenset(environ),
        given={name: value for name, value in environ.items() if name.startswith("MP_") and value},
    )
    return environment, problems


def _machines(environ: Mapping[str, str]) -> str:
    for name in ("WORLD_SIZE", "PET_NNODES", "SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES"):
        if re.fullmatch("[1-9][0-9]{0,5}", environ.get(name, "")) and environ[name] != "1":
            return f"{name}={environ[name]}"
    return ""


ANY_PLACE = {"RANK": "0", "MASTER_ADDR": "FIRST_MACHINE_OF_THE_JOB", "MASTER_PORT": "29500"}
"""What a job that is only written down cannot know."""


def environment_facts(
    environ: Mapping[str, str], env: str | None, dry_run: bool, emit: bool
) -> tuple[dict[str, Any], list[Problem]]:
    """By name, as `resolve.py` wants them (`mp_...`, `environment`, `cluster`), and what is wrong.

    Args:
        environ: normally os.environ.
        env: position 1, or None if it could not be read.
        dry_run: the flag; DRY_RUN=1 counts too.
        emit: a job is written down for other machines.
    """
    variables, problems = read_variables(environ)
    elsewhere = emit or (env == "slurm" and slurm_stage(environ) != RANK)
    environment, more = read_environment(environ, device="cpu" if elsewhere else variables.get("device", "auto"))
    environment = dataclasses.replace(
        environment, dry_run=environment.dry_run or dry_run, emits=emit, elsewhere=elsewhere
    )
    facts = {f"mp_{name}": value for name, value in variables.items()} | {"environment": environment}
    problems += more
    if env == "dsw":
        return facts | {"cluster": None}, problems
    if env is not None:
        cluster, more = _read_place(env, {**ANY_PLACE, **environ} if emit else environ, variables)
        problems += more
        facts |= {"cluster": cluster} if cluster is not None else {}
    return facts, problems


def _read_place(
    env: str, environ: Mapping[str, str], variables: Mapping[str, Any]
) -> tuple[Cluster | None, list[Problem]]:
    if env == "dlc":
        return read_cluster(environ, nproc=variables.get("nproc"))
    address = None
    if slurm_stage(environ) == RANK and not environ.get("MASTER_ADDR"):
        try:
            address = first_address(environ.get("SLURM_STEP_NODELIST", ""))
        except SlurmError as error:
            return None, Problem.of(error, "MASTER_ADDR", expected=Message("expect-first-node"))
    return read_slurm(environ, nodes=variables.get("slurm_nodes"), gpus=variables.get("slurm_gpus"), address=address)
