"""Notes and warnings of the plan, and of the start."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    # start
    "checkpoint-damaged": "damaged: {what}",
    "checkpoints-broken": "{broken} in {folder}: not written to the end by an earlier run; not used, written anew",
    "last-run-elsewhere": "the last run here, {holder}, has not written how it ended: it was killed, or it still runs "
    "there, where this file system's locks do not reach (NFS with nolock)",
    "weights-not-read": "{PRETRAIN_CHECKPOINT_PATH} is not read: the run goes on from its own checkpoint",
    "output-shared": "{OUTPUT_BASEPATH} has to be one folder shared by all machines: every machine looks there for a "
    "checkpoint",
    "kept-from-step": "kept from iteration {step} of {path}: the weights, {rows:row|rows} of vocabulary",
    "kept-from": "kept from {path}: the weights, {rows:row|rows} of vocabulary",
    "kept-not": "reset: optimizer state, iteration count, learning rate schedule, position in the data, random states",
    "kept-new": "new beside that run: {changes}",
    "kept-change": "{name} {before} -> {now}",
    "kept-tokenizer": "the tokenizer has {ids:id|ids}, that of the earlier run {before}",
    "no-earlier-plan": "{why}: what changed since the last start cannot be told",
    "no-plan": "no plan.json beside the checkpoints",
    "changed": "{name:@} was {before} at the last start and is {now}",
    "changed-remark": "{name:@} was {before} at the last start and is {now}: {remark}",
    "rows-anew": "by the change of {names} the conversations lie in other rows: as many are skipped as were read, so "
    "some conversations are read once more, and others not in this epoch",
    "held-out-anew": "{MP_SPLIT} holds out other texts than before, by the change of {names}: some of them have been "
    "trained, so the validation loss is lower than it would be",
    "changed-train": "the schedule of the learning rate ends there; the order of the data changes where it is read "
    "more than once",
    "changed-warmup": "the learning rate continues on the new curve",
    "changed-data": "as many samples of the new data are skipped as were read of the old",
    "changed-seed": "the order of the data changes",
    "changed-layout": "random states start anew; without dropout nothing draws from them",
    # layout
    "no-gpu-here": "no GPU here: the ranks compute on the CPU",
    "processes-of-layout": "{processes:process|processes} = {TP} x {PP} x {CP}; {MP_NPROC} sets another number",
    "processes-share-cores": "{processes} processes share {cores:core|cores}",
    "gpus-not-here": "planned for {processes:GPU|GPUs} a machine that {processes:?is|are} not here "
    "({MP_NPROC} sets another number)",
    "gpus-left": "{processes} of {gpus:visible GPU is|visible GPUs are} used ({MP_NPROC})",
    "sp-alone": "{SP:=true} does nothing at {TP} 1: there is no second rank to split the sequence with",
    "ends-count": "the layers alone do not divide by {PP}: embedding and loss count as one layer each, at the two ends",
    "ends-count-chunks": "the layers alone do not divide into {count} chunks: embedding and loss count as one layer "
    "each, at the two ends",
    "stages-uneven": "pipeline stages of {layers} layers: the last has the LM head to do too "
    "({MP_PP_BALANCE:=false} splits evenly)",
    "chunks-taken": "two chunks a stage, which waits less: a step about {percent} % shorter, for {size} instead of "
    "{before} a GPU ({MP_VP_CHUNKS:=1} takes one)",
    "chunks-kept": "{chunks} chunks a stage, as this run has had ({MP_VP_CHUNKS} sets another number)",
    "chunks-later": "on GPUs where two chunks a stage pay and fit, a new run takes them ({MP_VP_CHUNKS} says a number)",
    "chunks-pay": "stages in two chunks would wait less: a step about {percent} % shorter, {size} a GPU "
    "({MP_VP_CHUNKS:=2})",
    "vp-counts-chunks": "{MP_VP} counts chunks in this folder, as it did when the run began; elsewhere it counts the "
    "layers of one ({MP_VP_CHUNKS} {chunks} says the same outright)",
    "graphs": "layers are replayed as CUDA graphs, recorded in the first step ({MP_CUDA_GRAPHS:=none})",
    "graphs-tight": "graphs keep what others could use between two steps: {wanted} may be needed, which is not there",
    "overlap": "communication of tensor parallelism overlaps with the matmuls: {method} ({MP_TP_OVERLAP:=none})",
    "trained-logits": "logits and loss at trained positions only ({MP_SFT_LOGITS:=all} computes them all)",
    "kv-heads-shared": "{TP} is larger than the {groups:KV head|KV heads}: ranks share one, at one more all-gather",
    "fp16-slow": "fp16 has no fast kernels on a CPU: expect a tenth of the speed of fp32",
    # data
    "no-warmup": "no warm-up: fewer warm-up tokens than one iteration has",
    "wsd-unseen": "WSD's decay of 1 iteration ends with iteration {last}, which still has the rate before it: "
    "{MP_LR_WSD_DECAY_ITERS:=2} is the shortest that is seen",
    "rows-unused": "the tokenizer has {ids:id|ids}, the model {rows:row|rows}: the rest stays unused",
    "validates-on-training": "the validation data are the training data: their loss says nothing about other text",
    "validates-partly": "{count:data set is|data sets are} training and validation data: {paths}; their loss says "
    "nothing about other text",
    "data-twice": "{count:data set stands|data sets stand} more than once in {DATASET_PATH}: {paths}; the same texts "
    "are read again and again",
    "split-test": "the third share of {MP_SPLIT}, {percent:.3g} % of the documents, is for a test, which there is none "
    "of here: nothing reads it",
    "no-validation": "no validation: neither {VALID_DATASET_PATH} nor {MP_SPLIT} asks for one",
    "rank-beyond": "adapters of a rank above the smaller side of their matrix take memory and learn nothing more: "
    "{matrices}",
    "rank-beyond-matrix": "{target} {rank} ({rows} x {columns})",
    "adapter-brings": "taken from {MP_LORA_ADAPTER}: {settings}",
    "adapter-dropout": "{MP_LORA_ADAPTER} was trained with dropout {theirs}, this run has {MP_LORA_DROPOUT:={mine}}",
    # values that do nothing
    "idle-ac-layers-pipeline": "{AC:=offload} in a pipeline moves what attention reads, of every layer; "
    "{MP_AC_LAYERS} does nothing",
    "idle-under": "{name:={value}} does nothing under {under}",
    "idle-without": "{name:={value}} does nothing without {other}",
    "attention-before-fl": "attention: {MP_ATTENTION_BACKEND:={backend}} goes before {FL:={fl}}",
    "idle-on-cpu": "{name:={value}} does nothing on the CPU",
    # optimizer
    "gradients-bf16": "gradients are summed in bf16, over {micro_batches:micro batch|micro batches} "
    "({MP_GRAD_REDUCE:=fp32})",
    "compact-asked": "the optimizer keeps only the bits of its fp32 weights that the bf16 ones lack: "
    "{MP_MOMENTS:=bf16} brings it along",
    "compact-needed": "the optimizer keeps only the bits of its fp32 weights that the bf16 ones lack: otherwise it "
    "does not fit",
    "moments-bf16": "Adam's moments are kept in bf16, as in fp32 they do not fit "
    "({MP_MOMENTS:=fp32}; {OPTIMIZER_OFFLOAD:=auto})",
    "fp8-extra": "computed in fewer bits than fp8 has by default: {what} ({MP_FP8_EXTRA})",
    "fp8-travel-do": "weights travel in bf16, not fp8: {DO:=false}",
    "fp8-travel-offload": "weights travel in bf16, not fp8: the optimizer is offloaded",
    "offload-unknown": "{OPTIMIZER_OFFLOAD:=auto}: the GPU's memory is not known here, so everything is planned to "
    "move",
    "offload-none": "{OPTIMIZER_OFFLOAD:=auto}: the optimizer fits on the GPU, nothing moves",
    "offload-part": "{OPTIMIZER_OFFLOAD:=auto}: {fraction:.0%} of the optimizer moves to the CPU",
    "offload-few-cores": "a rank has {cores:core|cores} here: the optimizer on the CPU takes longer than predicted, "
    "which is for {measured}",
    # environment
    "save-between-steps": "checkpoints are written between steps: copies of {copies} would take too much of the {ram} "
    "of RAM here ({MP_BACKGROUND_SAVE:=true} takes them)",
    "save-beside-optimizer": "checkpoints are written between steps: copies of {copies} and {optimizer} of the "
    "optimizer would take too much of the {ram} of RAM here",
    "wandb-key-alone": "a Weights & Biases key is set, but the package wandb is not installed: nothing is sent there",
    "yours": "{name}={value} is taken from your environment",
    "alone-among-several": "{ENV:=dsw} is this machine alone: {said} of your environment is not read; several machines "
    "are dlc or slurm",
    "yours-too": "taken from your environment: {settings}",
    "decided-by-plan": "{names} of your environment {names:?is|are} not passed on: the plan decides",
    "memory-warning-gpu": "a rank needs about {needed}, the GPU has {there} to give; cheapest change: {change}",
    "memory-warning-ram": "with the offloaded optimizer the ranks take about {needed} of RAM, there are {there} to "
    "give; cheapest change: {change}",
    "memory-warning-ram-copies": "with the offloaded optimizer and the copies of a save in the background "
    "({MP_BACKGROUND_SAVE:=false} takes none) the ranks take about {needed} of RAM, there are {there} to give; "
    "cheapest change: {change}",
    "memory-warning-cpu": "a rank needs about {needed}, RAM per process has {there} to give; cheapest change: {change}",
    "weights-only": "checkpoints hold weights alone: no run goes on from them, after a signal neither; a new one can "
    "start from them ({PRETRAIN_CHECKPOINT_PATH:@})",
    "shared-memory-small": "/dev/shm has {size}: NCCL and data loaders may end there, for want of space or with a bus "
    "error; a container gets more by --shm-size=8g or --ipc=host",
    "disk-one": "one checkpoint takes about {each}, the disk has {free} free",
    "disk-several": "{count:checkpoint takes|checkpoints take} about {size}, the disk has {free} free: {change}",
    "disk-keep": "{MP_KEEP_CHECKPOINTS:={fits}}",
    "disk-interval": "a larger {SAVE_INTERVAL:@}, or another disk",
    "change": "{change}: {size}",
    "change-smaller-cpu": "a smaller {MODEL_SIZE:@}, or a machine with more memory",
    "change-smaller-gpu": "a smaller {MODEL_SIZE:@} or {SEQ_LEN:@}, or GPUs with more memory",
    "change-do": "{DO:=true@}",
    "change-batch": "{BATCH_SIZE:=1@}",
    "change-tp": "{TP:={tp}@} and {SP:=true@}, on the same ranks",
    "change-ac": "{AC:=full@}",
    "change-offload": "{OPTIMIZER_OFFLOAD:=auto@}{more}",
    "change-ac-offload": "{AC:=full@} and {OPTIMIZER_OFFLOAD:=auto@}{more}",
    "change-tp-ac": "{TP:={tp}@}, {SP:=true@} and {AC:=full@}",
    "change-with-sp": ", {SP:=true@}",
    "change-with-do": ", {DO:=true@}",
    "change-with-sp-do": ", {SP:=true@}, {DO:=true@}",
    "change-ranks-gpu": "{TP:={tp}@} x {PP:={pp}@} on {ranks:GPU|GPUs}{more}",
    "change-ranks-cpu": "{TP:={tp}@} x {PP:={pp}@} on {ranks:process|processes}{more}",
    "change-ranks-ac-gpu": "{TP:={tp}@} x {PP:={pp}@} on {ranks:GPU|GPUs}{more}, {AC:=full@}",
    "change-ranks-ac-cpu": "{TP:={tp}@} x {PP:={pp}@} on {ranks:process|processes}{more}, {AC:=full@}",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    # start
    "checkpoint-damaged": "已损坏：{what}",
    "checkpoints-broken": "{folder} 中的 {broken}：之前的运行没有写完；不使用，将重新写入",
    "last-run-elsewhere": "这里的上一次运行（{holder}）没有写下它是怎样结束的：它被杀死了，或者它还在那里运行，"
    "而这个文件系统的锁传不到那里（NFS 的 nolock）",
    "weights-not-read": "不读取 {PRETRAIN_CHECKPOINT_PATH}：从本次运行自己的检查点继续",
    "output-shared": "{OUTPUT_BASEPATH} 必须是所有机器共享的文件夹：每台机器都在那里查找检查点",
    "kept-from-step": "保留自 {path} 的第 {step} 次迭代：权重，词表 {rows} 行",
    "kept-from": "保留自 {path}：权重，词表 {rows} 行",
    "kept-not": "重新开始：优化器状态、迭代次数、学习率计划、数据位置、随机状态",
    "kept-new": "与那次运行不同：{changes}",
    "kept-change": "{name} {before} -> {now}",
    "kept-tokenizer": "分词器有 {ids} 个 id，之前的运行有 {before} 个",
    "no-earlier-plan": "{why}：无法得知上次启动以来的变化",
    "no-plan": "检查点旁边没有 plan.json",
    "changed": "{name:@} 上次启动时是 {before}，现在是 {now}",
    "changed-remark": "{name:@} 上次启动时是 {before}，现在是 {now}：{remark}",
    "rows-anew": "由于 {names} 的改变，对话分到了不同的行：读过多少行就跳过多少行，"
    "因此有的对话会再读一次，有的在这一轮次中读不到",
    "held-out-anew": "由于 {names} 的改变，{MP_SPLIT} 留出的文本与之前不同：其中一部分已经训练过，验证损失会偏低",
    "changed-train": "学习率计划在那里结束；数据读取不止一遍时，顺序会改变",
    "changed-warmup": "学习率在新曲线上继续",
    "changed-data": "旧数据读过多少样本，就跳过多少新数据的样本",
    "changed-seed": "数据的顺序会改变",
    "changed-layout": "随机状态重新开始；没有 dropout 时不会用到它们",
    # layout
    "no-gpu-here": "这里没有 GPU：在 CPU 上计算",
    "processes-of-layout": "{processes} 个进程 = {TP} x {PP} x {CP}；{MP_NPROC} 可以另设",
    "processes-share-cores": "{processes} 个进程共用 {cores} 个核",
    "gpus-not-here": "按每台机器 {processes} 个 GPU 计划，这里没有这些 GPU（{MP_NPROC} 可以另设）",
    "gpus-left": "可见的 {gpus} 个 GPU 使用 {processes} 个（{MP_NPROC}）",
    "sp-alone": "{TP} 1 时 {SP:=true} 没有作用：没有第二个进程可以分担序列",
    "ends-count": "层数本身不能被 {PP} 整除：首尾的嵌入层和损失各算一层",
    "ends-count-chunks": "层数本身不能整分为 {count} 块：首尾的嵌入层和损失各算一层",
    "stages-uneven": "流水线各阶段为 {layers} 层：最后一个还要计算 LM head（{MP_PP_BALANCE:=false} 平均划分）",
    "chunks-taken": "每个阶段分两块，等待更少：一步约缩短 {percent} %，每个 GPU {size}，不分块则为 {before}"
    "（{MP_VP_CHUNKS:=1} 不分块）",
    "chunks-kept": "每个阶段 {chunks} 块，与这次运行之前相同（{MP_VP_CHUNKS} 可以另设）",
    "chunks-later": "在分两块更快且放得下的 GPU 上，新运行会分两块（{MP_VP_CHUNKS} 可以指定块数）",
    "chunks-pay": "每个阶段分两块会少等待：一步约缩短 {percent} %，每个 GPU {size}（{MP_VP_CHUNKS:=2}）",
    "vp-counts-chunks": "在这个目录里 {MP_VP} 仍按运行开始时的含义表示块数；在别处它表示每块的层数"
    "（{MP_VP_CHUNKS} {chunks} 可以直接说明）",
    "graphs": "各层以 CUDA graph 重放，在第一步录制（{MP_CUDA_GRAPHS:=none}）",
    "graphs-tight": "graph 会占住两步之间本可他用的显存：可能需要 {wanted}，现有显存不够",
    "overlap": "张量并行的通信与矩阵乘法重叠：{method}（{MP_TP_OVERLAP:=none}）",
    "trained-logits": "只在参与训练的位置计算 logits 与损失（{MP_SFT_LOGITS:=all} 则全部计算）",
    "kv-heads-shared": "{TP} 大于 {groups} 个 KV 头：几个进程共用一个，多一次 all-gather",
    "fp16-slow": "CPU 上没有快速的 fp16 内核：速度约为 fp32 的十分之一",
    # data
    "no-warmup": "没有预热：预热的词元不足一次迭代",
    "wsd-unseen": "WSD 只有 1 次迭代的衰减在第 {last} 次迭代结束，而这次迭代用的仍是衰减前的学习率："
    "至少 {MP_LR_WSD_DECAY_ITERS:=2} 才看得到",
    "rows-unused": "分词器有 {ids} 个 id，模型有 {rows} 行：其余的不会用到",
    "validates-on-training": "验证数据就是训练数据：它的损失不能说明其他文本",
    "validates-partly": "{count} 个数据集既是训练数据又是验证数据：{paths}；它们的损失不能说明其他文本",
    "data-twice": "{DATASET_PATH} 中有 {count} 个数据集不止一次出现：{paths}；同样的文本会被反复读取",
    "split-test": "{MP_SPLIT} 的第三份（文档的 {percent:.3g} %）是测试用的，这里没有测试：不会读取它",
    "no-validation": "没有验证：{VALID_DATASET_PATH} 和 {MP_SPLIT} 都没有要求",
    "rank-beyond": "适配器的秩大于其矩阵较短的一边，占用内存而不会多学到什么：{matrices}",
    "rank-beyond-matrix": "{target} {rank}（{rows} x {columns}）",
    "adapter-brings": "取自 {MP_LORA_ADAPTER}：{settings}",
    "adapter-dropout": "{MP_LORA_ADAPTER} 训练时的 dropout 是 {theirs}，本次运行是 {MP_LORA_DROPOUT:={mine}}",
    # values that do nothing
    "idle-ac-layers-pipeline": "流水线中 {AC:=offload} 移动每一层注意力所读的数据；{MP_AC_LAYERS} 没有作用",
    "idle-under": "{under} 时 {name:={value}} 没有作用",
    "idle-without": "没有 {other} 时 {name:={value}} 没有作用",
    "attention-before-fl": "注意力：{MP_ATTENTION_BACKEND:={backend}} 优先于 {FL:={fl}}",
    "idle-on-cpu": "{name:={value}} 在 CPU 上没有作用",
    # optimizer
    "gradients-bf16": "梯度以 bf16 累加，共 {micro_batches} 个微批（{MP_GRAD_REDUCE:=fp32}）",
    "compact-asked": "优化器只保存 fp32 权重中 bf16 权重缺少的位：由 {MP_MOMENTS:=bf16} 带来",
    "compact-needed": "优化器只保存 fp32 权重中 bf16 权重缺少的位：否则放不下",
    "moments-bf16": "Adam 的动量以 bf16 保存，fp32 放不下（{MP_MOMENTS:=fp32}；{OPTIMIZER_OFFLOAD:=auto}）",
    "fp8-extra": "比 fp8 默认用更少位数计算：{what}（{MP_FP8_EXTRA}）",
    "fp8-travel-do": "权重以 bf16 而不是 fp8 传输：{DO:=false}",
    "fp8-travel-offload": "权重以 bf16 而不是 fp8 传输：优化器已卸载",
    "offload-unknown": "{OPTIMIZER_OFFLOAD:=auto}：这里不知道 GPU 的显存，按全部卸载计划",
    "offload-none": "{OPTIMIZER_OFFLOAD:=auto}：优化器放得进 GPU，不卸载",
    "offload-part": "{OPTIMIZER_OFFLOAD:=auto}：优化器的 {fraction:.0%} 移到 CPU",
    "offload-few-cores": "这里每个进程有 {cores} 个核心：CPU 上的优化器比预测的慢，预测按 {measured} 个核心",
    # environment
    "save-between-steps": "检查点在两步之间写入：{copies} 的副本会占用这里 {ram} 内存的太大部分"
    "（{MP_BACKGROUND_SAVE:=true} 仍然使用副本）",
    "save-beside-optimizer": "检查点在两步之间写入：{copies} 的副本加上优化器的 {optimizer} "
    "会占用这里 {ram} 内存的太大部分",
    "wandb-key-alone": "设置了 Weights & Biases 的密钥，但没有安装 wandb 包：不会发送任何数据",
    "yours": "{name}={value} 取自你的环境",
    "alone-among-several": "{ENV:=dsw} 只用本机：不读取你环境中的 {said}；多台机器请用 dlc 或 slurm",
    "yours-too": "取自你的环境：{settings}",
    "decided-by-plan": "不传递你环境中的 {names}：由计划决定",
    "memory-warning-gpu": "一个进程大约需要 {needed}，GPU 只能提供 {there}；代价最小的改动：{change}",
    "memory-warning-ram": "加上卸载的优化器，各进程大约需要 {needed} 内存，可用的只有 {there}；"
    "代价最小的改动：{change}",
    "memory-warning-ram-copies": "加上卸载的优化器和后台保存的副本（{MP_BACKGROUND_SAVE:=false} 不需要），"
    "各进程大约需要 {needed} 内存，可用的只有 {there}；代价最小的改动：{change}",
    "memory-warning-cpu": "一个进程大约需要 {needed}，每个进程的内存只有 {there}；代价最小的改动：{change}",
    "weights-only": "检查点只含权重：运行无法从中继续，收到信号之后也一样；新的运行可以从它们开始 "
    "（{PRETRAIN_CHECKPOINT_PATH:@}）",
    "shared-memory-small": "/dev/shm 有 {size}：NCCL 和数据加载器可能因空间不足或总线错误而中止；"
    "启动容器时用 --shm-size=8g 或 --ipc=host 增大它",
    "disk-one": "一个检查点大约 {each}，磁盘只剩 {free}",
    "disk-several": "{count} 个检查点大约 {size}，磁盘只剩 {free}：{change}",
    "disk-keep": "{MP_KEEP_CHECKPOINTS:={fits}}",
    "disk-interval": "更大的 {SAVE_INTERVAL:@}，或另一块磁盘",
    "change": "{change}：{size}",
    "change-smaller-cpu": "更小的 {MODEL_SIZE:@}，或内存更大的机器",
    "change-smaller-gpu": "更小的 {MODEL_SIZE:@} 或 {SEQ_LEN:@}，或显存更大的 GPU",
    "change-do": "{DO:=true@}",
    "change-batch": "{BATCH_SIZE:=1@}",
    "change-tp": "{TP:={tp}@} 和 {SP:=true@}，进程数不变",
    "change-ac": "{AC:=full@}",
    "change-offload": "{OPTIMIZER_OFFLOAD:=auto@}{more}",
    "change-ac-offload": "{AC:=full@} 和 {OPTIMIZER_OFFLOAD:=auto@}{more}",
    "change-tp-ac": "{TP:={tp}@}、{SP:=true@} 和 {AC:=full@}",
    "change-with-sp": "，{SP:=true@}",
    "change-with-do": "，{DO:=true@}",
    "change-with-sp-do": "，{SP:=true@}，{DO:=true@}",
    "change-ranks-gpu": "{TP:={tp}@} x {PP:={pp}@}，{ranks} 个 GPU{more}",
    "change-ranks-cpu": "{TP:={tp}@} x {PP:={pp}@}，{ranks} 个进程{more}",
    "change-ranks-ac-gpu": "{TP:={tp}@} x {PP:={pp}@}，{ranks} 个 GPU{more}，{AC:=full@}",
    "change-ranks-ac-cpu": "{TP:={tp}@} x {PP:={pp}@}，{ranks} 个进程{more}，{AC:=full@}",
}
