"""What a job that is written down for other machines needs: for Kubernetes (`--emit k8s`) and for Slurm."""

from __future__ import annotations

from pathlib import Path

from megatron_patch.common.files import real_path
from megatron_patch.launch.cluster import kubernetes, slurm
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import Findings


def check_kubernetes_env(*, environment: Environment, env: str) -> Findings:
    """Its pods are those of ENV=dlc."""
    if environment.emits and env != "dlc":
        yield Problem("k8s-env", "ENV")


def check_kubernetes(*, environment: Environment, mp_k8s_image: str | None, mp_k8s_volumes: str | None) -> Findings:
    """An image, and claims with their folders."""
    if not environment.emits:
        return
    if mp_k8s_image is None:
        yield Problem("k8s-image", "MP_K8S_IMAGE")
    wrong = [word for word in (mp_k8s_volumes or "").split() if not kubernetes.VOLUME.fullmatch(word)]
    yield from (Problem("k8s-volume", "MP_K8S_VOLUMES", word=word) for word in wrong)


def check_kubernetes_name(*, environment: Environment, mp_k8s_name: str | None, output_basepath: str) -> Findings:
    """A name that Kubernetes takes."""
    if not environment.emits:
        return
    name = mp_k8s_name or kubernetes.label_of(real_path(Path(output_basepath)))
    if not kubernetes.NAME.fullmatch(name) or len(name) > 63:
        yield Problem("k8s-name", "MP_K8S_NAME", name=name)


def check_batch_script(
    *,
    environment: Environment,
    env: str,
    output_basepath: str,
    mp_slurm_account: str | None,
    mp_slurm_partition: str | None,
    mp_slurm_time: str | None,
    mp_slurm_args: str | None,
) -> Findings:
    """No #SBATCH line can hold some characters: what follows a line end would be another line of the script."""
    if env != "slurm" or not environment.elsewhere:
        return
    values = {
        "OUTPUT_BASEPATH": str(real_path(Path(output_basepath))),
        "the working directory": str(Path.cwd()),
        "MP_SLURM_ACCOUNT": mp_slurm_account or "",
        "MP_SLURM_PARTITION": mp_slurm_partition or "",
        "MP_SLURM_TIME": mp_slurm_time or "",
    }
    try:
        values["MP_SLURM_ARGS"] = " ".join(slurm.words_of(mp_slurm_args))
    except ValueError as error:
        yield Problem("slurm-args-form", "MP_SLURM_ARGS", error=error)
    yield from (Problem("slurm-path", name) for name, value in values.items() if slurm.UNQUOTABLE.search(value))
