"""Learning rate and batch over a run."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.common.values import choice
from megatron_patch.launch.schedule import DECAY_STYLES, WSD_STYLES, batch_schedule, length
from megatron_patch.launch.variables.row import row

DECAYING = tuple(style for style in DECAY_STYLES if style != "constant")


@dataclass(frozen=True, kw_only=True)
class ScheduleVariables:
    """Rows of the table of MP_* variables; None leaves the choice to the plan, which says what it took."""

    batch_schedule: str | None = row(
        None,
        batch_schedule(),
        "batch that grows: `0:64,1e9:128,4e9:256` = 64 sequences an iteration, from 1e9 tokens on 128, from 4e9 on 256 "
        "(under SFT from iterations, as TRAIN_TOKENS_OR_ITERS); GLOBAL_BATCH_SIZE is the last",
        "逐步增大的批次：`0:64,1e9:128,4e9:256` = 每次迭代 64 个序列，从 1e9 个词元起 128 个，从 4e9 起 256 个"
        "（SFT 时为迭代数，与 TRAIN_TOKENS_OR_ITERS 相同）；GLOBAL_BATCH_SIZE 为最后一个",
    )
    lr_decay_iters: int | None = row(
        None,
        length(1),
        "iteration at which the decay of the learning rate ends, or epochs; else the last",
        "学习率衰减结束的迭代，也可以是轮次；默认为最后一次",
        matters=("MP_LR_DECAY_STYLE", *DECAYING),
    )
    lr_decay_style: str = row(
        "cosine",
        choice(*DECAY_STYLES),
        "learning rate after the warm-up; WSD = constant, and a decay at the end",
        "预热之后的学习率；WSD = 先保持不变，最后衰减",
        flag="--lr-decay-style",
        always=True,
    )
    lr_wsd_decay_iters: int | None = row(
        None,
        length(1),
        "WSD: iterations of the decay at the end, or epochs; else a tenth of the run",
        "WSD：最后衰减的迭代数，也可以是轮次；默认为全程的十分之一",
        matters=("MP_LR_DECAY_STYLE", "WSD"),
    )
    lr_wsd_decay_style: str = row(
        "exponential",
        choice(*WSD_STYLES),
        "WSD: curve of the decay at the end",
        "WSD：最后衰减的曲线",
        matters=("MP_LR_DECAY_STYLE", "WSD"),
    )
