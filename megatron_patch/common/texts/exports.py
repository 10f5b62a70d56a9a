"""The CLIs of exports, adapters and models of random weights."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "export-about": "The Hugging Face folder of any saved iteration.",
    "export-help-run": "a run's folder, its checkpoints, or one of them",
    "export-help-folder": "the Hugging Face folder to write",
    "export-help-hf-path": "where config.json and tokenizer come from; else from the run",
    "export-help-precision": "else the checkpoint's own",
    "export-help-iteration": "another than the newest",
    "help-replace-folder": "replace a folder that is there",
    "adapters-about": "Adapters of a run as Hugging Face's PEFT keeps them, or merged into their base.",
    "adapters-help-what": "export: a folder for PEFT's PeftModel.from_pretrained; merge: a Hugging Face folder of "
    "the whole model",
    "adapters-help-adapter": "a run's output folder, an iteration, or PEFT's",
    "adapters-help-base": "merge: where the base lies now",
    "adapters-help-check": "merge: compare it layer by layer with base and adapters",
    "adapters-check": "--check is for merge",
    "random-about": "A Hugging Face model folder with random weights, of any size, without the hub.",
    "random-help-tokenizer": "folder with tokenizer.json, copied along",
    "random-help-vocabulary": "default: the size's own, else the tokenizer's",
    "random-help-layers": "default: the size's own",
    "random-size": "{size} is not a size; valid: {sizes}",
    "random-tokenizer": "--tokenizer {folder}: has no tokenizer files",
    "random-vocabulary": "{size} takes its vocabulary from the tokenizer: give --tokenizer or --vocab-size",
    "random-wrote": "{folder}: {parameters:,} parameters in {precision}, vocabulary {vocabulary}",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "export-about": "把任何一个已保存的迭代导出为 Hugging Face 文件夹。",
    "export-help-run": "训练的输出文件夹、它的 checkpoints 文件夹或其中一个检查点",
    "export-help-folder": "要写入的 Hugging Face 文件夹",
    "export-help-hf-path": "config.json 和分词器的来源；不给时取自训练",
    "export-help-precision": "不给时与检查点相同",
    "export-help-iteration": "最新以外的某次迭代",
    "help-replace-folder": "替换已有的文件夹",
    "adapters-about": "把训练得到的适配器导出为 Hugging Face PEFT 的格式，或合并到基座模型。",
    "adapters-help-what": "export：供 PEFT 的 PeftModel.from_pretrained 使用的文件夹；merge：完整模型的 Hugging Face "
    "文件夹",
    "adapters-help-adapter": "训练的输出文件夹、其中一次迭代，或 PEFT 的文件夹",
    "adapters-help-base": "merge：基座模型现在的位置",
    "adapters-help-check": "merge：与基座模型和适配器逐层比较",
    "adapters-check": "--check 只用于 merge",
    "random-about": "生成任意规模、权重随机的 Hugging Face 模型文件夹，不需要 hub。",
    "random-help-tokenizer": "含 tokenizer.json 的文件夹，一并复制",
    "random-help-vocabulary": "默认取自模型规模，否则取自分词器",
    "random-help-layers": "默认取自模型规模",
    "random-size": "{size} 不是模型规模；可用：{sizes}",
    "random-tokenizer": "--tokenizer {folder}：没有分词器文件",
    "random-vocabulary": "{size} 的词表取决于分词器：请给出 --tokenizer 或 --vocab-size",
    "random-wrote": "{folder}：{parameters:,} 个参数，{precision}，词表 {vocabulary}",
}
