"""The CLIs with the flags of NeMo's tutorials."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "nemo-help": "python {script} FLAGS; the flags, with what the tutorials document as default:",
    "nemo-secrets": "tokens were visible in the process list until now; export {names} instead",
    "flag-left-out": "no {flag}",
    "flag-unknown": ("unknown flag", "the flags that --help lists"),
    "flag-unknown-nearest": ("unknown flag; nearest: {nearest}", "the flags that --help lists"),
    "flag-is-switch": ("a switch takes no value", "without ="),
    "flag-without-value": "no value after it",
    "flag-twice": ("given twice", "once"),
    "flag-and-variable": (
        "the command line makes {name} {now}, the environment says {before}",
        "one of them",
    ),
    "nemo-local-nodes": (
        "{ENV:=dsw} is one machine, not {nodes}",
        "1, or {ENV:=slurm} (or run_mcore_llama3_1.sh with ENV dlc)",
    ),
    "nemo-tokenizer-needed": ("it is needed: the tokenizer comes from there", "a folder, or a name on the hub"),
    "nemo-weights-needed": (
        "finetuning needs weights to start from",
        "a checkpoint, or a folder of safetensors",
    ),
    "nemo-size-unknown": "unknown model",
    "nemo-size-unknown-nearest": "unknown model; nearest: {nearest}",
    "nemo-size-llama3": "this is Llama 3, not 3.1: auto takes its architecture, without RoPE scaling, from a "
    "checkpoint",
    "nemo-size-needed": ("not given, and no model or checkpoint that tells it", "a name that --list shows"),
    "nemo-size-not-told": ("neither {model} nor a config.json tells it", "a name that --list shows"),
    "nemo-peft-pretrain": ("the tutorials have adapters in finetune_llm", "finetune_llm.py; or MP_LORA_RANK"),
    "nemo-offload-weights": (
        "Transformer Engine does not move weights any more: its switch has no effect",
        "--optim_cpu_offloading, a larger {TP} or {PP}, or {AC}",
    ),
    "nemo-offload-and-recompute": ("not together with {AC}", "one of them"),
    "nemo-offload-nothing": (
        "nothing to move: of activations and weights, neither is chosen",
        "with --cpu_offloading_activations",
    ),
    "nemo-offload-layers": ("--cpu_offloading needs it", "1 to the number of layers - 1"),
    "nemo-data-needed": ("it is needed", "the folder of the training data"),
    "nemo-data-missing": (
        "neither training.jsonl nor .bin and .idx in {folder}",
        "a folder with one of them",
    ),
    "nemo-data-file": "--data-prefix: no file {wanted}, nor one of that name with another suffix",
    "nemo-data-files": "--data-prefix: several files for {wanted}: {found}",
    "nemo-tokenizer-flag": "--tokenizer-library {library} needs {flag}",
    "nemo-epoch-too-short": (
        "not given, and one epoch is less than a step: {arithmetic}",
        "a smaller {GLOBAL_BATCH_SIZE}",
    ),
    "nemo-wandb-no-key": (
        "no key: nothing would be logged",
        "with WANDB_API_KEY set, or WANDB_MODE=offline, or --wandb_token",
    ),
    "nemo-two-sizes": ("they name two models: {sizes}", "one model"),
    "hub-nowhere": "no such folder with a tokenizer, and not a name on the hub",
    "hub-not-cached": "not in the hub's cache, and a dry run downloads nothing",
    "hub-unreachable": "{name} is not here, and {host} cannot be reached: no network?",
    "hub-fails": "cannot be downloaded: {kind}: {error}",
    "hub-without-tokenizer": "has no tokenizer on the hub: {folder}",
    "expect-tokenizer-or-hub": "a folder with a tokenizer, or a name that the hub knows",
    "nemo-idle-local": "{name} does nothing under {ENV:=dsw}",
    "nemo-idle-recompute": "{name} does nothing without {AC:=full}",
    "nemo-idle-offload": "{name} does nothing without --cpu_offloading",
    "nemo-idle-optimizer": "{name} does nothing without --optim_cpu_offloading",
    "nemo-idle-wandb": "{name} does nothing without --wandb",
    "nemo-all-gpus": "--num_gpus is not given: {gpus:GPU of this machine is used|GPUs of this machine are used}",
    "nemo-no-container": "no container: srun has no --container-image (pyxis is not installed)",
    "nemo-start-folder": "--nemo_model is not given: the weights in {folder} are the start",
    "nemo-size-told": "--model_size is not given: {name} is {size}",
    "nemo-one-epoch": "--max_steps is not given: one epoch = {arithmetic}",
    "nemo-epoch-counted": "--max_steps is not given: one epoch, its rows counted below: {deciding} decides how many",
    "epoch-rows": "{count:conversation|conversations} / {batch} = {steps:step|steps}",
    "epoch-labels": "{count} tokens and labels / ({batch} x 2 x {length}) = {steps:step|steps}",
    "epoch-tokens": "{count:token|tokens} / ({batch} x {length}) = {steps:step|steps}",
    "hub-folder-here": "the folder {folder} here is taken for {name}",
    "hub-checkpoint": "the tokenizer in {folder} is taken for that of {name}",
    "hub-cache": "the tokenizer of {name} is taken from the hub's cache: {folder}",
    "hub-downloaded": "the tokenizer of {name} was downloaded to {folder}",
    "nemo-convert-usage": "usage: python {script} --source DIR --output-path DIR [--overwrite] [flags]\n"
    "\n"
    "  --source DIR              what is converted\n"
    "  --output-path DIR         the folder that is written (--output_path too)\n"
    "  --model-name NAME         LlamaModel, or a size\n"
    "  --model-config-name NAME  such as Llama31Config8B, or a size; left out, config.json says it\n"
    "  --overwrite               replace the target, in one step, when everything is written\n"
    "  --list                    all names\n"
    "\n"
    "and the converter's own flags: "
    "sh toolkits/model_checkpoints_convertor/llama/hf2mcore_convertor_llama3_1.sh --help",
    "nemo-flag": "{meaning}: {valid}",
    "nemo-auto": "{name} (as the checkpoint's config.json says)",
    "nemo-list-sizes": "sizes          {names}",
    "nemo-list-recipes": "NeMo's recipes {names}",
    "nemo-list-configs": "NeMo's configs {names}",
    "nemo-data-about": "Turn INPUT_DIR/DATA_PREFIX.jsonl into OUTPUT_DIR/preprocessed/DATA_PREFIX_text_document.bin "
    "and .idx. Other flags go to run_make_pretraining_dataset.sh.",
    "nemo-data-about-megatron": "NeMo's flags; others go to run_make_pretraining_dataset.sh.",
    "nemo-data-help-tokenizer": "folder or hub id",
    "nemo-data-help-prefix": "file name without folder and suffix",
    "nemo-data-help-input": "JSON Lines file or folder",
    "nemo-data-help-keys": "fields; each gives a dataset (%(default)s)",
    "nemo-data-help-impl": "the only one here",
    "nemo-data-help-type": "huggingface: folder or hub id",
    "nemo-data-help-model": "sentencepiece: the .model file",
    "nemo-data-help-eod": "end each document with EOD",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "nemo-help": "python {script} FLAGS；各参数及教程中写明的默认值：",
    "nemo-secrets": "到现在为止，令牌在进程列表中可见；请改为 export {names}",
    "flag-left-out": "缺少 {flag}",
    "flag-unknown": ("未知的参数", "--help 列出的参数"),
    "flag-unknown-nearest": ("未知的参数；最接近的是 {nearest}", "--help 列出的参数"),
    "flag-is-switch": ("开关不带值", "不写 ="),
    "flag-without-value": "后面没有值",
    "flag-twice": ("给了两次", "一次"),
    "flag-and-variable": (
        "命令行给 {name} 的值是 {now}，环境变量给的是 {before}",
        "只留其中一个",
    ),
    "nemo-local-nodes": (
        "{ENV:=dsw} 是一台机器，不是 {nodes} 台",
        "1，或 {ENV:=slurm}（或 ENV 为 dlc 的 run_mcore_llama3_1.sh）",
    ),
    "nemo-tokenizer-needed": ("必须给出：分词器从这里来", "一个文件夹，或 hub 上的名称"),
    "nemo-weights-needed": (
        "微调需要起始权重",
        "一个检查点，或一个含 safetensors 的文件夹",
    ),
    "nemo-size-unknown": "未知的模型",
    "nemo-size-unknown-nearest": "未知的模型；最接近的是 {nearest}",
    "nemo-size-llama3": "这是 Llama 3，不是 3.1：auto 会从检查点读取它的结构（没有 RoPE 缩放）",
    "nemo-size-needed": ("没有给出，也没有能说明它的模型或检查点", "--list 显示的名称"),
    "nemo-size-not-told": ("从 {model} 和 config.json 都看不出来", "--list 显示的名称"),
    "nemo-peft-pretrain": ("教程里只有 finetune_llm 有适配器", "finetune_llm.py；或 MP_LORA_RANK"),
    "nemo-offload-weights": (
        "Transformer Engine 已经不再转移权重：它的开关没有作用",
        "--optim_cpu_offloading、更大的 {TP} 或 {PP}，或 {AC}",
    ),
    "nemo-offload-and-recompute": ("不能与 {AC} 同时使用", "只留其中一个"),
    "nemo-offload-nothing": (
        "没有要转移的东西：激活值和权重都没有选",
        "加上 --cpu_offloading_activations",
    ),
    "nemo-offload-layers": ("--cpu_offloading 需要它", "1 到层数 - 1"),
    "nemo-data-needed": ("必须给出", "训练数据所在的文件夹"),
    "nemo-data-missing": (
        "{folder} 中既没有 training.jsonl，也没有 .bin 和 .idx",
        "含有其中一种的文件夹",
    ),
    "nemo-data-file": "--data-prefix：没有文件 {wanted}，也没有同名而后缀不同的文件",
    "nemo-data-files": "--data-prefix：{wanted} 对应多个文件：{found}",
    "nemo-tokenizer-flag": "--tokenizer-library {library} 需要 {flag}",
    "nemo-epoch-too-short": (
        "没有给出，而一个 epoch 不足一步：{arithmetic}",
        "更小的 {GLOBAL_BATCH_SIZE}",
    ),
    "nemo-wandb-no-key": (
        "没有密钥：什么也不会记录",
        "设置 WANDB_API_KEY，或 WANDB_MODE=offline，或 --wandb_token",
    ),
    "nemo-two-sizes": ("它们指的是两个模型：{sizes}", "一个模型"),
    "hub-nowhere": "没有这个含分词器的文件夹，也不是 hub 上的名称",
    "hub-not-cached": "hub 的缓存里没有，而试运行不下载任何东西",
    "hub-unreachable": "{name} 不在本机，也连不上 {host}：没有网络？",
    "hub-fails": "无法下载：{kind}：{error}",
    "hub-without-tokenizer": "在 hub 上没有分词器：{folder}",
    "expect-tokenizer-or-hub": "一个含分词器的文件夹，或 hub 上有的名称",
    "nemo-idle-local": "{name} 在 {ENV:=dsw} 下不起作用",
    "nemo-idle-recompute": "没有 {AC:=full} 时 {name} 不起作用",
    "nemo-idle-offload": "没有 --cpu_offloading 时 {name} 不起作用",
    "nemo-idle-optimizer": "没有 --optim_cpu_offloading 时 {name} 不起作用",
    "nemo-idle-wandb": "没有 --wandb 时 {name} 不起作用",
    "nemo-all-gpus": "没有给出 --num_gpus：使用本机的 {gpus} 块 GPU",
    "nemo-no-container": "不用容器：srun 没有 --container-image（没有安装 pyxis）",
    "nemo-start-folder": "没有给出 --nemo_model：从 {folder} 中的权重开始",
    "nemo-size-told": "没有给出 --model_size：{name} 是 {size}",
    "nemo-one-epoch": "没有给出 --max_steps：一个 epoch = {arithmetic}",
    "nemo-epoch-counted": "没有给出 --max_steps：一个 epoch，其行数由 {deciding} 决定，在下面数出",
    "epoch-rows": "{count} 条对话 / {batch} = {steps} 步",
    "epoch-labels": "{count} 个词元和标签 / ({batch} x 2 x {length}) = {steps} 步",
    "epoch-tokens": "{count} 个词元 / ({batch} x {length}) = {steps} 步",
    "hub-folder-here": "用这里的文件夹 {folder} 作为 {name}",
    "hub-checkpoint": "用 {folder} 中的分词器作为 {name} 的分词器",
    "hub-cache": "{name} 的分词器取自 hub 的缓存：{folder}",
    "hub-downloaded": "{name} 的分词器已下载到 {folder}",
    "nemo-convert-usage": "用法：python {script} --source DIR --output-path DIR [--overwrite] [参数]\n"
    "\n"
    "  --source DIR              要转换的内容\n"
    "  --output-path DIR         写入的文件夹（也可写作 --output_path）\n"
    "  --model-name NAME         LlamaModel，或一个规模\n"
    "  --model-config-name NAME  例如 Llama31Config8B，或一个规模；不给则由 config.json 得出\n"
    "  --overwrite               全部写完后一步替换目标\n"
    "  --list                    全部名称\n"
    "\n"
    "以及转换器自己的参数：sh toolkits/model_checkpoints_convertor/llama/hf2mcore_convertor_llama3_1.sh --help",
    "nemo-flag": "{meaning}：{valid}",
    "nemo-auto": "{name}（按检查点的 config.json）",
    "nemo-list-sizes": "规模           {names}",
    "nemo-list-recipes": "NeMo 的 recipe {names}",
    "nemo-list-configs": "NeMo 的 config {names}",
    "nemo-data-about": "把 INPUT_DIR/DATA_PREFIX.jsonl 转换为 OUTPUT_DIR/preprocessed/DATA_PREFIX_text_document.bin "
    "和 .idx。其他参数交给 run_make_pretraining_dataset.sh。",
    "nemo-data-about-megatron": "NeMo 的参数；其他参数交给 run_make_pretraining_dataset.sh。",
    "nemo-data-help-tokenizer": "文件夹或 hub 上的名称",
    "nemo-data-help-prefix": "文件名，不带文件夹和后缀",
    "nemo-data-help-input": "JSON Lines 文件或文件夹",
    "nemo-data-help-keys": "字段；每个字段生成一份数据（%(default)s）",
    "nemo-data-help-impl": "这里只有这一种",
    "nemo-data-help-type": "huggingface：文件夹或 hub 上的名称",
    "nemo-data-help-model": "sentencepiece：.model 文件",
    "nemo-data-help-eod": "每个文档以 EOD 结尾",
}
