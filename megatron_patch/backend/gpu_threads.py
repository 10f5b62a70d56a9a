"""Threads that use the GPU of the thread that makes them.

A new thread's current GPU is the first one. torch's operations go where their tensors lie; Transformer Engine's kernels
go to the current GPU, and end with an illegal memory access where their tensors lie on another.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch


def pool_on_this_gpu(threads: int) -> ThreadPoolExecutor:
    """An executor whose threads have the caller's current GPU; on a CPU, an ordinary one."""
    if not torch.cuda.is_available():
        return ThreadPoolExecutor(threads)
    return ThreadPoolExecutor(threads, initializer=torch.cuda.set_device, initargs=(torch.cuda.current_device(),))
