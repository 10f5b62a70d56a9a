"""Where a run is started: this machine, and the variables that are not ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from megatron_patch.common.machine import (
    Gpu,
    available_memory,
    installed_gpus,
    total_memory,
    usable_cores,
    visible_gpus,
)
from megatron_patch.launch.problems import Problem


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
    dry_run: bool
    elsewhere: bool
    """The run is only prepared here (submitted to Slurm, written down for Kubernetes): GPUs here do not count."""
    wandb_key: bool
    """A key or an offline mode for Weights & Biases is set."""
    wandb_installed: bool
    mine: Mapping[str, str]
    """Variables of the user's that the ranks get as they are although we would have set them."""
    python_path: str
    inherited: frozenset[str]
    """Names of all variables of this process."""

    @property
    def only_plans(self) -> bool:
        """Nothing will be computed on this machine."""
        return self.dry_run or self.elsewhere


KEPT_IF_SET = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_NCCL_AVOID_RECORD_STREAMS",
    "NVTE_FWD_LAYERNORM_SM_MARGIN",
    "NVTE_BWD_LAYERNORM_SM_MARGIN",
    "UB_SKIPMC",
    "TOKENIZERS_PARALLELISM",
    "HF_HUB_OFFLINE",
)


def read_environment(environ: Mapping[str, str], *, device: str) -> tuple[Environment, list[Problem]]:
    """Look at this machine, and at the variables that are not ours.

    Args:
        environ: normally os.environ.
        device: MP_DEVICE; under `cpu` no GPU is looked for.
    """
    dry_run, problems = environ.get("DRY_RUN", "").lower(), []
    if dry_run not in ("", "0", "1", "true", "false"):
        problems.append(Problem(names=("DRY_RUN",), what="neither 0 nor 1", valid="0, 1"))
    gpus = () if device == "cpu" else visible_gpus(installed_gpus(), environ.get("CUDA_VISIBLE_DEVICES"))
    environment = Environment(
        gpus=gpus,
        cores=usable_cores(),
        memory_bytes=available_memory(),
        memory_total_bytes=total_memory(),
        dry_run=dry_run in ("1", "true"),
        elsewhere=False,
        wandb_key=bool(environ.get("WANDB_API_KEY")) or environ.get("WANDB_MODE") == "offline",
        wandb_installed=find_spec("wandb") is not None,
        mine={name: environ[name] for name in KEPT_IF_SET if name in environ},
        python_path=environ.get("PYTHONPATH", ""),
        inherited=frozenset(environ),
    )
    return environment, problems
