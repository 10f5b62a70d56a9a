"""What Megatron's CUDA graphs of layers (impl `local`, 0.19.2) leave behind: graphs at the end, unseen memory, and
checkpoints that only a GPU can read.

Layers are recorded in the first step. A recorded collective belongs to its communicator until the graph is gone:
NCCL's destruction waits for it, and a run would hang after its last step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch

from megatron_patch.backend.gpu_memory import GPU_MEMORY
from megatron_patch.backend.patching import wrap
from megatron_patch.common.messages import localized

RUNNERS: weakref.WeakSet[Any] = weakref.WeakSet()
"""Megatron's runners that have graphs."""


def keep_track_of_graphs(say: Callable[[str], None]) -> None:
    """Before the model is built, where `--cuda-graph-impl local` is given.

    Args:
        say: gets one line when they are recorded.
    """
    from megatron.core.transformer import cuda_graphs

    @wrap(cuda_graphs._CudaGraphRunner, "create_fwd_graph", why="0.19.2 forgets what it recorded")
    def create_fwd_graph(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        RUNNERS.add(self)
        return original(self, *args, **kwargs)

    @wrap(cuda_graphs._CudagraphGlobalRecord, "create_cudagraphs", why="torch does not count what graphs use again")
    def create_cudagraphs(original: Callable[..., Any]) -> Any:
        created = len(RUNNERS)
        found = original()
        if len(RUNNERS) > created:
            say(localized("graphs-recorded", count=2 * len(RUNNERS), seconds=f"{found['time']:.1f}"))
            GPU_MEMORY.beside = reused_bytes(cuda_graphs.CudaGraphManager.global_mempool)
        return found


def save_random_states_as_numbers() -> None:
    """Graphs need generators in the place of their states, and 0.19.2 would pickle them: objects of a GPU, which a run
    on the CPU, or anybody who looks into the checkpoint there, could not read. It reads numbers in both ways.
    """
    from megatron.core.dist_checkpointing.mapping import ShardedObject
    from megatron.training import checkpointing

    @wrap(checkpointing, "get_rng_state", why="0.19.2 pickles generators of a GPU under CUDA graphs")
    def get_rng_state(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        for state in found.data if isinstance(found, ShardedObject) else found:
            state["rng_tracker_states"] = as_numbers(state["rng_tracker_states"])
        return found


def as_numbers(states: Mapping[str, torch.Generator | torch.Tensor]) -> dict[str, torch.Tensor]:
    """States of generators by name, as 0.19.2 keeps them without graphs."""
    return {name: state.get_state() if isinstance(state, torch.Generator) else state for name, state in states.items()}


def reused_bytes(pool: Any) -> int:
    """Of the graphs' memory, what a replay uses and torch counts as free."""
    segments = torch.cuda.memory_snapshot(pool, include_traces=False)
    return sum(int(segment["total_size"]) - int(segment["allocated_size"]) for segment in segments)


def let_go_of_graphs() -> None:
    """Before process groups are destroyed, or the process ends; nothing is replayed afterwards.

    Raises:
        RuntimeError: a graph could not be let go of, as one whose recording an error ended; all others are.
    """
    failed: RuntimeError | None = None
    for runner in list(RUNNERS):
        for graph in (runner.bwd_graph, runner.fwd_graph):
            try:
                if graph is not None:
                    graph.reset()
            except RuntimeError as error:
                failed = error
    RUNNERS.clear()
    if failed is not None:
        raise failed
