"""What a machine's RAM has to hold beside a GPU's memory: offloaded optimizers, and copies of what is saved."""

from __future__ import annotations

from megatron_patch.common.machine import Gpu
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.layout import Layout
from megatron_patch.launch.memory import GPU_PROCESS_BYTES, SYSTEM_BYTES, Memory, Precision, save_bytes
from megatron_patch.launch.variables import Variables

MOST_RAM_FOR_COPIES = 2 / 3
"""Part of a machine's RAM that copies of a checkpoint may take."""


def machine_ram(environment: Environment, gpu: Gpu | None, device: str) -> int | None:
    """Bytes of a machine that the run will be on, all of them, not what is free; None where it is not this one."""
    unknown = environment.elsewhere or (device == "cuda" and gpu is None)
    return None if unknown else environment.memory_total_bytes


def saves_in_background(
    variables: Variables, memory: Memory, precision: Precision, layout: Layout, ram: int | None
) -> bool:
    """Whether checkpoints are written while training goes on: all machines of a run must find the same.

    Args:
        ram: of `machine_ram`.
    """
    if variables.background_save != "auto" or ram is None:
        return variables.background_save != "false"
    copies = save_bytes(memory, precision, layout, optimizer=variables.save_optimizer)
    if memory.host_optimizer:
        return layout.processes * (copies + memory.host_optimizer + GPU_PROCESS_BYTES) <= ram - SYSTEM_BYTES
    return layout.processes * copies <= MOST_RAM_FOR_COPIES * ram
