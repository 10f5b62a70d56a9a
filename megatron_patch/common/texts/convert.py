"""The converter: its command line, what it says, and the layer check."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    # the command line
    "convert-problems": "{count:problem|problems}; nothing was written.",
    "convert-see-help": "`--help` shows the form.",
    "convert-family": "--family: is {family}; valid: {families}",
    "convert-said-twice": "positions and {flags} say the same: give one of them",
    "convert-rank-files-hf": "--per-rank-files writes a Megatron checkpoint, and mcore2hf none: give hf2mcore or "
    "mcore2mcore",
    "convert-no-check": "the check holds torch_dist against Hugging Face: neither {CHECK} nor {CHECK_ONLY} goes with "
    "--per-rank-files or mcore2mcore",
    "convert-iteration": "--iteration is for Megatron sources only",
    "convert-values": "{given} values where {least} or {most} are needed; missing: position {missing}",
    "convert-values-more": "{given} values where {least} or {most} are needed; the last is not known: {last}",
    "convert-flag-missing": "{flag} is missing (or the {least} positions: --help shows them)",
    "expect-shard-size": "a size such as 5GB or 500MB",
    "not-shard-size": "not a size",
    "layout-tp": "{TP} is {tp}: {why}",
    "layout-pp": "{PP} is {pp}: of {layers} layers the last stage would get none",
    "check-per-rank": "per-rank files of the old format, and the check reads torch_dist: convert it to that first, "
    "with --direction {direction}",
    "check-no-folder": "no such folder; {CHECK_ONLY} compares two that exist",
    "configurations-differ": "{one} and {other} disagree: {field} is {mine} there and {theirs} here",
    # what the converter says
    "left-out-computed": "{tensor} is left out: Megatron computes it from config.json",
    "left-out-tied": "{tensor} is left out: config.json ties it to the embedding",
    "padding-rows": "{tensor}: {rows:row|rows} of padding",
    "hf-path-not-used": "{HF_CKPT_PATH} is for a Megatron source: not used",
    "vocabulary-padded": "vocabulary {vocabulary} is padded with {rows:row|rows} of zeros, {what}",
    "padded-for-all": "the same for every TP",
    "padded-for-tp": "as TP {tp} wants it",
    "cast-exact": "weights in {found} are written in {target}, exactly",
    "cast-rounded": "weights in {found} are written in {target}, rounded: the way back does not give the same bits",
    "convert-reading": "reading {iteration}; architecture from {origin}",
    "convert-verified": "{gigabytes} GB are as its manifest says",
    "convert-unverified": "not held against its manifest (--no-verify)",
    "convert-leftover": "removing {path}, left by a run that was killed",
    "convert-wrote": "wrote {target}: {gigabytes} GB of weights in {seconds} s, with manifest.json",
    "convert-own-config": "no configuration lies with it; taken from {origin}",
    "verify-sound": "{gigabytes} GB are what was written",
    "verify-without": "written without {file}: only its names and sizes were looked at",
    "verify-done": "{what} ({seconds} s)",
    "verify-checkpoints": "{count:checkpoint|checkpoints}",
    "verify-folder": "{gigabytes} GB are as the manifest says",
    # --dry-run
    "convert-plan": "{source} -> {target} ({direction}, {precision})",
    "its-own-precision": "its own precision",
    "convert-plan-model": "  layers {layers}, hidden {hidden}, vocabulary {vocabulary}",
    "convert-plan-check": "  checks only: writes check.json and check.png into the target",
    "convert-plan-bytes": "  writes {bytes:,} bytes ({gigabytes} GB)",
    "convert-plan-time": "  takes about {seconds} s at the {speed} GB/s that its disk just wrote and flushed",
    "convert-plan-room": "  needs {needed} GB of free space, {free} GB are free",
    # list and --help
    "convert-list-parameters": "{billions} B parameters",
    "convert-list-vocabulary": "  vocabulary of its tokenizer",
    "convert-list-size": "{layers} layers, hidden {hidden}, {heads} heads, {groups} KV heads",
    "convert-list-tied": "{size}, tied embeddings",
    "convert-list-auto": "any model_type of {types} whose config.json says what Megatron can do",
    "convert-position": "valid: {valid}; example: {example}",
    "convert-model-size": "size of the model; auto takes what config.json says",
    "convert-source": "what is converted: a Hugging Face folder, or for mg2hf a Megatron one",
    "convert-target": "the folder that is written",
    "convert-tp": "tensor parallel size that the check loads it with (the files fit every one)",
    "convert-pp": "pipeline parallel size that the check loads it with (the files fit every one)",
    "convert-mg2hf": "true: Megatron to Hugging Face; false: the other way",
    "convert-check": "compare both models layer by layer after the conversion",
    "convert-check-only": "compare them, convert nothing: both folders exist",
    "convert-precision": "precision of what is written",
    "convert-hf-path": "optional, for mg2hf: where config.json and tokenizer come from; else from beside the source",
    "convert-help": """Converts a model between Hugging Face and Megatron-Core, streamed, and checks it layer by layer.

usage: {script} POSITIONS 1-9 [HF_CKPT_PATH] [flags]
       {script} --source DIR --output-path DIR [flags]
       {script} list            the models and sizes
       {script} verify DIR      hold a folder against its SHA-256 manifest

{positions:/}

flags, after the positions or instead of them:
  --source DIR  --output-path DIR  --model-name SIZE  --tp N  --pp N
  --direction hf2mcore|mcore2hf|mcore2mcore
  --check  --check-only  --precision PR  --hf-path DIR
                          the positions, named; left out, SIZE is auto, PR and direction are the source's
  --overwrite             replace the target, in one step, when everything is written
  --dry-run               say bytes, time and space; write nothing (DRY_RUN=1 too)
  --iteration N           a Megatron source: another iteration than the newest
  --max-shard-size 5GB    mcore2hf: most bytes of a safetensors file
  --workers N             workers; each holds 64 MiB
  --no-verify             do not hold the source against its manifest
  --allow-pickle          read pytorch_model*.bin, with torch's weights_only loader
  --per-rank-files        write Megatron's old format, mp_rank_XX_YYY/model_optim_rng.pt, for this TP and
                          PP alone, with Transformer Engine's names. To read it needs no flag: mcore2hf,
                          or mcore2mcore for a checkpoint that every TP and PP loads

exit status: 0 done; 1 the check found an error beyond the tolerance; 2 nothing was written, and why""",
    # the layer check
    "check-processes": "the check runs {processes:process|processes} on {cores:core|cores}",
    "check-processes-failed": "the check's processes failed; their last words:\n{lines:/}",
    "check-other-model": "{hf} and {megatron} are not one model: {what}",
    "check-differs": "{field} is {found}, in Megatron's {wanted}",
    "check-tokens": "{sequences:sequence|sequences} of {length} tokens of Python's library",
    "check-no-tokenizer": "{folder} has no tokenizer: bytes of Python's library, scattered over the vocabulary, "
    "stand for tokens",
    "check-token-beyond": "its tokenizer gives token {token}, the model has {vocabulary}",
    "check-passed": "check passed: every part of every layer is within its tolerance",
    "check-failed-configuration": "check FAILED: configuration: {what}",
    "check-failed": "check FAILED: first out of tolerance: {place} {part} ({precision}): relative L2 {error}, "
    "tolerance {tolerance}",
    "check-computed": "computed in {precision}, the worst part of each layer (all {parts} are in {file}):",
    "check-beyond": "<-- out of tolerance",
    "check-at-layer": "layer {layer}",
    "check-part": "part",
    "check-mode": "mode",
    "check-max": "max abs",
    "check-l2": "rel. L2",
    "check-tolerance": "tolerance",
    "check-cosine": "cosine",
    "check-same": "same input",
    "check-accumulated": "accumulated",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    # the command line
    "convert-problems": "{count} 个问题；没有写入任何内容。",
    "convert-see-help": "用法见 `--help`。",
    "convert-family": "--family：现为 {family}；可用：{families}",
    "convert-said-twice": "按位置给出的值与 {flags} 重复：只给其中一个",
    "convert-rank-files-hf": "--per-rank-files 写的是 Megatron 检查点，而 mcore2hf 不写：请用 hf2mcore 或 mcore2mcore",
    "convert-no-check": "检查比较的是 torch_dist 与 Hugging Face：{CHECK} 和 {CHECK_ONLY} "
    "不能与 --per-rank-files 或 mcore2mcore 同用",
    "convert-iteration": "--iteration 只用于 Megatron 源",
    "convert-values": "需要 {least} 或 {most} 个值，给了 {given} 个；缺少：第 {missing}",
    "convert-values-more": "需要 {least} 或 {most} 个值，给了 {given} 个；最后一个无法识别：{last}",
    "convert-flag-missing": "缺少 {flag}（或按位置给出 {least} 个值：见 --help）",
    "expect-shard-size": "大小，例如 5GB 或 500MB",
    "not-shard-size": "不是大小",
    "layout-tp": "{TP} 为 {tp}：{why}",
    "layout-pp": "{PP} 为 {pp}：{layers} 层中，最后一个流水线阶段分不到任何层",
    "check-per-rank": "是旧格式的各 rank 文件，而检查读取 torch_dist：请先用 --direction {direction} 转换",
    "check-no-folder": "没有这个文件夹；{CHECK_ONLY} 比较两个已有的文件夹",
    "configurations-differ": "{one} 与 {other} 不一致：前者的 {field} 为 {mine}，后者为 {theirs}",
    # what the converter says
    "left-out-computed": "略去 {tensor}：Megatron 由 config.json 计算它",
    "left-out-tied": "略去 {tensor}：config.json 中它与词嵌入共享",
    "padding-rows": "{tensor}：{rows} 行填充",
    "hf-path-not-used": "{HF_CKPT_PATH} 只用于 Megatron 源：没有使用",
    "vocabulary-padded": "词表大小 {vocabulary}，用 {rows} 行零填充，{what}",
    "padded-for-all": "对任何 TP 都相同",
    "padded-for-tp": "按 TP {tp} 的要求",
    "cast-exact": "{found} 的权重写成 {target}，数值不变",
    "cast-rounded": "{found} 的权重写成 {target}，有舍入：转换回去不会逐位相同",
    "convert-reading": "正在读取 {iteration}；模型结构来自 {origin}",
    "convert-verified": "{gigabytes} GB 与文件清单一致",
    "convert-unverified": "没有按文件清单校验（--no-verify）",
    "convert-leftover": "删除 {path}，它是被终止的转换留下的",
    "convert-wrote": "已写入 {target}：{gigabytes} GB 权重，用时 {seconds} 秒，附 manifest.json",
    "convert-own-config": "旁边没有配置；取自 {origin}",
    "verify-sound": "{gigabytes} GB 与当初写入的内容一致",
    "verify-without": "写入时没有 {file}：只检查了文件名和大小",
    "verify-done": "{what}（{seconds} 秒）",
    "verify-checkpoints": "{count} 个检查点",
    "verify-folder": "{gigabytes} GB 与文件清单一致",
    # --dry-run
    "convert-plan": "{source} -> {target}（{direction}，{precision}）",
    "its-own-precision": "源的精度",
    "convert-plan-model": "  {layers} 层，隐藏维度 {hidden}，词表 {vocabulary}",
    "convert-plan-check": "  只检查：在目标中写入 check.json 和 check.png",
    "convert-plan-bytes": "  写入 {bytes:,} 字节（{gigabytes} GB）",
    "convert-plan-time": "  约需 {seconds} 秒（按磁盘刚测得的写入并落盘速度 {speed} GB/s）",
    "convert-plan-room": "  需要 {needed} GB 可用空间，现有 {free} GB",
    # list and --help
    "convert-list-parameters": "{billions} B 参数",
    "convert-list-vocabulary": "  词表取决于分词器",
    "convert-list-size": "{layers} 层，隐藏维度 {hidden}，{heads} 个注意力头，{groups} 个 KV 头",
    "convert-list-tied": "{size}，共享词嵌入",
    "convert-list-auto": "model_type 为 {types} 之一、且 config.json 的内容 Megatron 都支持的任何模型",
    "convert-position": "可用：{valid}；例如：{example}",
    "convert-model-size": "模型规模；auto 取自 config.json",
    "convert-source": "要转换的：Hugging Face 文件夹；mg2hf 时为 Megatron 文件夹",
    "convert-target": "要写入的文件夹",
    "convert-tp": "检查加载时的张量并行大小（文件适用于任何大小）",
    "convert-pp": "检查加载时的流水线并行大小（文件适用于任何大小）",
    "convert-mg2hf": "true：Megatron 转为 Hugging Face；false：反方向",
    "convert-check": "转换后逐层比较两个模型",
    "convert-check-only": "只比较，不转换：两个文件夹都已存在",
    "convert-precision": "写入的精度",
    "convert-hf-path": "可选，用于 mg2hf：config.json 和分词器的来源；否则取自源的旁边",
    "convert-help": """在 Hugging Face 与 Megatron-Core 之间流式转换模型，并逐层检查。

用法：{script} 第 1-9 个值 [HF_CKPT_PATH] [参数]
      {script} --source DIR --output-path DIR [参数]
      {script} list            列出模型和规模
      {script} verify DIR      按 SHA-256 文件清单校验文件夹

{positions:/}

参数，放在各值之后，或代替它们：
  --source DIR  --output-path DIR  --model-name SIZE  --tp N  --pp N
  --direction hf2mcore|mcore2hf|mcore2mcore
  --check  --check-only  --precision PR  --hf-path DIR
                          与上面的值相同；不给时 SIZE 为 auto，PR 和方向取决于源
  --overwrite             全部写完后一步替换目标
  --dry-run               给出字节数、时间和空间，不写任何内容（DRY_RUN=1 也可以）
  --iteration N           源是 Megatron 检查点时：使用最新以外的某次迭代
  --max-shard-size 5GB    mcore2hf：每个 safetensors 文件的最大字节数
  --workers N             工作者数；每个占用 64 MiB
  --no-verify             不按文件清单校验源
  --allow-pickle          用 torch 的 weights_only 加载器读取 pytorch_model*.bin
  --per-rank-files        写成 Megatron 的旧格式 mp_rank_XX_YYY/model_optim_rng.pt，只适用于这组 TP 和 PP，
                          使用 Transformer Engine 的名称。读取它不需要参数：用 mcore2hf，
                          或用 mcore2mcore 得到任何 TP 和 PP 都能加载的检查点

退出状态：0 完成；1 检查发现超出容差的误差；2 没有写入任何内容，并说明原因""",
    # the layer check
    "check-processes": "检查在 {cores} 个核上运行 {processes} 个进程",
    "check-processes-failed": "检查的进程失败了；最后的输出：\n{lines:/}",
    "check-other-model": "{hf} 与 {megatron} 不是同一个模型：{what}",
    "check-differs": "{field} 为 {found}，Megatron 一侧为 {wanted}",
    "check-tokens": "取自 Python 标准库的 {sequences} 条序列，每条 {length} 个词元",
    "check-no-tokenizer": "{folder} 没有分词器：用分散到整个词表的 Python 标准库字节代替词元",
    "check-token-beyond": "它的分词器给出词元 {token}，而模型只有 {vocabulary} 个",
    "check-passed": "检查通过：每一层的每个部分都在容差之内",
    "check-failed-configuration": "检查未通过：配置：{what}",
    "check-failed": "检查未通过：最先超出容差的是：{place} {part}（{precision}）：相对 L2 误差 {error}，容差 "
    "{tolerance}",
    "check-computed": "以 {precision} 计算，每层误差最大的部分（全部 {parts} 个部分在 {file} 中）：",
    "check-beyond": "<-- 超出容差",
    "check-at-layer": "第 {layer} 层",
    "check-part": "部分",
    "check-mode": "输入",
    "check-max": "最大绝对",
    "check-l2": "相对 L2",
    "check-tolerance": "容差",
    "check-cosine": "余弦",
    "check-same": "相同输入",
    "check-accumulated": "误差累积",
}
