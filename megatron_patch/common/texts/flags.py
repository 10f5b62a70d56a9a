"""Flags of the trainer that contradict each other."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "flags-together": "these flags do not go together:\n{problems:/}",
    "flags-sft": "--sft: Megatron's own finetuning is not used here; give --sft-data raw or --sft-data idxmap",
    "flags-sft-average": "--sft-data without --calculate-per-token-loss: short answers would weigh more than long ones",
    "flags-logits": "--trained-logits {rows}: takes a number of rows above 0, and --sft-data",
    "flags-logits-embedding": "--trained-logits with --defer-embedding-wgrad-compute: it keeps the LM head's whole "
    "input; leave one out",
    "flags-sft-data": "--sft-data without --train-data-path: training and validation data are named apart",
    "flags-sft-validation": "--full-validation with --sft-data: its sets are validated in equal shares; give "
    "--eval-iters alone",
    "flags-full-validation": "--full-validation: megatron-core 0.19.2 fails at the first validation (TypeError); "
    "give --eval-iters",
    "flags-two-starts": "--load and --hf-checkpoint: weights can come from one place only",
    "flags-async": "--async-save: Megatron's own is not used here; give --background-save",
    "flags-no-validation": "--eval-iters {iterations} without --valid-data-path: give validation data, or "
    "--eval-iters 0",
    "flags-mask": "--create-attention-mask-in-dataloader: the local layers are causal by themselves; pass the --no- "
    "form",
    "flags-lora-base": "--lora-rank without a base: give --hf-checkpoint or --base-checkpoint",
    "flags-two-bases": "--hf-checkpoint and --base-checkpoint: the base can come from one place only",
    "flags-freeze-lora": "--freeze with --lora-rank: adapters freeze all other weights",
    "flags-fuser-lora": "--use-transformer-engine-op-fuser with --lora-rank: its fused layers would pass by the "
    "adapters",
    "flags-freeze-layers": "--freeze layers without --use-distributed-optimizer: megatron-core 0.19.2 cannot save "
    "such an optimizer",
    "flags-base-alone": "--base-checkpoint without --lora-rank: give --load",
    "flags-adapter-alone": "--lora-adapter without --lora-rank: give the rank that it has",
    "flags-finetune-lora": "--finetune with --lora-rank: --load is for adapters of this run; the base is "
    "--base-checkpoint",
    "flags-passes-engine": "--fewer-passes and --fp8-extra need Transformer Engine's layers: a GPU",
    "flags-passes-tensorwise": "--fewer-passes swiglu or projection, and --fp8-extra, need --fp8-format with "
    "--fp8-recipe tensorwise",
    "flags-head-tied": "--fp8-extra head with tied embeddings: the LM head in fp8 has weights of its own; leave out "
    "head",
    "flags-head-tp": "--fp8-extra head with --tensor-model-parallel-size above 1: not tried; leave out head",
    "flags-swiglu-lora": "--fewer-passes swiglu with --lora-rank: adapters read SwiGLU's result in bf16; leave out "
    "swiglu",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "flags-together": "这些参数不能同时使用：\n{problems:/}",
    "flags-sft": "--sft：这里不用 Megatron 自己的微调；请给 --sft-data raw 或 --sft-data idxmap",
    "flags-sft-average": "--sft-data 缺少 --calculate-per-token-loss：短回答的权重会比长回答大",
    "flags-logits": "--trained-logits {rows}：需要大于 0 的行数，并且要有 --sft-data",
    "flags-logits-embedding": "--trained-logits 与 --defer-embedding-wgrad-compute：后者要保留 LM head 的全部输入；"
    "请去掉其中一个",
    "flags-sft-data": "--sft-data 缺少 --train-data-path：训练数据和验证数据要分别给出",
    "flags-sft-validation": "--full-validation 与 --sft-data：各验证集等量验证；只给 --eval-iters",
    "flags-full-validation": "--full-validation：megatron-core 0.19.2 在第一次验证时就会失败（TypeError）；请给 "
    "--eval-iters",
    "flags-two-starts": "--load 与 --hf-checkpoint：权重只能来自一个地方",
    "flags-async": "--async-save：这里不用 Megatron 自己的异步保存；请给 --background-save",
    "flags-no-validation": "--eval-iters {iterations} 缺少 --valid-data-path：请给出验证数据，或 --eval-iters 0",
    "flags-mask": "--create-attention-mask-in-dataloader：local 层本身就是因果的；请用 --no- 的形式",
    "flags-lora-base": "--lora-rank 没有基座：请给 --hf-checkpoint 或 --base-checkpoint",
    "flags-two-bases": "--hf-checkpoint 与 --base-checkpoint：基座只能来自一个地方",
    "flags-freeze-lora": "--freeze 与 --lora-rank：使用适配器时其他权重本来就是冻结的",
    "flags-fuser-lora": "--use-transformer-engine-op-fuser 与 --lora-rank：融合层会绕过适配器",
    "flags-freeze-layers": "--freeze layers 缺少 --use-distributed-optimizer：megatron-core 0.19.2 "
    "无法保存这样的优化器",
    "flags-base-alone": "--base-checkpoint 没有 --lora-rank：请给 --load",
    "flags-adapter-alone": "--lora-adapter 没有 --lora-rank：请给出它的秩",
    "flags-finetune-lora": "--finetune 与 --lora-rank：--load 用于本次运行的适配器；基座用 --base-checkpoint",
    "flags-passes-engine": "--fewer-passes 与 --fp8-extra 需要 Transformer Engine 的层，即 GPU",
    "flags-passes-tensorwise": "--fewer-passes 的 swiglu、projection 以及 --fp8-extra 需要 --fp8-format 与 "
    "--fp8-recipe tensorwise",
    "flags-head-tied": "--fp8-extra head 与共享的词嵌入：fp8 的 LM head 有自己的权重；请去掉 head",
    "flags-head-tp": "--fp8-extra head 与大于 1 的 --tensor-model-parallel-size：没有试过；请去掉 head",
    "flags-swiglu-lora": "--fewer-passes swiglu 与 --lora-rank：适配器要读 bf16 的 SwiGLU 结果；请去掉 swiglu",
}
