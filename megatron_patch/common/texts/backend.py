"""Megatron, torch and the device under a run, and the checkpoints that it writes and reads."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    # versions and devices
    "package-not-installed": "{package} is not installed; install {package}=={wanted}",
    "package-version": "{package} is {found}, but megatron_patch/backend touches internals of {wanted}: install "
    "{package}=={wanted}, or check every patch and change PINNED_VERSIONS",
    "patch-target-gone": "cannot patch {name}: it does not exist any more ({why})",
    "device-unknown": "device is {device}; valid: {devices}",
    "device-changed": "this process already runs on {before}, it cannot change to {device}",
    "torch-no-gpu": "--device cuda, but torch sees no GPU; take --device cpu or check the driver",
    "no-helpers": "megatron-core has no megatron/core/datasets/helpers_cpp*.so: install the PyPI wheel",
    "attention-unfused": "Transformer Engine would run unfused attention at {tokens} tokens: 15 times slower, and S "
    "x S memory\n{reasons:/}\ntake bf16, fp16 or fp8; `{tool:doctor}` checks the "
    "libraries;\nMP_ALLOW_UNFUSED_ATTENTION=1 (--allow-unfused-attention) trains with it all the same",
    "attention-cudnn": "  torch runs cuDNN {torch}, Transformer Engine {engine}: they must be the same (CUDNN_HOME)",
    "attention-kernel": "attention {name}",
    "graphs-recorded": "CUDA graphs: {count} recorded in {seconds} s",
    "attention-flash-4-left-out": "flash-attn-4 {version} is left out, cuDNN computes attention: under this "
    "Transformer Engine it would not be causal, or it cannot be imported. requirements-gpu.txt has the right "
    "version",
    "attention-flash-4-wrong": "flash-attn-4 {version} would not compute causal attention: it reads Transformer "
    "Engine's window otherwise. Install the version of requirements-gpu.txt, or take MP_ATTENTION_BACKEND=fused",
    "engine-without-pickle": "no module of Transformer Engine imports pickle any more: see how it reads fp8 state now",
    "optimizer-read-elsewhere": "{key} of the optimizer was read into another tensor: it would be lost",
    "save-writing": "writing {file}",
    "item-unreadable": "{item} cannot be read: {error}",
    "fallback-event": "{first}; {second}",
    "loss-fusion-dtype": "--cross-entropy-loss-fusion takes bf16 or fp32 logits, not {dtype}: leave it out",
    "optimizer-scaled": "the optimizer keeps {names} with a scale: take fp32 or bf16",
    # saving and loading a run's checkpoints
    "save-stuck": "{path} is not written: {doing} for {seconds} s. The disk or the network file system does not "
    "answer; the newest checkpoint is the one before",
    "save-of-rank": "rank {rank}: {error}",
    "save-failed": "a checkpoint was not written: {failures}",
    "load-failed": "the checkpoint cannot be loaded; the reason is in the last lines of the log",
    "load-nothing": "{folder} holds no checkpoint: latest_checkpointed_iteration.txt is missing",
    "pickle-asks": "it asks for {name}, which no checkpoint needs: it may be an attack",
    "archive-compressed": "record {record} is compressed",
    "archive-record-short": "the record at byte {start} has {bytes} bytes, its tensor {shape} needs more",
    "metadata-not-torch": "not the metadata of a torch_dist checkpoint",
    "metadata-outside": "refused: it names {name}, which is outside the folder",
    "on-rank": "rank {rank}: {what}",
    "none-is-whole": "{checkpoint} is damaged: {damage}. No other checkpoint in {folder} is whole, and a run does "
    "not begin anew over them: take another OUTPUT_BASEPATH, or move the folder away",
    "fallback-damaged": "{checkpoint} is damaged: {damage}",
    "fallback-goes-on": "set aside as {aside} ({count} in this folder); going on from iteration {best} instead",
    "fallback-set-aside": "{damage}: set aside as {aside}",
    "read-unverified": "{folder} has no {file}: read unverified (an earlier version wrote it, or a converter)",
    "older-kept": "{damage} ({count} in all): older checkpoints are kept",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    # versions and devices
    "package-not-installed": "没有安装 {package}；请安装 {package}=={wanted}",
    "package-version": "{package} 的版本是 {found}，而 megatron_patch/backend 依赖 {wanted} 的内部实现：请安装 "
    "{package}=={wanted}，或检查每个补丁后修改 PINNED_VERSIONS",
    "patch-target-gone": "无法打补丁 {name}：它已经不存在（{why}）",
    "device-unknown": "设备为 {device}；可用：{devices}",
    "device-changed": "这个进程已经在 {before} 上运行，不能改为 {device}",
    "torch-no-gpu": "给出了 --device cuda，但 torch 看不到 GPU；请用 --device cpu，或检查驱动",
    "no-helpers": "megatron-core 中没有 megatron/core/datasets/helpers_cpp*.so：请安装 PyPI 的 wheel",
    "attention-unfused": "序列长 {tokens} 个词元时，Transformer Engine 会使用未融合的注意力：慢 15 倍，且显存占用为 "
    "S x S\n{reasons:/}\n请用 bf16、fp16 或 fp8；`{tool:doctor}` 检查各个库；"
    "\nMP_ALLOW_UNFUSED_ATTENTION=1（--allow-unfused-attention）可以照样训练",
    "attention-cudnn": "  torch 使用 cuDNN {torch}，Transformer Engine 使用 {engine}：两者必须相同（CUDNN_HOME）",
    "attention-kernel": "注意力 {name}",
    "graphs-recorded": "CUDA graph：已录制 {count} 个，用时 {seconds} s",
    "attention-flash-4-left-out": "不使用 flash-attn-4 {version}，注意力由 cuDNN 计算：在这个 Transformer Engine 下"
    "它不是因果的，或者无法导入。正确的版本见 requirements-gpu.txt",
    "attention-flash-4-wrong": "flash-attn-4 {version} 算出的不会是因果注意力：它对 Transformer Engine 给出的窗口"
    "有不同的理解。请安装 requirements-gpu.txt 中的版本，或使用 MP_ATTENTION_BACKEND=fused",
    "engine-without-pickle": "Transformer Engine 中已没有导入 pickle 的模块：请查看它现在如何读取 fp8 状态",
    "optimizer-read-elsewhere": "优化器的 {key} 被读入另一个张量：会丢失",
    "save-writing": "写入 {file}",
    "item-unreadable": "无法读取 {item}：{error}",
    "fallback-event": "{first}；{second}",
    "loss-fusion-dtype": "--cross-entropy-loss-fusion 只接受 bf16 或 fp32 的 logits，而不是 {dtype}：请不要使用它",
    "optimizer-scaled": "优化器以缩放形式保存 {names}：请用 fp32 或 bf16",
    # saving and loading a run's checkpoints
    "save-stuck": "{path} 没有写成：{doing} 已持续 {seconds} 秒。磁盘或网络文件系统没有响应；最新的检查点是前一个",
    "save-of-rank": "rank {rank}：{error}",
    "save-failed": "检查点没有写成：{failures}",
    "load-failed": "无法加载检查点；原因在日志的最后几行",
    "load-nothing": "{folder} 中没有检查点：缺少 latest_checkpointed_iteration.txt",
    "pickle-asks": "它引用了检查点不需要的 {name}：可能是攻击",
    "archive-compressed": "记录 {record} 是压缩的",
    "archive-record-short": "第 {start} 字节处的记录有 {bytes} 字节，少于张量 {shape} 所需",
    "metadata-not-torch": "不是 torch_dist 检查点的元数据",
    "metadata-outside": "已拒绝：它引用了文件夹之外的 {name}",
    "on-rank": "rank {rank}：{what}",
    "none-is-whole": "{checkpoint} 已损坏：{damage}。{folder} 中没有其他完整的检查点，训练不会在其上重新开始："
    "请换一个 OUTPUT_BASEPATH，或移走这个文件夹",
    "fallback-damaged": "{checkpoint} 已损坏：{damage}",
    "fallback-goes-on": "已移到一旁，改名为 {aside}（这个文件夹中共 {count} 个）；改从第 {best} 次迭代继续",
    "fallback-set-aside": "{damage}：已移到一旁，改名为 {aside}",
    "read-unverified": "{folder} 没有 {file}：读取时不做校验（由早期版本或转换工具写入）",
    "older-kept": "{damage}（共 {count} 处）：保留较早的检查点",
}
