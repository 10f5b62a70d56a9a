"""Learning rate and batch over a run."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
    "expect-length": "whole number >= {minimum}, or epochs, as 3epochs or 0.5epochs",
    "epochs-form": "epochs are a number and the word, in one: 3epochs, 0.5epochs, 1epoch",
    "epochs-none": "0 epochs",
    "epochs-weights": (
        "a blend with weights has no epoch: its data sets are read at different rates",
        "tokens; iterations under SFT, for intervals and for the decay; or the blend without weights",
    ),
    "epochs-split": (
        "how many tokens of an epoch {MP_SPLIT} leaves for training is not known here",
        "tokens; for intervals and for the decay iterations",
    ),
    "epochs-grown": (
        "an epoch takes fewer iterations where the batch grows, and this is one number of them",
        "iterations",
    ),
    "epochs-count-fails": ("the rows of an epoch cannot be counted: {why}", "data that can be read"),
    "epochs-unwritable": (
        "the rows of an epoch cannot be counted, as their tokens cannot be written: {why}",
        "a folder that can be written",
    ),
    "epochs-counting": "counting the rows of an epoch: the conversations are tokenized, for the run too",
    "epochs-counting-dry": "counting the rows of an epoch: the conversations are tokenized, and nothing is kept",
    "epochs-interrupted": "interrupted while the rows of an epoch were counted; nothing was started",
    "count-epochs": "{epochs:epoch|epochs} x {size:row|rows} / {batch}, rounded up: {iterations:iteration|iterations}",
    "count-epochs-stages": "{epochs:epoch|epochs} x {size:row|rows} in the batches below, rounded up: "
    "{iterations:iteration|iterations}",
    "count-epochs-interval": "{epochs:epoch|epochs} of {size:token|tokens} / ({batch} x {length}), rounded up: "
    "{iterations:iteration|iterations}",
    "count-epochs-tokens": "{epochs:epoch|epochs} of {size:token|tokens}: {arithmetic}",
    "expect-stages": "START:BATCH,START:BATCH from 0 on, as 0:64,1e9:128",
    "stages-begin": "does not begin at 0",
    "stages-order": "a stage begins before the one in front of it",
    "stage-form": "{stage} is not START:BATCH",
    "stages-last": ("the last batch is {last}: not {GLOBAL_BATCH_SIZE}", "the same last batch in both"),
    "stages-grow": (
        "the batches {sizes} do not only grow, which megatron-core 0.19.2 wants",
        "each larger than the one before",
    ),
    "stages-within-a-sequence": (
        "two stages begin within one sequence of {length:token|tokens}",
        "starts that are further apart",
    ),
    "stages-unused": "{MP_BATCH_SCHEDULE}: of {stages} no iteration is made in this run of {last:iteration|iterations}",
    "batch-stage-multiple": (
        "batch {number}, {size}, is not a multiple of {BATCH_SIZE} x data parallel = {batch_size} x {dp}",
        "multiples of {multiple}",
    ),
    "wsd-too-long": (
        "{wsd:iteration|iterations} of decay before iteration {end} begin within the warm-up of {warmup}",
        "at most {most}",
    ),
    "inverse-root-needs-warmup": (
        "inverse-square-root takes its scale from the length of the warm-up, and there is none",
        "a warm-up, or another style",
    ),
    "batches-of-the-past": (
        "was {before} during the first {done:iteration|iterations}: the position in the data counts them",
        "the same; from now on it may grow, with {MP_BATCH_SCHEDULE:={grown}}",
    ),
    "rate-jumps": "the learning rate of iteration {iteration} is {now:.3g}; by the last start's values it would be "
    "{before:.3g}",
    "skip-beyond": (
        "--iterations-to-skip {beyond}: the run has the iterations 1 to {last}",
        "iterations of the run",
    ),
    "skip-last": (
        "--iterations-to-skip {last}: the last checkpoint is due at this iteration, and Megatron saves nothing at one "
        "that it skips",
        "without the last iteration, or a {SAVE_INTERVAL} that does not divide {last}: then the end is saved",
    ),
    "skip-saves": "no checkpoint is saved at {unsaved}, where {SAVE_INTERVAL} asks for one: --iterations-to-skip "
    "leaves it out together with the iteration",
    "skip-validations": "no validation at {untried}: --iterations-to-skip leaves it out together with the iteration",
    "skip-ends": "the run does not end at {missed}, where --exit-interval asks for it, but at {end}: "
    "--iterations-to-skip leaves it out together with the iteration",
    "count-tokens-stages": "{value:token|tokens} = {iterations:iteration|iterations} of {length:token|tokens} a "
    "sequence and the batches below, {left:token|tokens} left over",
    "curve-cosine": "a cosine to {min_lr:g} at iteration {end}",
    "curve-linear": "a straight line to {min_lr:g} at iteration {end}",
    "curve-constant": "constant",
    "curve-inverse-root": "falling with the square root of the samples, to {min_lr:g} at the lowest",
    "curve-wsd": "constant until iteration {start}, then a decay ({style}) to {min_lr:g} at iteration {end}",
    "rate-values": "by iteration: {values}",
    "rate-value": "{iteration}: {rate:.3g}",
    "batch-from": "from iteration {iteration} on {batch}",
}

CHINESE: dict[str, str | tuple[str, str]] = {
    "expect-length": ">= {minimum} 的整数，或轮次，如 3epochs、0.5epochs",
    "epochs-form": "轮次写作数字与单词相连：3epochs、0.5epochs、1epoch",
    "epochs-none": "0 个轮次",
    "epochs-weights": (
        "带权重的混合没有轮次：各数据集的读取速度不同",
        "词元数，SFT 时以及间隔和衰减为迭代数；或不带权重的混合",
    ),
    "epochs-split": ("{MP_SPLIT} 把一个轮次的多少词元留给训练，此处尚不可知", "词元数；间隔和衰减为迭代数"),
    "epochs-grown": ("批次变大时一个轮次的迭代数变少，而这里只有一个迭代数", "迭代数"),
    "epochs-count-fails": ("无法数出一个轮次的行数：{why}", "可读取的数据"),
    "epochs-unwritable": ("无法数出一个轮次的行数，因为词元无法写入：{why}", "可写入的文件夹"),
    "epochs-counting": "正在数一个轮次的行数：对话现在分词，训练也会使用",
    "epochs-counting-dry": "正在数一个轮次的行数：对话现在分词，不保留结果",
    "epochs-interrupted": "数一个轮次的行数时被中断；没有启动任何东西",
    "count-epochs": "{epochs} 个轮次 x {size} 行 / {batch}，向上取整：{iterations} 次迭代",
    "count-epochs-stages": "{epochs} 个轮次 x {size} 行，按下列批次向上取整：{iterations} 次迭代",
    "count-epochs-interval": "{epochs} 个轮次，每个 {size} 个词元 / ({batch} x {length})，向上取整："
    "{iterations} 次迭代",
    "count-epochs-tokens": "{epochs} 个轮次，每个 {size} 个词元：{arithmetic}",
    "expect-stages": "从 0 开始的 START:BATCH,START:BATCH，如 0:64,1e9:128",
    "stages-begin": "不是从 0 开始",
    "stages-order": "有一个阶段的起点不在前一个之后",
    "stage-form": "{stage} 不是 START:BATCH",
    "stages-last": ("最后的批次是 {last}，不是 {GLOBAL_BATCH_SIZE}", "两处的最后批次相同"),
    "stages-grow": ("批次 {sizes} 不是逐个增大，而 megatron-core 0.19.2 要求如此", "每个都大于前一个"),
    "stages-within-a-sequence": ("两个阶段的起点在同一个 {length} 个词元的序列内", "相距更远的起点"),
    "stages-unused": "{MP_BATCH_SCHEDULE}：本次运行共 {last} 次迭代，其中没有一次属于 {stages}",
    "batch-stage-multiple": (
        "第 {number} 个批次 {size} 不是 {BATCH_SIZE} x 数据并行数 = {batch_size} x {dp} 的倍数",
        "{multiple} 的倍数",
    ),
    "wsd-too-long": ("第 {end} 次迭代之前的 {wsd} 次衰减迭代从 {warmup} 次预热之内开始", "至多 {most}"),
    "inverse-root-needs-warmup": ("inverse-square-root 的尺度取自预热的长度，而这里没有预热", "有预热，或另一种样式"),
    "batches-of-the-past": (
        "前 {done} 次迭代中是 {before}：数据位置以它计数",
        "与之相同；此后可以增大，用 {MP_BATCH_SCHEDULE:={grown}}",
    ),
    "rate-jumps": "第 {iteration} 次迭代的学习率是 {now:.3g}；按上次启动的值是 {before:.3g}",
    "skip-beyond": ("--iterations-to-skip {beyond}：本次运行只有第 1 到 {last} 次迭代", "本次运行中的迭代"),
    "skip-last": (
        "--iterations-to-skip {last}：最后一个检查点应在这次迭代保存，而 Megatron 在跳过的迭代不保存",
        "不含最后一次迭代；或取不能整除 {last} 的 {SAVE_INTERVAL}，此时结束时会保存",
    ),
    "skip-saves": "第 {unsaved} 次迭代不保存检查点（{SAVE_INTERVAL} 要求在此保存）：--iterations-to-skip 把它连同迭代"
    "一起跳过",
    "skip-validations": "第 {untried} 次迭代不做验证：--iterations-to-skip 把它连同迭代一起跳过",
    "skip-ends": "第 {missed} 次迭代不结束运行（--exit-interval 要求在此结束），而在第 {end} 次结束："
    "--iterations-to-skip 把它连同迭代一起跳过",
    "count-tokens-stages": "{value} 个词元 = {iterations} 次迭代（每个序列 {length} 个词元，批次见下），"
    "余 {left} 个词元",
    "curve-cosine": "按余弦降到 {min_lr:g}，第 {end} 次迭代为止",
    "curve-linear": "线性降到 {min_lr:g}，第 {end} 次迭代为止",
    "curve-constant": "保持不变",
    "curve-inverse-root": "随样本数的平方根下降，最低 {min_lr:g}",
    "curve-wsd": "保持到第 {start} 次迭代，再衰减（{style}）到 {min_lr:g}，第 {end} 次迭代为止",
    "rate-values": "各次迭代：{values}",
    "rate-value": "{iteration}：{rate:.3g}",
    "batch-from": "从第 {iteration} 次迭代起 {batch}",
}
