"""The MP_* variables, the cluster's variables, the machine."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest

from megatron_patch.launch.cluster.variables import Cluster, read_cluster
from megatron_patch.launch.command import REPOSITORY
from megatron_patch.launch.environment import read_environment
from megatron_patch.launch.knobs import VARIABLES, Knobs, read_knobs
from megatron_patch.launch.machine import Gpu, available_memory, installed_gpus, usable_cores, visible_gpus

GPUS = tuple(Gpu(name=f"gpu {index}", memory_bytes=index, uuid=f"GPU-{index}abc") for index in range(4))


def test_defaults() -> None:
    values, problems = read_knobs({})
    assert not problems
    assert Knobs(**values) == Knobs()


def test_an_empty_variable_is_not_set() -> None:
    assert read_knobs({"MP_VP": "", "MP_TOKENIZER_PATH": ""}) == read_knobs({})


def test_a_wrong_variable_hides_no_other() -> None:
    values, problems = read_knobs({"MP_VP": "x", "MP_SEED": "5", "MP_SEEED": "6"})
    assert [problem.names[0] for problem in problems] == ["MP_SEEED", "MP_VP"]
    assert values["seed"] == 5
    assert "vp" not in values


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_every_variable_is_read(variable: object) -> None:
    """A value that differs from the default arrives in its field."""
    name = variable.name  # type: ignore[attr-defined]
    samples = (*variable.kind.valid.split(", "), "3", "30", "0.25", "some text")  # type: ignore[attr-defined]
    default = variable.default  # type: ignore[attr-defined]
    for sample in samples:
        values, problems = read_knobs({name: sample})
        field = name.removeprefix("MP_").lower()
        if not problems and values[field] != default:
            return
    raise AssertionError(f"{name} takes none of {samples}")


def test_every_variable_is_used() -> None:
    """A variable may not silently do nothing: some module beside the table and the remarks reads its field."""
    wing = (REPOSITORY / "megatron_patch" / "launch").rglob("*.py")
    used = "".join(path.read_text() for path in wing if path.stem not in ("knobs", "notes", "render"))
    for row in dataclasses.fields(Knobs):
        assert re.search(rf"""(knobs\.|\bmp_|knobs\.get\("){row.name}\b""", used), row.name


def test_cluster() -> None:
    environ = {"WORLD_SIZE": "4", "RANK": "3", "MASTER_ADDR": "head", "MASTER_PORT": "29500"}
    cluster, problems = read_cluster({**environ, "KUBERNETES_CONTAINER_RESOURCE_GPU": "8"}, nproc=None)
    assert not problems
    assert cluster == Cluster(nodes=4, node_rank=3, master_addr="head", master_port=29500, gpus_per_node=8)
    cluster, problems = read_cluster(environ, nproc=2)
    assert cluster is not None
    assert cluster.gpus_per_node is None
    assert len(read_cluster({}, nproc=None)[1]) == 5


def test_cuda_visible_devices() -> None:
    assert visible_gpus(GPUS, None) == GPUS
    assert visible_gpus(GPUS, "2, 0") == (GPUS[2], GPUS[0])
    assert visible_gpus(GPUS, "GPU-3,1") == (GPUS[3], GPUS[1])
    assert visible_gpus(GPUS, "") == ()
    assert visible_gpus(GPUS, "1,-1,2") == (GPUS[1],)
    assert visible_gpus(GPUS, "0,7,1") == (GPUS[0],)
    assert len(visible_gpus(GPUS, "MIG-1,MIG-2")) == 2


def test_no_driver_is_no_gpu() -> None:
    assert installed_gpus("libabsent-nvml.so.1") == ()


@pytest.mark.gpu
def test_gpus_are_those_of_torch() -> None:
    import torch

    found = installed_gpus()
    assert len(found) == torch.cuda.device_count()
    for index, gpu in enumerate(found):
        properties = torch.cuda.get_device_properties(index)
        assert gpu.name == properties.name
        assert gpu.memory_bytes == pytest.approx(properties.total_memory, rel=0.05)


def test_machine() -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    total = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1)) * 1024  # type: ignore[union-attr]
    assert 0 < available_memory() < total


def test_dry_run_variable() -> None:
    for value, expected in (("1", True), ("true", True), ("TRUE", True), ("0", False), ("", False), ("false", False)):
        environment, problems = read_environment({"DRY_RUN": value}, device="cpu")
        assert (environment.dry_run, problems) == (expected, [])
