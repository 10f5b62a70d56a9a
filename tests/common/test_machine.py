"""What this machine has, asked without torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
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


def test_children_may_open_what_the_hard_limit_allows() -> None:
    """A soft limit of 64 ended Gloo in a traceback."""
    show = "import resource; print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    code = f"""
import resource, subprocess, sys
from megatron_patch.common.machine import raise_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 500))
raise_open_files()
subprocess.run([sys.executable, "-c", {show!r}], check=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.split() == ["500", "500"]
