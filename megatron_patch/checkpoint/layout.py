"""How the check and Megatron's old format cut a model over TP and PP. Imports no torch."""

from __future__ import annotations

from megatron_patch.common.messages import Message
from megatron_patch.models import ModelConfig
from megatron_patch.models.megatron import tensor_parallel_problem


def layout_problems(model: ModelConfig, tp: int, pp: int) -> list[Message]:
    """Why Megatron could not load a model at this TP and PP; empty if it could."""
    problems: list[Message] = []
    why = tensor_parallel_problem(model, tp)
    if why is not None:
        problems.append(Message("layout-tp", tp=tp, why=why))
    if not stage_layers(model.num_layers, pp, pp - 1):
        problems.append(Message("layout-pp", pp=pp, layers=model.num_layers))
    return problems


def stage_layers(num_layers: int, pp: int, stage: int) -> range:
    """The layers of one pipeline stage; the last has fewer, or none, where they do not divide."""
    most = -(-num_layers // pp)
    return range(min(num_layers, stage * most), min(num_layers, (stage + 1) * most))


def uneven_stages(num_layers: int, pp: int) -> dict[str, int]:
    """How Megatron's `TransformerConfig` is told of a last stage with fewer layers; nothing where they divide."""
    if num_layers % pp == 0:
        return {}
    return {"num_layers_in_last_pipeline_stage": len(stage_layers(num_layers, pp, pp - 1))}
