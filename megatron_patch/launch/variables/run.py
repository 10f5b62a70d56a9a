"""Checkpoints, validation, logs, and what goes to Megatron's parser as it is."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.common.loggers import LOGGERS
from megatron_patch.common.values import choice, numbers, real, several, stretch, switch, text, whole, words
from megatron_patch.launch.schedule import length
from megatron_patch.launch.variables.row import row


@dataclass(frozen=True, kw_only=True)
class RunVariables:
    """Rows of the table of MP_* variables; None leaves the choice to the plan, which says what it took."""

    background_save: str = row(
        "auto",
        choice("auto", "true", "false"),
        "checkpoints are copied to RAM and written while training goes on; auto = where there is RAM for the copy",
        "检查点先复制到内存，训练的同时写盘；auto = 内存放得下副本时",
    )
    distributed_timeout_minutes: int = row(
        10,
        whole(1),
        "how long a rank waits for another before the run fails",
        "一个进程等待另一个进程多久之后运行失败",
        flag="--distributed-timeout-minutes",
        always=True,
    )
    early_stop_patience: int | None = row(
        None,
        whole(1),
        "end the run, with a checkpoint, after so many validations in a row that do not improve on the lowest loss",
        "连续这么多次验证都没有低于最低损失时，保存检查点并结束运行",
        flag="--early-stop-patience",
    )
    eval_interval: int | None = row(
        None,
        length(1),
        "iterations between two validations, or epochs; else a tenth of the run, 4 to 1000",
        "两次验证之间的迭代数，也可以是轮次；默认为全程的十分之一，4 到 1000",
    )
    eval_iters: int | None = row(
        None,
        whole(0),
        "iterations of one validation, 0 = no validation; else 10, or fewer that take a tenth of the time",
        "一次验证的迭代数，0 = 不验证；默认 10，或更少，使验证只占十分之一的时间",
    )
    export_hf: bool | str = row(
        False,
        switch("every"),
        "write OUTPUT_BASEPATH/hf, a Hugging Face folder, when training is done; every = one of each checkpoint, in "
        "OUTPUT_BASEPATH/exports, while training goes on",
        "训练结束后写出 Hugging Face 文件夹 OUTPUT_BASEPATH/hf；every = 训练的同时为每个检查点各写一个，"
        "在 OUTPUT_BASEPATH/exports",
    )
    keep_best: bool = row(
        False,
        switch(),
        "the checkpoint with the lowest validation loss is never removed; best.json names it",
        "验证损失最低的检查点不会被删除；best.json 记录它",
        flag="--keep-best",
    )
    keep_checkpoints: int | None = row(
        None,
        whole(1),
        "how many checkpoints are kept, the newest; else all",
        "保留最新的几个检查点；默认全部保留",
        flag="--keep-checkpoints",
    )
    lang: str | None = row(
        None,
        choice("en", "zh"),
        "language of all that is shown: plans, errors, progress, help; else the locale's (LC_ALL, LANG)",
        "一切显示内容的语言：计划、错误、进度、帮助；默认取自 locale（LC_ALL、LANG）",
    )
    log_interval: int = row(
        1,
        whole(1),
        "iterations between two lines of progress",
        "两行进度之间的迭代数",
        flag="--log-interval",
        always=True,
    )
    loggers: str | None = row(
        None,
        several("tensorboard", "wandb", *LOGGERS, none="none"),
        "what logs the run, beside metrics.jsonl; else tensorboard, and wandb where it has a key",
        "除 metrics.jsonl 之外由什么记录运行；默认 tensorboard，有密钥时还有 wandb",
        flag="--loggers",
    )
    max_restarts: int = row(
        0,
        whole(0, 1000),
        "one machine: how often a run that crashed or hung is started again from its newest checkpoint",
        "单机：运行崩溃或卡住后，从最新检查点重新启动的次数上限",
        matters=("ENV", "dsw"),
    )
    megatron_args: str | None = row(
        None,
        words("expect-flags"),
        "more flags for Megatron's parser, as in a shell",
        "传给 Megatron 参数解析器的其他参数，写法同 shell",
    )
    on_spike: str = row(
        "off",
        choice("off", "skip", "stop", "rollback"),
        "when loss or gradient norm is NaN, inf or a spike: skip the step, stop or rollback; off: NaN, inf end the run",
        "损失或梯度范数为 NaN、inf 或尖峰时：skip 跳过该步，stop 结束，rollback 回滚；off：仅 NaN、inf 使运行结束",
        flag="--on-spike",
    )
    save_optimizer: bool = row(
        True,
        switch(),
        "false: checkpoints hold weights alone, a fifth to a seventh of the size; no run can go on from them",
        "false：检查点只含权重，大小为五分之一到七分之一；运行无法从中继续",
    )
    spike_factor: float = row(
        10.0,
        real(1, above=True),
        "a spike is above median + factor x deviation (1.4826 MAD, at least 2 % of the median loss, 20 % of the norm)",
        "高于 中位数 + 倍数 x 偏差 即为尖峰（1.4826 MAD；至少为损失中位数的 2%、范数中位数的 20%）",
        flag="--spike-factor",
        matters=("MP_ON_SPIKE", "skip", "stop", "rollback"),
    )
    spike_window: int = row(
        64,
        whole(8, 10000),
        "MP_ON_SPIKE: how many of the last steps a step is compared with, 8 at least known",
        "MP_ON_SPIKE：与最近多少步比较，至少已知 8 步",
        flag="--spike-window",
        matters=("MP_ON_SPIKE", "skip", "stop", "rollback"),
    )
    profile: str | None = row(
        None,
        stretch(20),
        "iterations that torch's profiler records, `5-7`: a trace and a table of kernels by kind in "
        "OUTPUT_BASEPATH/profile, and on the screen at the end",
        "用 torch profiler 记录的迭代，如 `5-7`：跟踪文件和按类别的内核表写入 OUTPUT_BASEPATH/profile，结束时显示",
        flag="--trace-iterations",
    )
    profile_ranks: str = row(
        "0",
        numbers(),
        "MP_PROFILE: ranks that are recorded, several with commas",
        "MP_PROFILE：记录哪些 rank，多个用逗号分隔",
        flag="--trace-ranks",
        matters=("MP_PROFILE",),
    )
    wandb_entity: str | None = row(
        None, text("expect-name"), "Weights & Biases: team or user", "Weights & Biases：团队或用户"
    )
    wandb_name: str | None = row(
        None,
        text("expect-name"),
        "Weights & Biases: name of the run; else the output folder's",
        "Weights & Biases：运行的名称；默认为输出文件夹的名称",
    )
    wandb_project: str | None = row(
        None,
        text("expect-name"),
        "Weights & Biases: project; else megatron-patch where WANDB_API_KEY is set",
        "Weights & Biases：项目；设有 WANDB_API_KEY 时默认为 megatron-patch",
    )
