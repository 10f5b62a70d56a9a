"""`--emit k8s`: the job of these 25 values as a PyTorchJob and as a TrainJob, two documents of YAML.

Schemas: kubeflow.org/v1 of Kubeflow's training operator 1.9, trainer.kubeflow.org/v1alpha1 of Kubeflow Trainer 2.3 (its
`runtimePatches` are new there); the operators' own Python models read both in the tests. Every pod runs the same
command with ENV=dlc, which reads the variables that either operator sets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megatron_patch.common.loggers import LOGGERS
from megatron_patch.launch.cluster.place import GPUS_VARIABLE
from megatron_patch.launch.command import REPOSITORY, script_of
from megatron_patch.launch.environment import read_by_libraries
from megatron_patch.launch.plan import Plan

GRACE_SECONDS = 630
"""Between SIGTERM, on which a run saves within torchrun.GRACE, 600 s, and SIGKILL. Kubernetes gives 30 by itself."""
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
VOLUME = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?):(/\S+)")


def job_name(plan: Plan) -> str:
    """MP_K8S_NAME, or the output folder's name made into a label."""
    return plan.variables.k8s_name or label_of(Path(plan.output))


def label_of(output: Path) -> str:
    """An output folder's name, made into a label."""
    return re.sub("[^a-z0-9]+", "-", output.name.lower()).strip("-")


def manifests(plan: Plan, values: Sequence[str], environ: Mapping[str, str]) -> str:
    """Both jobs as YAML; apply the one whose operator the cluster has."""
    import yaml  # type: ignore[import-untyped]  # 15 ms that no other command pays

    documents = (pytorch_job(plan, values, environ), train_job(plan, values, environ))
    comments = (
        "# For Kubeflow's training operator.",
        "# For Kubeflow Trainer v2: apply this instead of the one above.",
    )
    plain = (json.loads(json.dumps(one)) for one in documents)  # nothing shared, so no anchors and aliases in the YAML
    texts = (yaml.safe_dump(one, sort_keys=False, width=110, allow_unicode=True) for one in plain)
    left = [name for name in read_by_libraries(environ) if _plain_name(name)]
    said = f"# Of this environment's variables the pods do not get {', '.join(left)}.\n" if left else ""
    return said + "---\n".join(f"{comment}\n{text}" for comment, text in zip(comments, texts, strict=True))


def _plain_name(name: str) -> bool:
    """Whether it can stand in a comment: an environment's names may have line ends in them."""
    return re.fullmatch("[A-Z0-9_]+", name) is not None


def pytorch_job(plan: Plan, values: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """`nprocPerNode` stays unset: with it the operator's WORLD_SIZE counts processes."""
    container = {
        "name": "pytorch",  # the operator knows its container by this name
        "image": plan.variables.k8s_image,
        "command": _command(plan, values),
        "env": _environment(plan, environ),
        "resources": _resources(plan),
        "volumeMounts": _mounts(plan),
    }
    pod = {
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "containers": [container],
        "volumes": _volumes(plan),
    }
    workers = plan.layout.nodes - 1
    replicas = {"Master": _replica(1, pod)} | ({"Worker": _replica(workers, pod)} if workers else {})
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": job_name(plan)},
        "spec": {"runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": 10}, "pytorchReplicaSpecs": replicas},
    }


def _replica(count: int, pod: dict[str, Any]) -> dict[str, Any]:
    """A pod that fails is started again, and the run goes on from its newest checkpoint."""
    return {"replicas": count, "restartPolicy": "OnFailure", "template": {"spec": dict(pod)}}


def train_job(plan: Plan, values: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """On the runtime `torch-distributed`, whose job and container are both called `node`."""
    node = {
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "volumes": _volumes(plan),
        "containers": [{"name": "node", "volumeMounts": _mounts(plan)}],
    }
    template = {"spec": {"replicatedJobs": [{"name": "node", "template": {"spec": {"template": {"spec": node}}}}]}}
    trainer = {
        "image": plan.variables.k8s_image,
        "command": _command(plan, values),
        "env": _environment(plan, environ),
        "numNodes": plan.layout.nodes,
        "numProcPerNode": plan.layout.processes,
        "resourcesPerNode": _resources(plan),
    }
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": job_name(plan)},
        "spec": {
            "runtimeRef": {"name": "torch-distributed"},
            "trainer": trainer,
            "runtimePatches": [{"manager": "megatron-patch", "trainingRuntimeSpec": {"template": template}}],
        },
    }


def _command(plan: Plan, values: Sequence[str]) -> list[str]:
    """The 25 values, from the same working directory. Kubernetes expands $(X) in commands: see `_plain`."""
    script = Path(plan.variables.k8s_project or REPOSITORY) / script_of(plan.model).relative_to(REPOSITORY)
    words = ["sh", "-c", 'cd "$0" && exec sh "$@"', str(Path.cwd()), str(script), *values]
    return [_plain(word) for word in words]


def _plain(value: str) -> str:
    """A value that Kubernetes leaves as it is: it expands $(X), and every $$ becomes a plain $.

    Source: `Expand` in third_party/forked/golang/expansion/expand.go of kubernetes 1.31.
    """
    return value.replace("$", "$$") if "$$" in value or "$(" in value else value


def _environment(plan: Plan, environ: Mapping[str, str]) -> list[dict[str, Any]]:
    """The MP_ variables as typed. Keys of loggers come from secrets, never from here."""
    typed = {name: value for name, value in sorted(environ.items()) if name.startswith("MP_") and value}
    typed = {name: value for name, value in typed.items() if not name.startswith("MP_K8S_")}
    typed[GPUS_VARIABLE] = str(plan.layout.processes)
    found: list[dict[str, Any]] = [{"name": name, "value": _plain(value)} for name, value in typed.items()]
    secrets = {"wandb": "WANDB_API_KEY"} if plan.variables.wandb_project or plan.wandb else {}
    loggers = (plan.variables.loggers or "").split(",")
    secrets |= {name: logger.secret for name, logger in LOGGERS.items() if name in loggers and logger.secret}
    for name, variable in secrets.items():
        key = {"name": name, "key": "api-key", "optional": True}
        found.append({"name": variable, "valueFrom": {"secretKeyRef": key}})
    return found


def _resources(plan: Plan) -> dict[str, Any]:
    return {"limits": {"nvidia.com/gpu": str(plan.layout.processes)}} if plan.device == "cuda" else {}


def _words(plan: Plan) -> list[str]:
    return (plan.variables.k8s_volumes or "").split()


def _claims(plan: Plan) -> list[tuple[str, str]]:
    found = (VOLUME.fullmatch(word) for word in _words(plan))
    return [(match.group(1), match.group(3)) for match in found if match]


def _volumes(plan: Plan) -> list[dict[str, Any]]:
    """The claims, and shared memory: NCCL and the data loaders want more than Docker's 64 MB."""
    claims = dict.fromkeys(claim for claim, _ in _claims(plan))
    volumes: list[dict[str, Any]] = [{"name": one, "persistentVolumeClaim": {"claimName": one}} for one in claims]
    return [*volumes, {"name": "shm", "emptyDir": {"medium": "Memory"}}]


def _mounts(plan: Plan) -> list[dict[str, Any]]:
    mounts = [{"name": claim, "mountPath": folder} for claim, folder in _claims(plan)]
    return [*mounts, {"name": "shm", "mountPath": "/dev/shm"}]
