"""Layout, batch, sequence, precision, activations and optimizer: values that do not fit together."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    # layout
    "tp-heads": ("{heads} attention heads do not divide by it", "{TP} {fits}"),
    "tp-kv-heads": ("{groups} KV heads are neither a multiple nor a divisor of it", "{TP} {fits}"),
    "tp-ffn": ("the FFN's {columns} columns do not divide by it", "{TP} {fits}"),
    "tp-vocabulary": ("the vocabulary, padded to a multiple of {multiple}, does not divide by it", "{TP} {fits}"),
    "vp-without-pipeline": ("chunks need a pipeline", "no {name}, or {PP} > 1"),
    "vp-layers": ("a stage of {stage} is not a whole number of chunks of {vp}", "{MP_VP} {fits}"),
    "vp-chunks": ("a stage of {stage} does not divide into {chunks} chunks", "{name} {fits}"),
    "vp-and-chunks": ("{MP_VP} {vp} makes {made:chunk|chunks} a stage, {MP_VP_CHUNKS} says {said}", "one of them"),
    "stage": "{layers:layer|layers}",
    "stage-with-ends": "{layers:layer|layers} (embedding and loss count)",
    "pp-layers": (
        "neither {layers} layers nor {padded} (with embedding and loss) divide by {PP} {pp}",
        "{PP} {fits}",
    ),
    "vp-micro-batches": (
        "chunks need a multiple of {PP} as micro batches per iteration, here {micro_batches}",
        "a {GLOBAL_BATCH_SIZE} that is a multiple of {BATCH_SIZE} x data parallel x {PP}",
    ),
    "vp-no-overlap": ("chunks in a pipeline of two stages do not work with {flag}", "one of them"),
    "ranks-not-divisible": (
        "{TP} x {PP} x {CP} = {product} does not divide the {world:GPU|GPUs}",
        "a product of {fits}, or another {MP_NPROC}",
    ),
    "ranks-not-divisible-cpu": (
        "{TP} x {PP} x {CP} = {product} does not divide the {world:process|processes} on the CPU",
        "a product of {fits}, or another {MP_NPROC}",
    ),
    "ranks-not-divisible-nodes": (
        "{TP} x {PP} x {CP} = {product} does not divide the {world:GPU|GPUs} of {nodes:machine|machines}",
        "a product of {fits}, or another {MP_NPROC}",
    ),
    "ranks-not-divisible-nodes-cpu": (
        "{TP} x {PP} x {CP} = {product} does not divide the {world:process|processes} on the CPU of "
        "{nodes:machine|machines}",
        "a product of {fits}, or another {MP_NPROC}",
    ),
    "too-many-processes": ("{gpus:GPU is|GPUs are} visible here", "1 to {gpus}"),
    "no-gpu": ("no GPU here; cuda without one is for dry runs", "auto, cpu"),
    # batch, sequence, schedule
    "batch-multiple": (
        "not a multiple of {BATCH_SIZE} x data parallel = {batch_size} x {dp}",
        "a multiple of {multiple}",
    ),
    "sequence-cp": ("not a multiple of 2 x {CP} = {multiple}", "a multiple of {multiple}"),
    "sequence-sp": (
        "{SP:=true} splits {SEQ_LEN} / {CP} = {part} over {TP} {tp}, which does not divide it",
        "a multiple of {multiple}, or {SP:=false}",
    ),
    "sequence-too-long": ("the model reads {limit} tokens at most", "<= {limit}"),
    "padding": ("they have to be the same", "{PAD_LEN} {seq_len}"),
    "rates": ("the end is above the peak", "{MIN_LR} <= {lr:g}"),
    "no-iteration": ("{arithmetic}", "at least {tokens:token|tokens}: one iteration"),
    "warmup-too-long": (
        "warm-up is not shorter than training: {warmup}; {train}",
        "fewer than {limit:iteration|iterations} of warm-up",
    ),
    # precision, activations, optimizer
    "offload-on-cpu": (
        "activations are already on the CPU, and offloading needs Transformer Engine",
        "sel, full, false, none on the CPU",
    ),
    "ac-layers-offload": ("more layers than can be offloaded", "1 to {limit}"),
    "ac-layers-chunk": ("more layers than one model chunk has", "1 to {limit}"),
    "optimizer-offload-needs-do": (
        "only the distributed optimizer can be offloaded",
        "{DO:=true}, or {OPTIMIZER_OFFLOAD:=false}",
    ),
    "optimizer-offload-fp32": (
        "Megatron's offloaded optimizer does not begin with fp32 weights",
        "{PR:=bf16}, or {OPTIMIZER_OFFLOAD:=false}",
    ),
    "optimizer-on-cpu": ("the optimizer is already on the CPU", "false on the CPU"),
    "fp8-no-units": ("{gpu} has no FP8 units", "bf16"),
    "fp8-on-cpu": ("needs a GPU with FP8 units and Transformer Engine", "fp32, bf16 on the CPU"),
    "fp8-extra-recipe": ("fewer bits were tried with tensorwise scaling only", "{MP_FP8_RECIPE:=tensorwise}, or none"),
    "fp8-head-tied": ("tied embeddings: the LM head in fp8 has weights of its own", "sums, or none"),
    "fp8-head-untried": ("the LM head in fp8 was not tried with this value", "sums, or none"),
    "fp8-rows": (
        "FP8 needs a multiple of 16 tokens per rank, here {BATCH_SIZE} x {SEQ_LEN} / {CP} / {TP} = {rows}",
        "a multiple of 16 per rank, or another {PR}",
    ),
    "fp32-cp": (
        "Transformer Engine has no attention in fp32 over context-parallel ranks",
        "bf16, or {CP} 1; on the CPU fp32 with any {CP}",
    ),
    "attention-on-cpu": ("cuDNN needs a GPU", "auto, flash, unfused on the CPU"),
    "attention-fp32": (
        "neither cuDNN nor FlashAttention computes in 32 bits",
        "{PR:=bf16}, {PR:=fp16}, {PR:=fp8}, or {MP_ATTENTION_BACKEND:=unfused}",
    ),
    "lora-target": ("no matrix of a layer is called {word}", "all-linear, or some of q,k,v,o,gate,up,down by commas"),
    "lora-pattern-idle": (
        "{key} fits no adapter of this model",
        "the end of a name such as {example}, or more of {MP_LORA_TARGETS}",
    ),
    "lora-pattern-late": (
        "{key} decides nothing: {first} stands before it and fits the same modules; as in PEFT the first one decides",
        "{key} before {first}",
    ),
    "lora-without-rank": ("does nothing without {MP_LORA_RANK}", "{MP_LORA_RANK} 16, or not set"),
    "lora-base": ("adapters need weights that they belong to", "{PRETRAIN_CHECKPOINT_PATH} with weights"),
    "lora-kv-heads": (
        "adapters of q, k, v need whole KV heads on every rank, the model has {groups}",
        "{TP} up to {groups}, or {MP_LORA_TARGETS} without q, k, v",
    ),
    "lora-adapter": ("{error}", "a folder with adapter_config.json and adapter_model.safetensors"),
    "lora-adapter-differs": ("the adapter in {folder} has {theirs}", "{theirs}, or another adapter"),
    "lora-adapter-inside": ("a run's folder; its adapter lies in {inside}", "{inside}"),
    "lora-adapter-model": ("not an adapter of this model: {error}", "an adapter that was trained over it"),
    "freeze-tied": (
        "embedding and head are one matrix in this model, and one of them alone is named",
        "embedding,head, or neither",
    ),
    "freeze-and-lora": ("adapters freeze all other weights", "one of the two"),
    "freeze-word": ("this model has no part {word}", "embedding, head, norms, layers.0-{last}"),
    "freeze-needs-do": (
        "megatron-core 0.19.2 can save the state of some layers from the distributed optimizer alone",
        "{DO} true, or no layers",
    ),
    "freeze-stage": ("nothing is left to train on pipeline stage {stage}", "fewer layers, or {PP} 1"),
    "gradient-bf16": ("bf16 sums need {PR} bf16 or fp8", "auto, fp32"),
    "graphs-on-cpu": ("CUDA graphs are a GPU's", "auto, none on the CPU"),
    "graphs-pipeline": ("a pipeline would need a graph for each micro batch on its way: not tried", "{PP:=1}, or none"),
    "graphs-sft": ("rows of finetuning differ, a graph repeats the same", "auto, none"),
    "graphs-ac": ("a layer of a graph keeps its activations", "{AC:=false}, or none"),
    "graphs-precision": ("tried in bf16 and fp8 only", "{PR:=bf16}, {PR:=fp8}, or none"),
    "graphs-recipe": ("tried with tensorwise scaling only", "{MP_FP8_RECIPE:=tensorwise}, or none"),
    "graphs-adapters": ("a graph would not call the adapters", "auto, none"),
    "graphs-frozen": ("not tried with frozen parts", "auto, none"),
    "graphs-twice": ("{flag} asks for CUDA graphs too", "one of the two"),
    "graphs-flag": ("Python does what {flag} asks for in each layer, which a graph would not call", "one of the two"),
    "graphs-batch": ("a graph is for micro batches of one size", "{flag} as {BATCH_SIZE}, or none"),
    "overlap-on-cpu": ("userbuffers are Transformer Engine's, on GPUs", "auto, none on the CPU"),
    "overlap-needs-sp": (
        "only the communication of sequence parallelism overlaps",
        "{TP} > 1 with {SP:=true}, or none",
    ),
    "overlap-one-machine": (
        "a TP group has to lie on one machine and have {most} ranks at most",
        "{TP} that divides the processes of a machine, <= {most}",
    ),
    "overlap-precision": ("Transformer Engine makes these buffers for bf16 and fp8", "{PR:=bf16}, {PR:=fp8}, or none"),
    "overlap-recipe": ("overlap was tried with tensorwise scaling only", "{MP_FP8_RECIPE:=tensorwise}, or none"),
    "memory-cpu": (
        "weights, gradients and optimizer of one process take {needed}, there are {there} of RAM for it",
        "{change}",
    ),
    "memory-gpu": (
        "a rank needs {needed}, the GPU has {there} to give ({MP_MEMORY_CHECK:=0} tries it all the same)",
        "{change}",
    ),
    "memory-ram": (
        "with the part of the optimizer that leaves the GPUs the ranks take {needed} of RAM, there are {there} to give "
        "({MP_MEMORY_CHECK:=0} tries it all the same)",
        "{change}",
    ),
    "memory-ram-copies": (
        "with the part of the optimizer that leaves the GPUs and the copies of a save in the background the ranks take "
        "{needed} of RAM, there are {there} to give ({MP_MEMORY_CHECK:=0} tries it all the same)",
        "{MP_BACKGROUND_SAVE:=false}, which takes no copies; or {change}",
    ),
}

CHINESE: dict[str, str | tuple[str, str]] = {
    # layout
    "tp-heads": ("{heads} 个注意力头不能被它整除", "{TP} {fits}"),
    "tp-kv-heads": ("{groups} 个 KV 头既不是它的倍数也不是它的约数", "{TP} {fits}"),
    "tp-ffn": ("FFN 的 {columns} 列不能被它整除", "{TP} {fits}"),
    "tp-vocabulary": ("词表补齐到 {multiple} 的倍数，不能被它整除", "{TP} {fits}"),
    "vp-without-pipeline": ("虚拟流水线需要流水线并行", "不设 {name}，或 {PP} > 1"),
    "vp-layers": ("{stage} 的阶段不能按每块 {vp} 层整分", "{MP_VP} {fits}"),
    "vp-chunks": ("{stage} 的阶段不能分成 {chunks} 块", "{name} {fits}"),
    "vp-and-chunks": ("{MP_VP} {vp} 把每个阶段分成 {made} 块，{MP_VP_CHUNKS} 却是 {said}", "只用其中一个"),
    "stage": "{layers} 层",
    "stage-with-ends": "{layers} 层（算上嵌入层和损失）",
    "pp-layers": ("{layers} 层和 {padded} 层（算上嵌入层和损失）都不能被 {PP} {pp} 整除", "{PP} {fits}"),
    "vp-micro-batches": (
        "虚拟流水线要求每次迭代的微批数是 {PP} 的倍数，这里是 {micro_batches}",
        "{GLOBAL_BATCH_SIZE} 为 {BATCH_SIZE} x 数据并行数 x {PP} 的倍数",
    ),
    "vp-no-overlap": ("两个阶段的流水线分块时不能使用 {flag}", "只用其中一个"),
    "ranks-not-divisible": (
        "{TP} x {PP} x {CP} = {product} 不能整除 {world} 个 GPU",
        "乘积为 {fits}，或另设 {MP_NPROC}",
    ),
    "ranks-not-divisible-cpu": (
        "{TP} x {PP} x {CP} = {product} 不能整除 CPU 上的 {world} 个进程",
        "乘积为 {fits}，或另设 {MP_NPROC}",
    ),
    "ranks-not-divisible-nodes": (
        "{TP} x {PP} x {CP} = {product} 不能整除 {nodes} 台机器的 {world} 个 GPU",
        "乘积为 {fits}，或另设 {MP_NPROC}",
    ),
    "ranks-not-divisible-nodes-cpu": (
        "{TP} x {PP} x {CP} = {product} 不能整除 {nodes} 台机器 CPU 上的 {world} 个进程",
        "乘积为 {fits}，或另设 {MP_NPROC}",
    ),
    "too-many-processes": ("这里只能看到 {gpus} 个 GPU", "1 到 {gpus}"),
    "no-gpu": ("这里没有 GPU；没有 GPU 时 cuda 只能用于试算（dry run）", "auto、cpu"),
    # batch, sequence, schedule
    "batch-multiple": ("不是 {BATCH_SIZE} x 数据并行数 = {batch_size} x {dp} 的倍数", "{multiple} 的倍数"),
    "sequence-cp": ("不是 2 x {CP} = {multiple} 的倍数", "{multiple} 的倍数"),
    "sequence-sp": (
        "{SP:=true} 把 {SEQ_LEN} / {CP} = {part} 分给 {TP} {tp}，不能整除",
        "{multiple} 的倍数，或 {SP:=false}",
    ),
    "sequence-too-long": ("模型最多读 {limit} 个词元", "<= {limit}"),
    "padding": ("两者必须相同", "{PAD_LEN} {seq_len}"),
    "rates": ("终值高于峰值", "{MIN_LR} <= {lr:g}"),
    "no-iteration": ("{arithmetic}", "至少 {tokens} 个词元：一次迭代"),
    "warmup-too-long": ("预热不短于训练：{warmup}；{train}", "预热少于 {limit} 次迭代"),
    # precision, activations, optimizer
    "offload-on-cpu": ("激活已经在 CPU 上，而卸载需要 Transformer Engine", "CPU 上可用 sel、full、false、none"),
    "ac-layers-offload": ("超过可以卸载的层数", "1 到 {limit}"),
    "ac-layers-chunk": ("超过一个模型块的层数", "1 到 {limit}"),
    "optimizer-offload-needs-do": ("只有分布式优化器可以卸载", "{DO:=true}，或 {OPTIMIZER_OFFLOAD:=false}"),
    "optimizer-offload-fp32": (
        "Megatron 的卸载优化器不能用于 fp32 权重",
        "{PR:=bf16}，或 {OPTIMIZER_OFFLOAD:=false}",
    ),
    "optimizer-on-cpu": ("优化器已经在 CPU 上", "CPU 上为 false"),
    "fp8-no-units": ("{gpu} 没有 FP8 计算单元", "bf16"),
    "fp8-on-cpu": ("需要有 FP8 计算单元的 GPU 和 Transformer Engine", "CPU 上可用 fp32、bf16"),
    "fp8-extra-recipe": ("更少的位数只在 tensorwise 缩放下试过", "{MP_FP8_RECIPE:=tensorwise}，或 none"),
    "fp8-head-tied": ("词嵌入共享：fp8 的 LM head 有自己的权重", "sums，或 none"),
    "fp8-head-untried": ("没有在这个值下试过 fp8 的 LM head", "sums，或 none"),
    "fp8-rows": (
        "FP8 要求每个进程的词元数是 16 的倍数，这里 {BATCH_SIZE} x {SEQ_LEN} / {CP} / {TP} = {rows}",
        "每个进程 16 的倍数，或另一种 {PR}",
    ),
    "fp32-cp": (
        "Transformer Engine 没有跨上下文并行的 fp32 注意力",
        "bf16，或 {CP} 1；在 CPU 上 fp32 可用任意 {CP}",
    ),
    "attention-on-cpu": ("cuDNN 需要 GPU", "CPU 上可用 auto、flash、unfused"),
    "attention-fp32": (
        "cuDNN 和 FlashAttention 都不支持 32 位计算",
        "{PR:=bf16}、{PR:=fp16}、{PR:=fp8}，或 {MP_ATTENTION_BACKEND:=unfused}",
    ),
    "lora-target": ("层中没有名为 {word} 的矩阵", "all-linear，或 q,k,v,o,gate,up,down 中的几个，用逗号分隔"),
    "lora-pattern-idle": ("{key} 不符合该模型的任何适配器", "{example} 这类名称的末尾，或更多的 {MP_LORA_TARGETS}"),
    "lora-pattern-late": (
        "{key} 不起作用：它之前的 {first} 符合同样的模块，而与 PEFT 一样，由第一个符合的决定",
        "{key} 写在 {first} 之前",
    ),
    "lora-without-rank": ("没有 {MP_LORA_RANK} 时不起作用", "{MP_LORA_RANK} 16，或不设置"),
    "lora-base": ("适配器需要它所属的权重", "带权重的 {PRETRAIN_CHECKPOINT_PATH}"),
    "lora-kv-heads": (
        "q、k、v 的适配器要求每个 rank 有完整的 KV 头，该模型有 {groups} 个",
        "{TP} 不超过 {groups}，或 {MP_LORA_TARGETS} 不含 q、k、v",
    ),
    "lora-adapter": ("{error}", "含 adapter_config.json 和 adapter_model.safetensors 的文件夹"),
    "lora-adapter-differs": ("{folder} 中的适配器为 {theirs}", "{theirs}，或另一个适配器"),
    "lora-adapter-inside": ("这是一次运行的文件夹；它的适配器在 {inside}", "{inside}"),
    "lora-adapter-model": ("不是该模型的适配器：{error}", "在该模型上训练的适配器"),
    "freeze-tied": ("该模型的 embedding 和 head 是同一个矩阵，却只写了其中一个", "embedding,head，或都不写"),
    "freeze-and-lora": ("适配器会冻结其他全部权重", "二者取一"),
    "freeze-word": ("该模型没有 {word} 这一部分", "embedding、head、norms、layers.0-{last}"),
    "freeze-needs-do": (
        "megatron-core 0.19.2 只能用分布式优化器保存部分层的状态",
        "{DO} 为 true，或不写层",
    ),
    "freeze-stage": ("流水线阶段 {stage} 上没有可训练的权重", "更少的层，或 {PP} 为 1"),
    "gradient-bf16": ("以 bf16 累加梯度需要 {PR} 为 bf16 或 fp8", "auto、fp32"),
    "graphs-on-cpu": ("CUDA graph 只在 GPU 上", "CPU 上可用 auto、none"),
    "graphs-pipeline": ("流水线中每个在途的微批次都要一个 graph：没有试过", "{PP:=1}，或 none"),
    "graphs-sft": ("微调的各行长度不同，而 graph 只重复相同的计算", "auto、none"),
    "graphs-ac": ("graph 中的层会保留激活", "{AC:=false}，或 none"),
    "graphs-precision": ("只在 bf16 和 fp8 下试过", "{PR:=bf16}、{PR:=fp8}，或 none"),
    "graphs-recipe": ("只在 tensorwise 缩放下试过", "{MP_FP8_RECIPE:=tensorwise}，或 none"),
    "graphs-adapters": ("graph 不会调用适配器", "auto、none"),
    "graphs-frozen": ("没有与冻结的部分一起试过", "auto、none"),
    "graphs-twice": ("{flag} 也要求 CUDA graph", "只用其中一个"),
    "graphs-flag": ("{flag} 由 Python 在每层执行，而 graph 不会调用它", "只用其中一个"),
    "graphs-batch": ("graph 只适用于一种微批次大小", "{flag} 与 {BATCH_SIZE} 相同，或 none"),
    "overlap-on-cpu": ("userbuffers 属于 Transformer Engine，只在 GPU 上", "CPU 上可用 auto、none"),
    "overlap-needs-sp": ("只有序列并行的通信可以重叠", "{TP} > 1 且 {SP:=true}，或 none"),
    "overlap-one-machine": (
        "一个 TP 组必须在同一台机器上，最多 {most} 个进程",
        "能整除一台机器进程数的 {TP}，<= {most}",
    ),
    "overlap-precision": ("Transformer Engine 只为 bf16 和 fp8 建立这些缓冲区", "{PR:=bf16}、{PR:=fp8}，或 none"),
    "overlap-recipe": ("重叠只在 tensorwise 缩放下试过", "{MP_FP8_RECIPE:=tensorwise}，或 none"),
    "memory-cpu": ("一个进程的权重、梯度和优化器需要 {needed}，可用内存只有 {there}", "{change}"),
    "memory-gpu": (
        "一个进程需要 {needed}，GPU 只能提供 {there}（{MP_MEMORY_CHECK:=0} 可以强行尝试）",
        "{change}",
    ),
    "memory-ram": (
        "加上优化器移出 GPU 的部分，各进程需要 {needed} 内存，可用的只有 {there}（{MP_MEMORY_CHECK:=0} 可以强行尝试）",
        "{change}",
    ),
    "memory-ram-copies": (
        "加上优化器移出 GPU 的部分和后台保存的副本，各进程需要 {needed} 内存，可用的只有 {there}"
        "（{MP_MEMORY_CHECK:=0} 可以强行尝试）",
        "{MP_BACKGROUND_SAVE:=false}（不需要副本）；或 {change}",
    ),
}
