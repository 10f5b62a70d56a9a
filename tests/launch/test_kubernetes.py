"""`--emit k8s`: what it writes is what Kubeflow's two operators accept, by their own Python models."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from megatron_patch.launch.cluster.place import read_cluster
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.config import read_values
from megatron_patch.launch.driver import main
from megatron_patch.torchrun import GRACE

EXAMPLE = REPOSITORY / "examples" / "llama3_1" / "dlc" / "llama31-8b.yaml"
VALUES = (
    "dlc 8B 1 128 1e-5 1e-6 8192 8192 bf16 4 2 1 true true true false false false "
    "500 text none hf-8B 10000000000 100000000 runs/llama31-8b"
)
"""What examples/llama3_1/dlc/README.md shows."""
POD = {
    "WORLD_SIZE": "4",
    "KUBERNETES_CONTAINER_RESOURCE_GPU": "8",
    "MP_DEVICE": "cuda",
    "MP_K8S_IMAGE": "registry.example/megatron-patch:1",
    "MP_K8S_PROJECT": "/workspace/megatron-patch",
    "MP_K8S_VOLUMES": "llama:/data",
}


@pytest.fixture
def emit(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The manifests, with /data for the folder that the values are relative to."""
    monkeypatch.chdir(world)

    def run(values: str = VALUES, **changes: str) -> str:
        assert main([*values.split(), "--emit", "k8s"], POD | changes) == 0, capsys.readouterr().err
        return capsys.readouterr().out.replace(str(world), "/data")

    return run


def trainer_v2(document: dict[str, Any]) -> Any:
    """A TrainJob read and written by Kubeflow Trainer's models: what they do not know is gone."""
    from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

    read = TrainerV1alpha1TrainJob.from_dict(document)
    assert read is not None
    return read.to_dict()


def operator_v1(document: dict[str, Any]) -> Any:
    """A PyTorchJob, likewise by the training operator's."""
    from kubeflow.training import ApiClient

    client = ApiClient()
    answer = SimpleNamespace(data=json.dumps(document))
    return client.sanitize_for_serialization(client.deserialize(answer, "KubeflowOrgV1PyTorchJob"))


def test_both_operators_read_all_of_it(emit: Callable[..., str]) -> None:
    first, second = yaml.safe_load_all(emit(WANDB_API_KEY="k3y"))
    assert operator_v1(first) == first
    assert trainer_v2(second) == second
    assert "&id" not in emit()


def test_every_pod_has_the_time_that_a_save_may_take(emit: Callable[..., str]) -> None:
    """A SIGKILL before torchrun gives up waiting for its ranks would lose what they save."""
    found = re.findall(r"terminationGracePeriodSeconds: (\d+)", emit())
    assert len(found) == 3  # master, workers, nodes of a TrainJob
    assert all(int(seconds) > GRACE for seconds in found)


@pytest.mark.parametrize("read", [operator_v1, trainer_v2])
def test_the_models_notice(read: Callable[[dict[str, Any]], Any], emit: Callable[..., str]) -> None:
    """A misspelt field does not survive them: the check above can fail."""
    document = list(yaml.safe_load_all(emit()))[read is trainer_v2]
    for spec in (
        document["spec"],
        document["spec"].get("trainer") or document["spec"]["pytorchReplicaSpecs"]["Master"],
    ):
        spec["replica"] = 1
        assert read(document) != document
        del spec["replica"]
    assert read(document) == document


def test_the_example_is_what_is_emitted(emit: Callable[..., str]) -> None:
    said = emit()
    if os.environ.get("UPDATE_GOLDEN"):
        EXAMPLE.write_text(said, encoding="utf-8")
    assert EXAMPLE.read_text(encoding="utf-8") == said


def test_the_readme_has_the_command_of_the_example() -> None:
    text = " ".join(EXAMPLE.with_name("README.md").read_text(encoding="utf-8").replace("\\\n", " ").split())
    assert f"run_mcore_llama3_1.sh {VALUES} --emit k8s > {EXAMPLE.name}" in text
    assert [f"{name}={value}" for name, value in POD.items() if f"{name}={value}" not in text] == []


def test_pods_run_the_same_25_values(emit: Callable[..., str]) -> None:
    """The container's words are a command line of the driver, on as many machines as it was planned for."""
    first, second = yaml.safe_load_all(emit())
    replicas = first["spec"]["pytorchReplicaSpecs"]
    assert {name: replica["replicas"] for name, replica in replicas.items()} == {"Master": 1, "Worker": 3}
    trainer = second["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (4, 8)
    for container in (replicas["Worker"]["template"]["spec"]["containers"][0], trainer):
        folder, script, *values = container["command"][3:]
        assert folder == "/data"
        assert script == "/workspace/megatron-patch/examples/llama3_1/run_mcore_llama3_1.sh"
        assert values == VALUES.split()
        assert read_values(values)[1] == {}
    volumes = {volume["name"] for volume in replicas["Master"]["template"]["spec"]["volumes"]}
    assert volumes == {"llama", "shm"}


def test_what_the_operators_set_is_read() -> None:
    """A PyTorchJob's WORLD_SIZE, a TrainJob's PET_ variables."""
    v1 = {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456", "PET_NNODES": "4"}
    v1["KUBERNETES_CONTAINER_RESOURCE_GPU"] = "8"
    v2 = {"PET_NNODES": "4", "PET_NODE_RANK": "3", "PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29400"}
    v2["PET_NPROC_PER_NODE"] = "8"
    for environ in (v1, v2):
        place, problems = read_cluster(environ, nproc=None)
        assert not problems
        assert place is not None
        assert (place.nodes, place.node_rank, place.gpus_per_node) == (4, 3, 8)


def test_keys_stay_out(emit: Callable[..., str]) -> None:
    """The key of Weights & Biases comes from a secret of the cluster."""
    said = emit(WANDB_API_KEY="k3y", HF_TOKEN="t0ken", MP_WANDB_PROJECT="mine")
    assert "k3y" not in said
    assert "t0ken" not in said
    assert "secretKeyRef" in said


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"MP_K8S_IMAGE": ""}, "k8s-image"),
        ({"MP_K8S_NAME": "8B_run"}, "k8s-name"),
        ({"MP_K8S_VOLUMES": "data"}, "k8s-volume"),
        ({"WORLD_SIZE": ""}, "dlc-variable-missing"),
    ],
)
def test_what_cannot_be_emitted(
    changes: dict[str, str],
    code: str,
    world: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(world)
    assert main([*VALUES.split(), "--emit", "k8s"], POD | changes) == 2
    (name,) = changes
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith(f"  {name}: ") and line.endswith(f"[{code}]")], lines


def test_only_dlc_is_written_for_kubernetes(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world)
    assert main([*VALUES.replace("dlc", "dsw").split(), "--emit", "k8s"], POD | {"MP_NPROC": "8"}) == 2
    assert "[k8s-env]" in capsys.readouterr().err


def test_what_the_pods_do_not_get_is_said(emit: Callable[..., str]) -> None:
    """Settings of this machine's network are not those of the pods."""
    said = emit(NCCL_IB_HCA="mlx5_0", NCCL_VERSION="2.27", **{"NCCL_A\nkind: Pod": "x"})
    assert said.startswith("# Of this environment's variables the pods do not get NCCL_IB_HCA.\n# For Kubeflow's")
    assert len(list(yaml.safe_load_all(said))) == 2


def test_keys_of_loggers_come_from_secrets(emit: Callable[..., str]) -> None:
    said = emit(MP_LOGGERS="swanlab,trackio", SWANLAB_API_KEY="k3y")
    assert "k3y" not in said
    first, _ = yaml.safe_load_all(said)
    assert "SWANLAB_API_KEY" in str(first) and "'key': 'api-key'" in str(first)


def test_all_that_is_wrong_is_said_at_once(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a pod lacks stands beside whatever else is wrong, in a value or among several."""
    monkeypatch.chdir(world)
    values = VALUES.replace("dlc 8B 1 128 1e-5", "dsw 8B one 127 1e-5").replace("bf16 4 2 1", "bf16 3 2 1")
    bad = {"MP_K8S_IMAGE": "", "MP_K8S_NAME": "8B_run", "MP_K8S_VOLUMES": "data", "MP_NPROC": "8"}
    assert main([*values.split(), "--emit", "k8s"], POD | bad) == 2
    codes = set(re.findall(r"\[([a-z0-9-]+)\]$", capsys.readouterr().err, re.MULTILINE))
    assert {"not-whole", "k8s-env", "k8s-image", "k8s-name", "k8s-volume"} < codes
