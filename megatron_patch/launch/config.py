"""The 25 values of the driver: one table that parsing, errors, `--help` and the README are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from megatron_patch.common.values import Kind, ValueProblem, boolean, choice, real, text, whole, words
from megatron_patch.launch.from_pai import offload_kind
from megatron_patch.launch.schedule import length
from megatron_patch.models import size_kind


def _position(meaning: str, chinese: str, kind: Kind, example: str) -> Any:
    return field(metadata={"meaning": meaning, "chinese": chinese, "kind": kind, "example": example})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What somebody typed, each value read and in range; the fields stand in the order of the positions."""

    env: str = _position(
        "where it runs: dsw = this machine alone, dlc = several machines, slurm = a job on a Slurm cluster",
        "在哪里运行：dsw = 仅本机，dlc = 多台机器，slurm = Slurm 集群上的任务",
        choice("dsw", "dlc", "slurm"),
        "dsw",
    )
    model_size: str = _position(
        "size of the model; auto takes the architecture from the checkpoint's config.json",
        "模型大小；auto 从检查点的 config.json 读取结构",
        size_kind(),
        "8B",
    )
    batch_size: int = _position(
        "micro batch: sequences that one rank processes at once",
        "微批次：一个 rank 一次处理的序列数",
        whole(1),
        "1",
    )
    global_batch_size: int = _position(
        "sequences of one iteration, over all ranks",
        "一次迭代的序列数，所有 rank 合计",
        whole(1),
        "8",
    )
    lr: float = _position(
        "peak learning rate",
        "学习率峰值",
        real(above=True),
        "1e-5",
    )
    min_lr: float = _position(
        "learning rate at the end of the decay",
        "衰减结束时的学习率",
        real(),
        "1e-6",
    )
    seq_len: int = _position(
        "tokens of one sequence",
        "一个序列的词元数",
        whole(1),
        "128",
    )
    pad_len: int = _position(
        "tokens that a short sequence is padded to: SEQ_LEN",
        "短序列补齐到的词元数：与 SEQ_LEN 相同",
        whole(1),
        "128",
    )
    pr: str = _position(
        "precision of the matmuls",
        "矩阵乘法的精度",
        choice("fp32", "bf16", "fp16", "fp8"),
        "bf16",
    )
    tp: int = _position(
        "tensor parallel size",
        "张量并行大小",
        whole(1),
        "4",
    )
    pp: int = _position(
        "pipeline parallel size",
        "流水线并行大小",
        whole(1),
        "2",
    )
    cp: int = _position(
        "context parallel size",
        "上下文并行大小",
        whole(1),
        "1",
    )
    sp: bool = _position(
        "sequence parallelism: norms and residuals split over TP too",
        "序列并行：norm 与残差也在 TP 上切分",
        boolean(),
        "true",
    )
    do: bool = _position(
        "distributed optimizer: its state split over the data-parallel ranks",
        "分布式优化器：其状态在数据并行 rank 上切分",
        boolean(),
        "true",
    )
    fl: bool = _position(
        "the fastest attention: on Hopper GPUs FlashAttention 4 where it was measured, else cuDNN; false: cuDNN",
        "最快的注意力：在 Hopper GPU 上，凡实测过的情形使用 FlashAttention 4，否则使用 cuDNN；false：cuDNN",
        boolean(),
        "true",
    )
    sft: bool = _position(
        "finetune on conversations instead of pretraining",
        "在对话上微调，而不是预训练",
        boolean(),
        "false",
    )
    ac: str = _position(
        "activations: recompute attention (sel) or layers (full), move them to the CPU (offload), keep them",
        "激活：重算注意力（sel）或整层（full），移到 CPU（offload），或保留（false、none）",
        choice("sel", "full", "offload", "false", "none"),
        "false",
    )
    optimizer_offload: str = _position(
        "optimizer state on the CPU: all of it (static), as much as memory asks for (auto), none",
        "优化器状态放到 CPU：全部（static）、内存需要多少放多少（auto）、不放（false）",
        offload_kind(),
        "false",
    )
    save_interval: int = _position(
        "iterations between two checkpoints, or epochs; the last is saved anyway",
        "两个检查点之间的迭代数，也可以是轮次；最后一次总会保存",
        length(1),
        "100000",
    )
    dataset_path: str = _position(
        "training data: a prefix of .bin and .idx, several, a blend `0.3 A 0.7 B`, or a folder: all prefixes in it",
        "训练数据：.bin 和 .idx 的前缀，可多个，可按权重混合 `0.3 A 0.7 B`，或一个文件夹（其中全部前缀）",
        words("expect-data"),
        "/data/wudao_text_document",
    )
    valid_dataset_path: str = _position(
        "validation data, in the same form; none = no validation",
        "验证数据，形式相同；none = 不验证",
        words("expect-valid-data"),
        "none",
    )
    pretrain_checkpoint_path: str = _position(
        "weights to start from: a Hugging Face folder, a Megatron torch_dist folder, or none",
        "起始权重：Hugging Face 文件夹、Megatron torch_dist 文件夹，或 none",
        text("expect-checkpoint"),
        "none",
    )
    train_tokens_or_iters: int = _position(
        "tokens to train on; under SFT, iterations; or epochs",
        "训练的词元数；SFT 时为迭代数；也可以是轮次",
        length(1),
        "10000",
    )
    warmup_tokens_or_iters: int = _position(
        "tokens of linear warm-up; under SFT, iterations; or epochs",
        "线性预热的词元数；SFT 时为迭代数；也可以是轮次",
        length(0),
        "100",
    )
    output_basepath: str = _position(
        "folder that everything is written to",
        "全部输出所在的文件夹",
        text("expect-output"),
        "runs/my-run",
    )


@dataclass(frozen=True, kw_only=True)
class Position:
    """One row of the table."""

    number: int
    """From 1, as in the shell."""
    name: str
    meaning: str
    chinese: str
    """The meaning in Chinese."""
    kind: Kind
    example: str


POSITIONS = tuple(
    Position(number=number, name=row.name.upper(), **row.metadata) for number, row in enumerate(fields(RunConfig), 1)
)


def read_values(values: Sequence[str], family: str | None = None) -> tuple[dict[str, Any], dict[str, ValueProblem]]:
    """Read each value by its position.

    Args:
        values: 25 strings.
        family: whose script is running.
    Returns:
        What could be read, by field name of RunConfig; and for the rest, by position name, what is wrong.
    """
    facts: dict[str, Any] = {}
    wrong: dict[str, ValueProblem] = {}
    for position, value in zip(POSITIONS, values, strict=True):
        try:
            facts[position.name.lower()] = kind_of(position, family).parse(value)
        except ValueProblem as error:
            wrong[position.name] = error
    return facts, wrong


def kind_of(position: Position, family: str | None) -> Kind:
    """How a position is read: a bare MODEL_SIZE is one of the family whose script is running."""
    return size_kind(family) if position.name == "MODEL_SIZE" and family is not None else position.kind


def missing_positions(values: Sequence[str]) -> tuple[Position, ...]:
    """Which positions are probably left out of a list that is too short.

    With one value missing, each place where it could have been is tried, and those that leave the fewest unreadable
    values win; with more than one missing, the list just ends early.
    """
    if len(values) != len(POSITIONS) - 1:
        return POSITIONS[len(values) :]
    costs = {}
    for hole in POSITIONS:
        filled = [*values[: hole.number - 1], hole.example, *values[hole.number - 1 :]]
        costs[hole] = len(read_values(filled)[1])
    return tuple(hole for hole, cost in costs.items() if cost == min(costs.values()))


def typed_values(values: Sequence[str]) -> Mapping[str, str]:
    """What was typed, by position name."""
    return {position.name: value for position, value in zip(POSITIONS, values, strict=False)}
