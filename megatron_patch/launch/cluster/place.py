"""This machine's place among several: what ENV=dlc and ENV=slurm read from their surroundings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from megatron_patch.common.errors import UserError
from megatron_patch.common.values import Kind, ValueProblem, text, whole
from megatron_patch.launch.problems import Problem

GPUS_VARIABLE = "KUBERNETES_CONTAINER_RESOURCE_GPU"


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One machine among `nodes`; rank 0 hosts the rendezvous."""

    nodes: int
    node_rank: int
    master_addr: str
    master_port: int
    gpus_per_node: int | None
    """Processes of each machine; None where MP_NPROC or the machine itself says it."""
    gpus_said_by: str = GPUS_VARIABLE
    """The variable that `gpus_per_node` comes from, for messages."""


CLUSTER_VARIABLES: Mapping[str, tuple[str, Kind]] = {
    "WORLD_SIZE": ("nodes", whole(1, 65536)),
    "RANK": ("node_rank", whole(0, 65535)),
    "MASTER_ADDR": ("master_addr", text("expect-host")),
    "MASTER_PORT": ("master_port", whole(1, 65535)),
    GPUS_VARIABLE: ("gpus_per_node", whole(1, 4096)),
}

TORCHRUN_VARIABLES = {
    "WORLD_SIZE": "PET_NNODES",
    "RANK": "PET_NODE_RANK",
    "MASTER_ADDR": "PET_MASTER_ADDR",
    "MASTER_PORT": "PET_MASTER_PORT",
    GPUS_VARIABLE: "PET_NPROC_PER_NODE",
}
"""torchrun's own names, which Kubeflow's operators set: a TrainJob these alone, a PyTorchJob beside the others."""


def read_cluster(environ: Mapping[str, str], *, nproc: int | None) -> tuple[Cluster | None, list[Problem]]:
    """Read what ENV=dlc needs.

    Args:
        nproc: MP_NPROC, which takes the place of KUBERNETES_CONTAINER_RESOURCE_GPU.
    Returns:
        The cluster, None if something is wrong; and what is wrong.
    """
    values: dict[str, Any] = {}
    problems = []
    for name, (fact, kind) in CLUSTER_VARIABLES.items():
        if fact == "gpus_per_node" and nproc is not None:
            values[fact] = None
            continue
        source = _source(name, environ)
        if source == "PET_NPROC_PER_NODE" and environ[source] in ("auto", "gpu"):  # every GPU of the machine
            values[fact] = None
            continue
        try:
            values[fact] = kind.parse(environ.get(source, ""))
        except ValueProblem as error:
            if environ.get(source):
                problems += Problem.of(error, source, expected=kind.expects)
            else:
                code = "dlc-gpus-missing" if name == GPUS_VARIABLE else "dlc-variable-missing"
                problems.append(Problem(code, source, expected=kind.expects))
    if not problems and values["node_rank"] >= values["nodes"]:
        names = (_source("RANK", environ), _source("WORLD_SIZE", environ))
        problems.append(Problem("dlc-rank", *names, last=values["nodes"] - 1))
    return (None if problems else Cluster(**values)), problems


def _source(name: str, environ: Mapping[str, str]) -> str:
    """The variable to read for a fact.

    PET_NNODES goes before WORLD_SIZE: a PyTorchJob with `nprocPerNode` sets WORLD_SIZE to machines x processes.
    Source: `setPodEnv` in pkg/controller.v1/pytorch/envvar.go of kubeflow/training-operator 1.9.
    """
    other = TORCHRUN_VARIABLES[name]
    return other if other in environ and (name == "WORLD_SIZE" or name not in environ) else name


SUBMIT, LEAD, RANK = "submit", "lead", "rank"
"""Where a command with ENV=slurm runs: outside of a job, in its batch script, on each node of it."""


def slurm_stage(environ: Mapping[str, str]) -> str:
    """Tell the three apart: srun alone sets SLURM_STEP_ID, a batch script has only the job."""
    if "SLURM_STEP_ID" in environ:
        return RANK
    return LEAD if "SLURM_JOB_ID" in environ else SUBMIT


def read_slurm(
    environ: Mapping[str, str], *, nodes: int | None, gpus: int | None, address: str | None
) -> tuple[Cluster | None, list[Problem]]:
    """This node's place in a job step, or the place of the first node in the job that will be submitted.

    Args:
        nodes: MP_SLURM_NODES, for the job to be.
        gpus: MP_SLURM_GPUS.
        address: of the step's first node, where MASTER_ADDR does not say it; None outside of a step.
    """
    said_by = "MP_SLURM_GPUS"
    if slurm_stage(environ) != RANK:
        place = Cluster(
            nodes=nodes or 1,
            node_rank=0,
            master_addr="FIRST_NODE_OF_THE_JOB",
            master_port=slurm_port("0"),
            gpus_per_node=gpus,
            gpus_said_by=said_by,
        )
        return place, []
    found = {name: environ.get(name, "") for name in ("SLURM_STEP_NUM_NODES", "SLURM_STEP_NUM_TASKS", "SLURM_NODEID")}
    wrong = [name for name, value in found.items() if not re.fullmatch("[0-9]+", value)]
    problems = [Problem("srun-variable", name) for name in wrong]
    if not wrong and found["SLURM_STEP_NUM_TASKS"] != found["SLURM_STEP_NUM_NODES"]:
        counts = {"tasks": int(found["SLURM_STEP_NUM_TASKS"]), "nodes": int(found["SLURM_STEP_NUM_NODES"])}
        problems.append(Problem("srun-tasks", "SLURM_STEP_NUM_TASKS", **counts))
    if problems:
        return None, problems
    place = Cluster(
        nodes=int(found["SLURM_STEP_NUM_NODES"]),
        node_rank=int(found["SLURM_NODEID"]),
        master_addr=environ.get("MASTER_ADDR") or address or "127.0.0.1",
        master_port=int(environ.get("MASTER_PORT") or slurm_port(environ["SLURM_JOB_ID"])),
        gpus_per_node=gpus,
        gpus_said_by=said_by,
    )
    return place, []


def slurm_port(job: str) -> int:
    """A port of the rendezvous that two jobs on one node do not share, outside of the ephemeral range."""
    return 20000 + int(job) % 10000


SECONDS = 30
"""A controller that does not answer in this time is down."""


class SlurmError(UserError, RuntimeError):
    """A command of Slurm's failed; the message is what it said."""


def ask(*command: str) -> str:
    """Output of one of Slurm's commands.

    Raises:
        SlurmError: it is not installed, failed, or did not answer.
    """
    import subprocess  # 10 ms that only Slurm's users pay

    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        raise SlurmError("slurm-not-installed", command=command[0]) from None
    except subprocess.TimeoutExpired:
        raise SlurmError("slurm-no-answer", command=command[0], seconds=SECONDS) from None
    if done.returncode:
        raise SlurmError("slurm-says", command=command[0], said=(done.stderr or done.stdout).strip())
    return done.stdout


def first_address(nodelist: str) -> str:
    """The address of the first node of a Slurm node list such as `gpu[03-06,09]`.

    A node's name need not be a host name: its NodeAddr is what Slurm itself talks to.
    """
    first = ask("scontrol", "show", "hostnames", nodelist).split()[0]
    found = re.search(r"\bNodeAddr=(\S+)", ask("scontrol", "show", "node", first))
    return found.group(1) if found else first


def has_pyxis() -> bool:
    """Whether srun can start containers: the plug-in adds its option to `--help`."""
    return "--container-image" in ask("srun", "--help")
