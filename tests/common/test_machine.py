"""What this machine has, asked without torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from megatron_patch.common.machine import Gpu, available_memory, installed_gpus, usable_cores, visible_gpus

GPUS = tuple(Gpu(name=f"gpu {index}", memory_bytes=index, uuid=f"GPU-{index}abc") for index in range(4))


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


def test_cores_and_memory_are_those_of_the_kernel() -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))
    total = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text()).group(1)) * 1024  # type: ignore[union-attr]
    assert 0 < available_memory() < total
