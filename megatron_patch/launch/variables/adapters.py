"""LoRA, and frozen weights."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.common.values import real, switch, text, whole
from megatron_patch.launch.variables.row import row
from megatron_patch.peft.patterns import typed_patterns


@dataclass(frozen=True, kw_only=True)
class AdaptersVariables:
    """Rows of the table of MP_* variables; None leaves the choice to the plan, which says what it took."""

    freeze: str | None = row(
        None,
        text("expect-parts"),
        "parts whose weights stay as they are: embedding, head, norms, layers.0-15; several by commas",
        "权重保持不变的部分：embedding、head、norms、layers.0-15；多个用逗号分隔",
        flag="--freeze",
    )
    lora_adapter: str | None = row(
        None,
        text("expect-folder"),
        "go on from this adapter of Hugging Face's PEFT; MP_LORA_RANK, ALPHA, TARGETS, RSLORA and "
        "both patterns are those of its adapter_config.json",
        "从这个 Hugging Face PEFT 适配器继续；MP_LORA_RANK、ALPHA、TARGETS、RSLORA 和两个 PATTERN "
        "取自其 adapter_config.json",
        flag="--lora-adapter",
    )
    lora_alpha: float | None = row(
        None,
        real(above=True),
        "LoRA: alpha, divided by the rank: what the adapters' output is multiplied with; else twice the rank",
        "LoRA：alpha，除以 rank 后乘到适配器的输出上；默认为 rank 的两倍",
        flag="--lora-alpha",
    )
    lora_alpha_pattern: str | None = row(
        None,
        typed_patterns(whole=False),
        "LoRA: modules with an alpha of their own, as PEFT's alpha_pattern",
        "LoRA：使用单独 alpha 的模块，写法同 PEFT 的 alpha_pattern",
        flag="--lora-alpha-pattern",
    )
    lora_dropout: float = row(
        0.0,
        real(0, 0.99),
        "LoRA: dropout of the adapters' inputs",
        "LoRA：适配器输入的 dropout",
        flag="--lora-dropout",
    )
    lora_rank: int | None = row(
        None,
        whole(1),
        "train LoRA adapters of this rank; the weights of PRETRAIN_CHECKPOINT_PATH stay as they are",
        "训练此 rank 的 LoRA 适配器；PRETRAIN_CHECKPOINT_PATH 的权重保持不变",
        flag="--lora-rank",
    )
    lora_rank_pattern: str | None = row(
        None,
        typed_patterns(whole=True),
        "LoRA: modules with a rank of their own, as PEFT's rank_pattern; alpha stays MP_LORA_ALPHA for all",
        "LoRA：使用单独秩的模块，写法同 PEFT 的 rank_pattern；alpha 仍是 MP_LORA_ALPHA",
        flag="--lora-rank-pattern",
    )
    lora_rslora: bool = row(
        False,
        switch(),
        "LoRA: alpha is divided by the square root of the rank",
        "LoRA：alpha 除以 rank 的平方根",
        flag="--lora-rslora",
    )
    lora_targets: str = row(
        "all-linear",
        text("expect-targets"),
        "LoRA: matrices that have an adapter: q,k,v,o,gate,up,down or some of them",
        "LoRA：带适配器的矩阵：q,k,v,o,gate,up,down 或其中几个",
        flag="--lora-targets",
    )
