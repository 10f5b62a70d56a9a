"""What this machine has: GPUs, cores, free memory. Asked without torch, in a few milliseconds."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One NVIDIA GPU that a process started here would see."""

    name: str
    memory_bytes: int
    """Total, as NVML tells it."""
    uuid: str


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def installed_gpus(library: str = "libnvidia-ml.so.1") -> tuple[Gpu, ...]:
    """All GPUs that the driver knows, none where there is no driver.

    Source: NVML API reference; the `_v2` entry points have been stable since 2015.
    """
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return ()
    if nvml.nvmlInit_v2() != 0:
        return ()
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return ()
        return tuple(gpu for index in range(count.value) if (gpu := _describe(nvml, index)) is not None)
    finally:
        nvml.nvmlShutdown()


def _describe(nvml: Any, index: int) -> Gpu | None:
    handle, memory = ctypes.c_void_p(), _Memory()
    name, uuid = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    failed = (
        nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        or nvml.nvmlDeviceGetName(handle, name, len(name))
        or nvml.nvmlDeviceGetUUID(handle, uuid, len(uuid))
        or nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    )
    if failed:  # a GPU that has fallen off the bus, or that this container may not touch
        return None
    return Gpu(name=name.value.decode(), memory_bytes=int(memory.total), uuid=uuid.value.decode())


def visible_gpus(gpus: Sequence[Gpu], cuda_visible_devices: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows to a process: everything, or what CUDA_VISIBLE_DEVICES lists.

    As CUDA does: entries are indices or beginnings of a UUID, and the first one that fits none ends the list.
    Source: CUDA C++ Programming Guide, environment variables.
    """
    if cuda_visible_devices is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in cuda_visible_devices.split(",")):
        if entry.isdigit() and int(entry) < len(gpus):
            chosen.append(gpus[int(entry)])
        elif entry.startswith("GPU-") and any(gpu.uuid.startswith(entry) for gpu in gpus):
            chosen.append(next(gpu for gpu in gpus if gpu.uuid.startswith(entry)))
        elif entry.startswith("MIG-"):  # a slice: NVML would need its own handle; count it, with its parent unknown
            chosen.append(Gpu(name="MIG slice", memory_bytes=0, uuid=entry))
        else:
            break
    return tuple(chosen)


def children_of(pid: int) -> list[int]:
    """Processes that `pid` has started, from any of its threads."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def available_memory() -> int:
    """Bytes of RAM that can be had without swapping, within this container's limit."""
    free = _meminfo("MemAvailable")
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    return free if limit is None or used is None else min(free, limit - used)


def total_memory() -> int:
    """Bytes of RAM of this machine, or the limit of this container."""
    limit = _number("/sys/fs/cgroup/memory.max")
    return min(_meminfo("MemTotal"), limit or _meminfo("MemTotal"))


def free_disk(folder: str) -> int:
    """Bytes that can be written to the file system of a folder that need not exist yet."""
    path = Path(folder)
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    system = os.statvfs(there)
    return system.f_bavail * system.f_frsize


SHARED_MEMORY = 1 << 30
"""Bytes of /dev/shm that data loaders and NCCL want on one machine; a container has 64 MB unless it asks for more."""


MOST_OPEN_FILES = 65536


def raise_open_files() -> None:
    """Let this process and its children open as many files as the hard limit allows: login shells have 1024.

    A rank needs two of them for each data set of a blend, and some for every rank that it talks to.
    """
    import resource  # an extension that no dry run pays for

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def shared_memory() -> int:
    """Bytes of /dev/shm; 0 where there is none."""
    try:
        system = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return system.f_blocks * system.f_frsize


def _meminfo(key: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/meminfo has no {key}")


def _number(path: str) -> int | None:
    try:
        content = Path(path).read_text().strip()
    except OSError:  # no cgroup v2 here
        return None
    return int(content) if content.isdigit() else None
