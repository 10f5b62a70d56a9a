"""The output folder, and an earlier run in it."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    # output folder, an earlier run in it
    "output-not-folder": ("{path} is not a folder", "a folder, new or yours"),
    "output-tilde": (
        "within quotes the shell does not replace ~ by the home folder",
        "~ outside of quotes, $HOME, or ./~ for a folder of that name",
    ),
    "output-is-model": (
        "{path} holds a Hugging Face model, between whose files the run would write its own",
        "a folder of its own",
    ),
    "output-is-data": (
        "the run would write JSON of its own between the data files of {path}",
        "a folder of its own, or the data files by name",
    ),
    "output-not-writable": ("{path} is not writable", "a folder, new or yours"),
    "output-ending": (
        "another run is still ending there: {holder}",
        "another folder; or wait until it has ended, or stop it",
    ),
    "holder-unknown": "it has not said which",
    "output-in-use": (
        "another run is writing there: {holder}",
        "another folder; or wait until it has ended, or stop it",
    ),
    "fixed-by-checkpoint": (
        "the checkpoints in {OUTPUT_BASEPATH} were made with {before}: {why}",
        "the old value; or a new {OUTPUT_BASEPATH}, with this one as {PRETRAIN_CHECKPOINT_PATH}",
    ),
    "fixed-by-adapters": (
        "the adapters in {OUTPUT_BASEPATH} were trained with {before}: {why}",
        "the old value; or a new {OUTPUT_BASEPATH} over the same base, with these adapters as {MP_LORA_ADAPTER} "
        "(`{tool:adapters} export`), or over base and adapters in one (its `merge`)",
    ),
    "fixed-model": "the checkpoint holds another model",
    "fixed-count": "schedule and data position count in it",
    "fixed-lr": "megatron-core 0.19.2 finds the optimizer's groups again by their learning rates",
    "fixed-optimizer": "the optimizer's state has another form",
    "fixed-data": "the data position belongs to other data",
    "fixed-trained": "the checkpoint holds what was trained, and nothing else",
    "fixed-betas": "megatron-core 0.19.2 takes it from the checkpoint",
    "checkpoint-of-another-model": (
        "the checkpoints in {OUTPUT_BASEPATH} are of {model}: {differences}",
        "that model, or a new {OUTPUT_BASEPATH}",
    ),
    "checkpoints-gone": "they are gone",
    "checkpoints-lost": (
        "it had checkpoints, none of them is complete ({damage}), and a run does not begin anew over them",
        "another folder; or move its checkpoints/ away to begin anew",
    ),
    "differs": "{field} {before} there and {now} here",
    "checkpoint-weights-only": (
        "its newest checkpoint, of iteration {step}, holds weights alone (MP_SAVE_OPTIMIZER=false): no run goes on "
        "from it",
        "a new {OUTPUT_BASEPATH}, with this one as {PRETRAIN_CHECKPOINT_PATH}: it starts from the weights",
    ),
    "checkpoint-adapters-only": (
        "its newest checkpoint, of iteration {step}, holds adapters without the optimizer's state "
        "(MP_SAVE_OPTIMIZER=false): no run goes on from it",
        "a new {OUTPUT_BASEPATH}, with these adapters as {MP_LORA_ADAPTER} (`{tool:adapters} export`)",
    ),
    "best-without-validation": ("nothing is validated", "with validation data, and not 0 iterations of them"),
    "best-interval": (
        "checkpoints are saved every {save} iterations, and not all of them after a validation",
        "a divisor of {save}, or not set",
    ),
    "weights-only-restarts": ("nothing can go on from checkpoints of weights alone", "one of the two"),
}

CHINESE: dict[str, str | tuple[str, str]] = {
    # output folder, an earlier run in it
    "output-not-folder": ("{path} 不是文件夹", "一个文件夹，新的或自己的"),
    "output-tilde": ("引号内的 ~ 不会被 shell 换成主目录", "引号外的 ~、$HOME，或者 ./~ 表示这个名字的文件夹"),
    "output-is-model": ("{path} 里是 Hugging Face 模型，训练会把自己的文件写到它的文件之间", "一个单独的文件夹"),
    "output-is-data": (
        "训练会把自己的 JSON 写到 {path} 的数据文件之间",
        "一个单独的文件夹，或者逐个写出数据文件",
    ),
    "output-not-writable": ("{path} 不可写", "一个文件夹，新的或自己的"),
    "output-ending": ("另一个运行还在那里收尾：{holder}", "另一个文件夹；或等它结束，或停止它"),
    "holder-unknown": "没有说明是哪一个",
    "output-in-use": ("另一个运行正在写入那里：{holder}", "另一个文件夹；或等它结束，或停止它"),
    "fixed-by-checkpoint": (
        "{OUTPUT_BASEPATH} 中的检查点用的是 {before}：{why}",
        "原来的值；或新的 {OUTPUT_BASEPATH}，并把这个文件夹作为 {PRETRAIN_CHECKPOINT_PATH}",
    ),
    "fixed-by-adapters": (
        "{OUTPUT_BASEPATH} 中的适配器训练时用的是 {before}：{why}",
        "原来的值；或新的 {OUTPUT_BASEPATH}：用同一基础模型，并把这些适配器作为 {MP_LORA_ADAPTER}"
        "（`{tool:adapters} export`），或用两者合并后的模型（其 `merge`）",
    ),
    "fixed-model": "检查点里是另一个模型",
    "fixed-count": "学习率计划和数据位置以它计数",
    "fixed-lr": "megatron-core 0.19.2 按学习率找回优化器的参数组",
    "fixed-optimizer": "优化器状态的形式不同",
    "fixed-data": "数据位置属于别的数据",
    "fixed-trained": "检查点只含训练过的部分",
    "fixed-betas": "megatron-core 0.19.2 从检查点读取它",
    "checkpoint-of-another-model": (
        "{OUTPUT_BASEPATH} 中的检查点属于 {model}：{differences}",
        "那个模型，或新的 {OUTPUT_BASEPATH}",
    ),
    "checkpoints-gone": "它们不见了",
    "checkpoints-lost": (
        "那里有过检查点，但没有一个是完整的（{damage}），运行不会从头开始覆盖它们",
        "另一个文件夹；或移走它的 checkpoints/ 后从头开始",
    ),
    "differs": "{field} 那里是 {before}，这里是 {now}",
    "checkpoint-weights-only": (
        "最新的检查点（第 {step} 次迭代）只含权重（MP_SAVE_OPTIMIZER=false）：运行无法从中继续",
        "新的 {OUTPUT_BASEPATH}，以此作为 {PRETRAIN_CHECKPOINT_PATH}：从权重开始",
    ),
    "checkpoint-adapters-only": (
        "最新的检查点（第 {step} 次迭代）只有适配器，没有优化器状态（MP_SAVE_OPTIMIZER=false），无法从它继续",
        "新的 {OUTPUT_BASEPATH}，并把这些适配器作为 {MP_LORA_ADAPTER}（`{tool:adapters} export`）",
    ),
    "best-without-validation": ("没有任何验证", "带验证数据，且验证迭代数不为 0"),
    "best-interval": ("每 {save} 次迭代保存一个检查点，并非每个都在验证之后", "{save} 的约数，或不设置"),
    "weights-only-restarts": ("无法从只含权重的检查点继续", "两者之一"),
}
