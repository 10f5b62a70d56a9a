"""Tokenizer, data, and how conversations become samples."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_patch.common.values import choice, real, switch, text, whole
from megatron_patch.launch.variables.row import row


@dataclass(frozen=True, kw_only=True)
class DataVariables:
    """Rows of the table of MP_* variables; None leaves the choice to the plan, which says what it took."""

    dataset_type: str = row(
        "idxmap",
        choice("idxmap", "raw"),
        "form of the data: .bin and .idx, or JSON (SFT only)",
        "数据的形式：.bin 和 .idx，或 JSON（仅 SFT）",
    )
    num_workers: int | None = row(
        None,
        whole(0, 256),
        "data loader processes per rank; else 2 on GPUs, 0 on the CPU",
        "每个 rank 的数据加载进程数；默认 GPU 上 2 个，CPU 上 0 个",
    )
    sft_average: str = row(
        "token",
        choice("token", "sequence"),
        "SFT: what weighs equally in the loss: each trained token, or each conversation",
        "SFT：损失中权重相等的是每个训练词元，还是每段对话",
        flag="--sft-average",
        always=True,
        matters=("SFT", "true"),
    )
    sft_dropped: str = row(
        "lose",
        choice("lose", "keep"),
        "SFT: conversations of which the chat template leaves out a text, reasoning, call or tool that is to be "
        "trained: they count as unusable, or are used and shown",
        "SFT：对话模板遗漏了要学习的文本、推理、工具调用或工具的对话：算作不能使用，或照用并显示",
        flag="--sft-dropped",
        matters=("MP_DATASET_TYPE", "raw"),
    )
    sft_logits: str = row(
        "auto",
        choice("auto", "trained", "all"),
        "SFT: logits and loss at trained positions only, or at all of them; auto = trained on GPUs, all on the CPU, "
        "whose last bits stay",
        "SFT：只在参与训练的位置计算 logits 与损失，或在所有位置计算；auto = GPU 上为 trained，"
        "CPU 上为 all（末位比特不变）",
        matters=("SFT", "true"),
    )
    sft_loss: str = row(
        "assistant",
        choice("assistant", "last", "all"),
        "SFT: what is learned: all that the assistant says, its last turn, or every token",
        "SFT：学习的内容：assistant 的全部回答、最后一轮，或每个词元",
        flag="--sft-loss",
        always=True,
        matters=("MP_DATASET_TYPE", "raw"),
    )
    sft_max_lost: float = row(
        0.1,
        real(0, 1),
        "SFT: largest share of the conversations that may go unused",
        "SFT：允许不被使用的对话的最大比例",
        flag="--sft-max-lost",
        always=True,
        matters=("SFT", "true"),
    )
    sft_overlong: str = row(
        "truncate",
        choice("truncate", "drop", "error"),
        "SFT: conversations longer than SEQ_LEN",
        "SFT：如何处理长于 SEQ_LEN 的对话",
        flag="--sft-overlong",
        always=True,
        matters=("MP_DATASET_TYPE", "raw"),
    )
    sft_packing: bool = row(
        False,
        switch(),
        "SFT: several conversations in one sequence",
        "SFT：一个序列中放多段对话",
        flag="--sft-packing",
    )
    sft_turns: str = row(
        "together",
        choice("together", "one-by-one"),
        "SFT: a conversation is one sample, or one for each turn of the assistant, as its last: templates of reasoning "
        "models write the reasoning of the last turn only",
        "SFT：一段对话作一个样本，或每个 assistant 轮次各作一个样本（该轮为最后一轮）："
        "推理模型的模板只写出最后一轮的推理",
        flag="--sft-turns",
        matters=("MP_DATASET_TYPE", "raw"),
    )
    split: str | None = row(
        None,
        text("expect-split", example="99,1"),
        "VALID_DATASET_PATH=none: shares of DATASET_PATH for training and validation",
        "VALID_DATASET_PATH=none：DATASET_PATH 用于训练与验证的份额",
    )
    tokenizer_path: str | None = row(
        None,
        text("expect-tokenizer"),
        "folder of the tokenizer; else PRETRAIN_CHECKPOINT_PATH",
        "分词器的文件夹；默认为 PRETRAIN_CHECKPOINT_PATH",
    )
