"""Learning rate and batch over a run."""

from __future__ import annotations

ENGLISH: dict[str, str | tuple[str, str]] = {
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
