"""Offloaded activations in a pipeline whose last stage has one layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from megatron_patch.backend.patching import wrap


def fix_fine_grained_offloading() -> None:
    """Let a micro batch keep its place in the queue until all its groups are through.

    0.19.2 takes the next micro batch's place as soon as nothing of this one is on its way. The only layer of a stage
    stays on the GPU, so its three groups land in three places, and the backward pass ends with "Chunk mismatch".
    """
    from megatron.core.pipeline_parallel.fine_grained_activation_offload import ChunkOffloadHandler

    @wrap(ChunkOffloadHandler, "finish_all_groups", why="0.19.2 calls a micro batch done whose tensors are not moved")
    def finish_all_groups(original: Callable[..., Any], self: Any, name: str) -> bool:
        return self.find_next_group(name) is None
