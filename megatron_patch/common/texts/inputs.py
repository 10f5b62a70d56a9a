"""Models, checkpoints, tokenizers and data that a run is given."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    # model and checkpoint
    "auto-needs-config": ("auto needs a config.json in the checkpoint", "{sizes}, or a checkpoint with it"),
    "config-refused": ("{what}", "a checkpoint of a model that can be trained here"),
    "dropout": (
        "{file} says {key} {rate}, and training here has no dropout",
        "a folder whose config.json says {key} 0",
    ),
    "hf-weights": ("{what}", "the folder of a whole model, as its config.json says"),
    "size-is-another": ("{what}", "the checkpoint's size, or auto to take what it is"),
    "expect-weights": "`none`, a Hugging Face folder (config.json and *.safetensors), a Megatron folder "
    "(latest_checkpointed_iteration.txt and iter_NNNNNNN/ or release/), one iter_NNNNNNN/ of it, or the "
    "{OUTPUT_BASEPATH} of an earlier run",
    "no-such-folder": "no such folder",
    "no-such-folder-hub": "no such folder; a model on the Hugging Face hub is downloaded first, with "
    "`hf download {path} --local-dir FOLDER`",
    "file-not-folder": "a file, not a folder",
    "file-of-nemo": "an archive of NeMo 1: NeMo's own convert_llama_nemo_to_hf.py makes a Hugging Face folder of it",
    "checkpoint-nemo": "a checkpoint of NeMo 2: there, `nemo llm export -y path={folder} output_path=FOLDER target=hf` "
    "makes a Hugging Face folder of it",
    "checkpoint-backend": "metadata.json says that the format is {backend}, and torch_dist is the one that is read: "
    "save it with Megatron's --ckpt-format torch_dist",
    "no-checkpoint": "no checkpoint: it holds {found}",
    "checkpoint-below": "not a checkpoint itself; what lies below it is: {below}",
    "run-without-checkpoint": "a run that has not saved a checkpoint yet",
    "no-checkpoint-empty": "no checkpoint: the folder is empty",
    "no-checkpoint-more": "no checkpoint: it holds {found} and {more} more",
    "config-missing": "safetensors without a config.json",
    "shards-missing": "{missing} of {shards:shard is|shards are} missing: {names}",
    "index-names-no-shard": "model.safetensors.index.json names no shard",
    "index-beside-single": "both model.safetensors and model.safetensors.index.json, of which transformers reads the "
    "former: remove the one that is not the model",
    "config-and-pickles": "config.json, but pickled *.bin weights, which may run code: save them as safetensors",
    "config-without-weights": "config.json, but no weights",
    "checkpoint-torn": "a torch_dist checkpoint that was not written to its end",
    "checkpoint-name": "a torch_dist checkpoint not called iter_NNNNNNN or release, as Megatron's loader asks",
    "checkpoint-tracker": "Megatron loads {folder} only if ../latest_checkpointed_iteration.txt says {pointed}",
    "tracker-wrong": "latest_checkpointed_iteration.txt says {pointed}; a number or 'release' is needed",
    "checkpoint-per-rank": "{folder} is in Megatron's old per-rank format: convert it to torch_dist, with "
    "`{tool:convert} --direction mcore2mcore`",
    "checkpoint-adapters": "LoRA adapters alone, without the weights they belong to: "
    "`{tool:adapters} merge` makes a whole model of both, its `export` a folder of PEFT's "
    "(MP_LORA_ADAPTER goes on from that, beside the base)",
    "checkpoint-unfinished": "{folder} was not written to its end; complete: {others}",
    "checkpoint-absent": "{folder} does not exist; complete: {others}",
    "tracker-unfinished": "latest_checkpointed_iteration.txt points to {folder}, which was not written to its end; "
    "complete: {others}",
    "tracker-absent": "latest_checkpointed_iteration.txt points to {folder}, which does not exist; complete: {others}",
    "none": "none",
    "not-megatron": "a Hugging Face folder, not a Megatron checkpoint: no latest_checkpointed_iteration.txt and no "
    ".metadata",
    "index-unreadable": "not a safetensors index ({error})",
    "plan-without-model": "says no architecture ({error})",
    # tokenizer
    "tokenizer-not-named": (
        "without a checkpoint the tokenizer has to be named",
        "{MP_TOKENIZER_PATH}: a folder with tokenizer.json, or a SentencePiece .model",
    ),
    "tokenizer-none": ("no tokenizer: {error}", "{MP_TOKENIZER_PATH}: a folder with tokenizer.json"),
    "tokenizer-too-large": (
        "the tokenizer has {ids:id|ids}, the model {rows:row|rows}: {path}",
        "a tokenizer with no more ids than the model",
    ),
    "tokenizer-absent": "{place} holds no tokenizer.json",
    "tokenizer-not-folder": "{place} is not a folder",
    "tokenizer-unreadable": "{file} cannot be read: {kind}: {error}",
    # data
    "expect-idxmap": "a prefix of .bin and .idx, several, or a blend `0.3 A 0.7 B`",
    "expect-idxmap-or-none": "a prefix of .bin and .idx, several, or a blend `0.3 A 0.7 B`; or none",
    "expect-raw": "a JSON file, several, or a blend `0.3 A 0.7 B`",
    "expect-raw-or-none": "a JSON file, several, or a blend `0.3 A 0.7 B`; or none",
    "blend-empty": "no dataset is named",
    "blend-form": "a blend is weight, path, weight, path: numbers above 0 before every path; found {found}",
    "folder-empty": "the folder {folder} is empty",
    "folder-without-idx": "no .idx in the folder {folder}, nor below it",
    "folder-of-json": "no .idx in the folder {folder}, nor below it: conversations in JSON or Parquet are read with "
    "{SFT:=true} and {MP_DATASET_TYPE:=raw}, texts for pretraining become .bin and .idx by `{tool:data pretrain}`",
    "prefix-with-suffix": "{prefix} is one half: give the prefix, without {suffix}",
    "prefix-white-space": "{prefix} begins or ends in white space, which Megatron cuts off: rename it",
    "no-such-file": "no such file: {files}",
    "no-such-file-commas": "no such file: {files}; datasets are separated by spaces, not by commas",
    "no-such-file-tilde": "no such file: {files}; within quotes the shell does not replace ~ by the home folder",
    "no-such-file-but-json": "no such file: {files}; conversations in JSON or Parquet are read with {SFT:=true} and "
    "{MP_DATASET_TYPE:=raw}, texts for pretraining become .bin and .idx by `{tool:data pretrain}`",
    "no-such-file-but-idxmap": "no such file: {files}; an idxmap lies there: unset {MP_DATASET_TYPE}",
    "file-empty": "{file} is empty",
    "index-cut": "{file} is cut: {size} bytes, the header alone has {header}",
    "file-missing": "{file} is missing",
    "index-foreign": "{file} is not an index of Megatron's: it does not start with {magic}",
    "index-version": "{file} has version {version}, token type {type}; known: version 1, types {known}",
    "index-empty": "{file} is damaged: it has 0 sequences",
    "index-damaged": "{file} is damaged: {sequences:sequence|sequences} and {boundaries:document boundary|document "
    "boundaries} do not make {size} bytes",
    "data-cut": "{file} has {size} bytes, its index says {expected_size}: not from one run, or cut",
    "raw-no-file": "{path} is not, and does not hold, a file that ends in {suffixes} (before {packed} too)",
    "raw-no-conversation": "none of the first rows can be used; {place}: {why}",
    "folder-of-a-run": "{folder} is the output folder of a run, whose plan, metrics and reports are JSON too: name the "
    "data files, or move them to a folder of their own",
    "folder-of-splits": "{folder} holds the splits {splits}; wanted one of them, as {first}",
    "not-parquet": "{file} is not a Parquet file",
    "not-json-rows": "{file} is not JSON: it begins with neither [ nor {{",
    "raw-without-sft": (
        "raw JSON holds conversations; text for pretraining has to be tokenized first",
        "idxmap (`{tool:data pretrain}` makes it), or {SFT:=true}",
    ),
    "packing-without-sft": ("packing is for SFT", "false, or {SFT:=true}"),
    "sft-sentencepiece": (
        "a SentencePiece model has no chat template",
        "a folder with tokenizer.json and a chat template",
    ),
    "sft-tokenizer": ("{found}", "the folder of an instruct model's tokenizer, or one with a chat_template.jinja"),
    "sft-idxmap": (
        "{found}",
        "an idxmap that `{tool:data sft}` built for this {SEQ_LEN} and tokenizer",
    ),
    "pretraining-idxmap": (
        "{found}",
        "an idxmap that `{tool:data pretrain}` made with this tokenizer",
    ),
    "idxmap-check-fails": (
        "the check of the data ended with status {status}: {last}",
        "data that `{tool:data verify}` takes",
    ),
    "idxmap-damaged": (
        "{found}",
        "whole data: `{tool:data verify}` says more; make them again",
    ),
    "split-under-sft": (
        "under SFT only conversations as JSON are split",
        "{MP_DATASET_TYPE:=raw}, or unset and {VALID_DATASET_PATH}",
    ),
    "index-memory": (
        "{path} would be read {epochs} times, and the index of that takes {needed} of RAM; there are {ram}",
        "up to {most} tokens",
    ),
    "split-and-data": (
        "both say where the validation data comes from",
        "one of them; {VALID_DATASET_PATH:=none}",
    ),
    "split-form": ("not shares of training and validation, both above 0", "such as 99,1; unset, all is for training"),
    "split-empty-share": (
        "a share of {share} of the {documents:document|documents} in {path} is none",
        "larger shares, such as {suggested}, or more documents",
    ),
    "split-few-documents": (
        "a share of {share} of the {documents:document|documents} in {path} is none",
        "{wanted} documents at least, or {VALID_DATASET_PATH}",
    ),
}

CHINESE: dict[str, str | tuple[str, str]] = {
    # model and checkpoint
    "auto-needs-config": ("auto 需要检查点里的 config.json", "{sizes}，或带 config.json 的检查点"),
    "config-refused": ("{what}", "这里能训练的模型的检查点"),
    "dropout": ("{file} 中 {key} 为 {rate}，而这里的训练没有 dropout", "config.json 中 {key} 为 0 的文件夹"),
    "hf-weights": ("{what}", "完整模型的文件夹，与它的 config.json 一致"),
    "size-is-another": ("{what}", "检查点的规模，或用 auto 采用它的结构"),
    "expect-weights": "`none`、Hugging Face 文件夹（config.json 和 *.safetensors）、Megatron 文件夹"
    "（latest_checkpointed_iteration.txt 和 iter_NNNNNNN/ 或 release/）、其中一个 iter_NNNNNNN/，或之前运行的 "
    "{OUTPUT_BASEPATH}",
    "no-such-folder": "没有这个文件夹",
    "no-such-folder-hub": "没有这个文件夹；Hugging Face hub 上的模型要先下载：`hf download {path} --local-dir FOLDER`",
    "file-not-folder": "是文件，不是文件夹",
    "file-of-nemo": "NeMo 1 的归档：用 NeMo 自己的 convert_llama_nemo_to_hf.py 转成 Hugging Face 文件夹",
    "checkpoint-nemo": "NeMo 2 的检查点：用 NeMo 运行 `nemo llm export -y path={folder} output_path=FOLDER target=hf`，"
    "得到 Hugging Face 文件夹",
    "checkpoint-backend": "metadata.json 说格式是 {backend}，这里只读 torch_dist："
    "用 Megatron 的 --ckpt-format torch_dist 保存",
    "no-checkpoint": "不是检查点：里面有 {found}",
    "checkpoint-below": "它本身不是检查点；它下面的才是：{below}",
    "run-without-checkpoint": "该运行还没有保存过检查点",
    "no-checkpoint-empty": "不是检查点：文件夹是空的",
    "no-checkpoint-more": "不是检查点：里面有 {found} 等，另有 {more} 个",
    "config-missing": "有 safetensors，但没有 config.json",
    "shards-missing": "{shards} 个分片缺少 {missing} 个：{names}",
    "index-names-no-shard": "model.safetensors.index.json 没有列出任何分片",
    "index-beside-single": "同时有 model.safetensors 和 model.safetensors.index.json，transformers 读前者："
    "请删除不是该模型的一个",
    "config-and-pickles": "有 config.json，但权重是 pickle 格式的 *.bin，可能执行代码：请另存为 safetensors",
    "config-without-weights": "有 config.json，但没有权重",
    "checkpoint-torn": "没有写完的 torch_dist 检查点",
    "checkpoint-name": "torch_dist 检查点的名称不是 Megatron 要求的 iter_NNNNNNN 或 release",
    "checkpoint-tracker": "只有 ../latest_checkpointed_iteration.txt 写着 {pointed} 时，Megatron 才读取 {folder}",
    "tracker-wrong": "latest_checkpointed_iteration.txt 的内容是 {pointed}；应为数字或 'release'",
    "checkpoint-per-rank": "{folder} 是 Megatron 旧的逐进程格式：请用 "
    "`{tool:convert} --direction mcore2mcore` 转换为 torch_dist",
    "checkpoint-adapters": "只有 LoRA 适配器，没有它们所属的权重："
    "`{tool:adapters} merge` 把两者合并成完整的模型，它的 `export` 写出 PEFT 的文件夹"
    "（MP_LORA_ADAPTER 与基础模型一起从它继续训练）",
    "checkpoint-unfinished": "{folder} 没有写完；完整的有：{others}",
    "checkpoint-absent": "{folder} 不存在；完整的有：{others}",
    "tracker-unfinished": "latest_checkpointed_iteration.txt 指向没有写完的 {folder}；完整的有：{others}",
    "tracker-absent": "latest_checkpointed_iteration.txt 指向不存在的 {folder}；完整的有：{others}",
    "none": "没有",
    "not-megatron": "是 Hugging Face 文件夹，不是 Megatron 检查点：没有 latest_checkpointed_iteration.txt，也没有 "
    ".metadata",
    "index-unreadable": "不是 safetensors 索引（{error}）",
    "plan-without-model": "没有说明模型结构（{error}）",
    # tokenizer
    "tokenizer-not-named": (
        "没有检查点时必须指定分词器",
        "{MP_TOKENIZER_PATH}：含 tokenizer.json 的文件夹，或 SentencePiece 的 .model 文件",
    ),
    "tokenizer-none": ("没有分词器：{error}", "{MP_TOKENIZER_PATH}：含 tokenizer.json 的文件夹"),
    "tokenizer-too-large": ("分词器有 {ids} 个 id，模型只有 {rows} 行：{path}", "id 数不超过模型行数的分词器"),
    "tokenizer-absent": "{place} 中没有 tokenizer.json",
    "tokenizer-not-folder": "{place} 不是文件夹",
    "tokenizer-unreadable": "无法读取 {file}：{kind}：{error}",
    # data
    "expect-idxmap": ".bin 和 .idx 的前缀、多个，或混合 `0.3 A 0.7 B`",
    "expect-idxmap-or-none": ".bin 和 .idx 的前缀、多个，或混合 `0.3 A 0.7 B`；或 none",
    "expect-raw": "一个 JSON 文件、多个，或混合 `0.3 A 0.7 B`",
    "expect-raw-or-none": "一个 JSON 文件、多个，或混合 `0.3 A 0.7 B`；或 none",
    "blend-empty": "没有指定数据集",
    "blend-form": "混合的形式是 权重 路径 权重 路径：每个路径前有一个大于 0 的数；这里是 {found}",
    "folder-empty": "文件夹 {folder} 是空的",
    "folder-without-idx": "文件夹 {folder} 及其子文件夹中没有 .idx",
    "folder-of-json": "文件夹 {folder} 及其下没有 .idx：JSON 或 Parquet 的对话数据"
    "用 {SFT:=true} 和 {MP_DATASET_TYPE:=raw} 读取，预训练文本用 `{tool:data pretrain}` 转成 .bin 和 .idx",
    "prefix-with-suffix": "{prefix} 只是一半：请给出不带 {suffix} 的前缀",
    "prefix-white-space": "{prefix} 以空白开头或结尾，Megatron 会把它去掉：请改名",
    "no-such-file": "没有这个文件：{files}",
    "no-such-file-commas": "没有这个文件：{files}；数据集之间用空格分开，不用逗号",
    "no-such-file-tilde": "没有这个文件：{files}；引号内的 ~ 不会被 shell 换成主目录",
    "no-such-file-but-json": "没有这个文件：{files}；JSON 或 Parquet 的对话数据"
    "用 {SFT:=true} 和 {MP_DATASET_TYPE:=raw} 读取，预训练文本用 `{tool:data pretrain}` 转成 .bin 和 .idx",
    "no-such-file-but-idxmap": "没有这个文件：{files}；那里有 idxmap：请取消 {MP_DATASET_TYPE}",
    "file-empty": "{file} 是空的",
    "index-cut": "{file} 不完整：只有 {size} 字节，仅文件头就有 {header} 字节",
    "file-missing": "缺少 {file}",
    "index-foreign": "{file} 不是 Megatron 的索引：不以 {magic} 开头",
    "index-version": "{file} 的版本是 {version}，词元类型是 {type}；已知的是：版本 1，类型 {known}",
    "index-empty": "{file} 已损坏：有 0 个序列",
    "index-damaged": "{file} 已损坏：{sequences} 个序列和 {boundaries} 个文档边界不会是 {size} 字节",
    "data-cut": "{file} 有 {size} 字节，索引说是 {expected_size}：不是同一次生成的，或不完整",
    "raw-no-file": "{path} 不是、也不包含以 {suffixes} 结尾的文件（其后可有 {packed}）",
    "raw-no-conversation": "最前面的行都不能用；{place}：{why}",
    "folder-of-a-run": "{folder} 是一次训练的输出文件夹，其中的计划、指标和报告也是 JSON："
    "请写出数据文件，或把数据移到单独的文件夹",
    "folder-of-splits": "{folder} 里有多个划分：{splits}；需要其中一个，例如 {first}",
    "not-parquet": "{file} 不是 Parquet 文件",
    "not-json-rows": "{file} 不是 JSON：既不以 [ 也不以 {{ 开头",
    "raw-without-sft": (
        "原始 JSON 是对话数据；预训练文本要先分词",
        "idxmap（用 `{tool:data pretrain}` 生成），或 {SFT:=true}",
    ),
    "packing-without-sft": ("序列打包只用于 SFT", "false，或 {SFT:=true}"),
    "sft-sentencepiece": ("SentencePiece 模型没有对话模板", "含 tokenizer.json 和对话模板的文件夹"),
    "sft-tokenizer": ("{found}", "instruct 模型的分词器文件夹，或带有 chat_template.jinja 的文件夹"),
    "sft-idxmap": ("{found}", "用 `{tool:data sft}` 为这个 {SEQ_LEN} 和分词器生成的 idxmap"),
    "pretraining-idxmap": ("{found}", "用 `{tool:data pretrain}` 以这个分词器生成的 idxmap"),
    "idxmap-check-fails": (
        "数据检查以状态 {status} 结束：{last}",
        "`{tool:data verify}` 接受的数据",
    ),
    "idxmap-damaged": ("{found}", "完整的数据：`{tool:data verify}` 说明更多；请重新生成"),
    "split-under-sft": (
        "SFT 下只能划分 JSON 形式的对话",
        "{MP_DATASET_TYPE:=raw}，或者不设置并使用 {VALID_DATASET_PATH}",
    ),
    "index-memory": (
        "{path} 将被读取 {epochs} 遍，其索引需要 {needed} 内存；现有 {ram}",
        "最多 {most} 个词元",
    ),
    "split-and-data": ("两者都说明验证数据的来源", "只用其中一个；{VALID_DATASET_PATH:=none}"),
    "split-form": ("不是训练和验证的比例（两者都要大于 0）", "例如 99,1；不设置时全部用于训练"),
    "split-empty-share": (
        "{path} 的 {documents} 个文档中，比例 {share} 不到一个文档",
        "更大的比例，例如 {suggested}，或更多文档",
    ),
    "split-few-documents": (
        "{path} 的 {documents} 个文档中，比例 {share} 不到一个文档",
        "至少 {wanted} 个文档，或使用 {VALID_DATASET_PATH}",
    ),
}
