"""What one training step computes, and the counts that its time follows from."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.launch.layout import Layout
from megatron_patch.models import ModelConfig
from megatron_patch.peft.settings import LoraSettings, adapter_parameters


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one step computes, and how."""

    model: ModelConfig
    vocab_rows: int
    """Padded."""
    seq_len: int
    micro_batch: int
    micro_batches: int
    """Of one data-parallel rank."""
    precision: str
    """bf16 or fp8."""
    gradient_bytes: int = 2
    """Of the buffer that gradients are summed in."""
    recompute: str = "none"
    """none, sel, full, block."""
    recompute_layers: int = 0
    """block: layers of each stage."""
    distributed_optimizer: bool = True
    tp_overlap: bool = True
    cuda_graphs: bool = False
    """A layer's kernels are started by one call."""
    sample_tokens: int | None = None
    """Packed finetuning: mean tokens of a sample, which attention does not leave; None: whole sequences."""
    trained_share: float = 1.0
    """Part of the positions that have logits, in finetuning."""
    adam_bytes: int = 12
    offload_fraction: float = 0.0
    """Part of the optimizer that lives in RAM, 0 to 1."""
    adapters: LoraSettings | None = None
    """LoRA: the weights are frozen, and have no gradients."""
    own_kernels: bool = True
    """Our kernel for RoPE, and fewer passes over memory (trainer/passes.py); else all of them are Megatron's."""
    flash: bool = True
    """FlashAttention 4 where it is faster (backend/gpu/attention.py); else cuDNN everywhere."""
    multicast: bool = False
    """Tensor-parallel communication through NVLink multicast."""
    bucket_parameters: int | None = None
    """Of a bucket of gradients (--ddp-bucket-size); None: Megatron's default."""


def tokens_of_rank(work: Work, layout: Layout) -> int:
    """Tokens of a micro batch on one context-parallel rank."""
    return work.micro_batch * work.seq_len // layout.cp


def layer_parameters(model: ModelConfig) -> int:
    """Weights of the matmuls of one layer."""
    queries, keys = widths(model)
    return model.hidden_size * (2 * queries + 2 * keys + 3 * model.ffn_hidden_size)


def widths(model: ModelConfig) -> tuple[int, int]:
    """Columns of all query heads, and of all KV heads."""
    return model.head_dim * model.num_attention_heads, model.head_dim * model.num_query_groups


def trained_weights(work: Work, layout: Layout) -> float:
    """Of one rank of the fullest stage: all, or those of adapters."""
    if work.adapters is None:
        return stage_weights(work, layout)
    layers = range(work.model.num_layers)
    share = max(layout.stage_layers) / work.model.num_layers
    return share * adapter_parameters(work.adapters, work.model, layout.tp, layers)


def stage_weights(work: Work, layout: Layout) -> float:
    """Weights of one rank of the fullest stage."""
    table = work.vocab_rows * work.model.hidden_size
    tables = table * (1 if layout.pp > 1 or work.model.tie_embeddings else 2)
    return (max(layout.stage_layers) * layer_parameters(work.model) + tables) / layout.tp
