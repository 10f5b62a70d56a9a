"""How a run is tuned: the MP_* variables, one row each, from which parsing, errors, help, reference and argv are made.

A variable that only passes a flag of Megatron's parser on is a row with `flag=` and nothing else: `argv.py` gives the
flag where the value is not the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from megatron_patch.common.loggers import LOGGERS
from megatron_patch.common.values import (
    Kind,
    ValueProblem,
    choice,
    nearest_word,
    real,
    several,
    switch,
    text,
    whole,
    words,
)
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.tp_overlap import METHODS


def _row(
    default: Any,
    kind: Kind,
    meaning: str,
    chinese: str,
    *,
    flag: str = "",
    always: bool = False,
    matters: tuple[str, ...] = (),
) -> Any:
    """One row.

    Args:
        default: None leaves the choice to the plan, which says what it took.
        meaning: in English.
        chinese: the same in Chinese.
        flag: of the parser, if the value is only passed on to it.
        always: the flag is given for the default too.
        matters: a position or DEVICE, and the values of it under which the variable does something.
    """
    rest = {"kind": kind, "meaning": meaning, "chinese": chinese, "flag": flag, "always": always, "matters": matters}
    return field(default=default, metadata=rest)


@dataclass(frozen=True, kw_only=True)
class Variables:
    """The MP_* variables, one field each; None leaves the choice to the plan, which says what it took."""

    ac_layers: int = _row(
        1,
        whole(1),
        "AC=full: layers of one recomputed group; AC=offload: layers moved to the CPU",
        "AC=full：每组重算的层数；AC=offload：移到 CPU 的层数",
        matters=("AC", "full", "offload"),
    )
    ac_method: str = _row(
        "uniform",
        choice("uniform", "block"),
        "AC=full: uniform = every layer, in groups of MP_AC_LAYERS; block = MP_AC_LAYERS layers of each stage",
        "AC=full：uniform = 每一层，按 MP_AC_LAYERS 层一组；block = 每个流水线阶段的 MP_AC_LAYERS 层",
        matters=("AC", "full"),
    )
    adam_beta1: float = _row(
        0.9,
        real(0, 0.99999),
        "Adam's decay of the first moment",
        "Adam 一阶矩的衰减系数",
        flag="--adam-beta1",
        always=True,
    )
    adam_beta2: float = _row(
        0.95,
        real(0, 0.99999),
        "Adam's decay of the second moment",
        "Adam 二阶矩的衰减系数",
        flag="--adam-beta2",
        always=True,
    )
    adam_eps: float = _row(1e-8, real(above=True), "Adam's epsilon", "Adam 的 epsilon", flag="--adam-eps")
    allow_unfused_attention: bool = _row(
        False,
        switch(),
        "GPUs: train on where attention falls back to S x S scores at 2048 tokens or more",
        "GPU：注意力退回到 S x S 分数矩阵（2048 个词元以上）时仍继续训练",
        matters=("DEVICE", "cuda"),
    )
    attention_backend: str | None = _row(
        None,
        choice("auto", "flash", "fused", "unfused"),
        "attention kernel, before FL",
        "注意力内核，优先于 FL",
    )
    background_save: str = _row(
        "auto",
        choice("auto", "true", "false"),
        "checkpoints are copied to RAM and written while training goes on; auto = where there is RAM for the copy",
        "检查点先复制到内存，训练的同时写盘；auto = 内存放得下副本时",
    )
    clip_grad: float = _row(
        1.0,
        real(),
        "largest norm of the gradient; 0 does not clip",
        "梯度范数的上限；0 = 不裁剪",
        flag="--clip-grad",
        always=True,
    )
    dataset_type: str = _row(
        "idxmap",
        choice("idxmap", "raw"),
        "form of the data: .bin and .idx, or JSON (SFT only)",
        "数据的形式：.bin 和 .idx，或 JSON（仅 SFT）",
    )
    device: str = _row(
        "auto", choice("auto", "cpu", "cuda"), "auto takes GPUs where there are any", "auto = 有 GPU 就用 GPU"
    )
    distributed_timeout_minutes: int = _row(
        10,
        whole(1),
        "how long a rank waits for another before the run fails",
        "一个进程等待另一个进程多久之后运行失败",
        flag="--distributed-timeout-minutes",
        always=True,
    )
    eval_interval: int | None = _row(
        None,
        whole(1),
        "iterations between two validations; else a tenth of the run, 4 to 1000",
        "两次验证之间的迭代数；默认为全程的十分之一，4 到 1000",
    )
    eval_iters: int | None = _row(
        None,
        whole(0),
        "iterations of one validation, 0 = no validation; else 10, or fewer that take a tenth of the time",
        "一次验证的迭代数，0 = 不验证；默认 10，或更少，使验证只占十分之一的时间",
    )
    export_hf: bool = _row(
        False,
        switch(),
        "write OUTPUT_BASEPATH/hf, a Hugging Face folder, when training is done",
        "训练结束后写出 Hugging Face 文件夹 OUTPUT_BASEPATH/hf",
    )
    fp8_recipe: str = _row(
        "tensorwise",
        choice("tensorwise", "delayed", "blockwise"),
        "scaling under PR=fp8",
        "PR=fp8 时的缩放方式",
        matters=("PR", "fp8"),
    )
    freeze: str | None = _row(
        None,
        text("expect-parts"),
        "parts whose weights stay as they are: embedding, head, norms, layers.0-15; several by commas",
        "权重保持不变的部分：embedding、head、norms、layers.0-15；多个用逗号分隔",
        flag="--freeze",
    )
    grad_reduce: str = _row(
        "auto",
        choice("auto", "fp32", "bf16"),
        "precision that gradients are summed in; auto = bf16 on GPUs up to 16 micro batches an iteration, else fp32",
        "梯度求和的精度；auto = GPU 上每次迭代不超过 16 个微批次时用 bf16，否则 fp32",
    )
    init_std: float | None = _row(
        None,
        real(above=True),
        "standard deviation of new weights; else the model's own",
        "新权重的标准差；默认为模型自己的值",
    )
    keep_checkpoints: int | None = _row(
        None,
        whole(1),
        "how many checkpoints are kept, the newest; else all",
        "保留最新的几个检查点；默认全部保留",
        flag="--keep-checkpoints",
    )
    k8s_image: str | None = _row(None, text("registry/name:tag"), "--emit k8s: container image", "--emit k8s：容器镜像")
    k8s_name: str | None = _row(
        None,
        text("expect-dns-label"),
        "--emit k8s: name of the job; else the output folder's",
        "--emit k8s：任务的名称；默认为输出文件夹的名称",
    )
    k8s_project: str | None = _row(
        None,
        text("expect-folder"),
        "--emit k8s: where this project lies in the image; else where it lies here",
        "--emit k8s：本项目在镜像中的位置；默认与此处相同",
    )
    k8s_volumes: str | None = _row(
        None,
        words("expect-claims"),
        "--emit k8s: volume claims to mount, `CLAIM:/FOLDER CLAIM:/FOLDER`",
        "--emit k8s：要挂载的卷声明，`CLAIM:/FOLDER CLAIM:/FOLDER`",
    )
    lang: str | None = _row(
        None,
        choice("en", "zh"),
        "language of plans, notes and errors; else the locale's (LC_ALL, LANG)",
        "计划、提示和错误信息的语言；默认取自 locale（LC_ALL、LANG）",
    )
    log_interval: int = _row(
        1,
        whole(1),
        "iterations between two lines of progress",
        "两行进度之间的迭代数",
        flag="--log-interval",
        always=True,
    )
    loggers: str | None = _row(
        None,
        several("tensorboard", "wandb", *LOGGERS, none="none"),
        "what logs the run, beside metrics.jsonl; else tensorboard, and wandb where it has a key",
        "除 metrics.jsonl 之外由什么记录运行；默认 tensorboard，有密钥时还有 wandb",
        flag="--loggers",
    )
    lora_adapter: str | None = _row(
        None,
        text("expect-folder"),
        "go on from this adapter of Hugging Face's PEFT (adapter_config.json), with its rank, alpha and targets",
        "从这个 Hugging Face PEFT 适配器（adapter_config.json）继续，rank、alpha 和目标须与其相同",
        flag="--lora-adapter",
    )
    lora_alpha: float | None = _row(
        None,
        real(above=True),
        "LoRA: alpha, divided by the rank: what the adapters' output is multiplied with; else twice the rank",
        "LoRA：alpha，除以 rank 后乘到适配器的输出上；默认为 rank 的两倍",
        flag="--lora-alpha",
    )
    lora_dropout: float = _row(
        0.0,
        real(0, 0.99),
        "LoRA: dropout of the adapters' inputs",
        "LoRA：适配器输入的 dropout",
        flag="--lora-dropout",
    )
    lora_rank: int | None = _row(
        None,
        whole(1, 4096),
        "train LoRA adapters of this rank; the weights of PRETRAIN_CHECKPOINT_PATH stay as they are",
        "训练此 rank 的 LoRA 适配器；PRETRAIN_CHECKPOINT_PATH 的权重保持不变",
        flag="--lora-rank",
    )
    lora_rslora: bool = _row(
        False,
        switch(),
        "LoRA: alpha is divided by the square root of the rank",
        "LoRA：alpha 除以 rank 的平方根",
        flag="--lora-rslora",
    )
    lora_targets: str = _row(
        "all-linear",
        text("expect-targets"),
        "LoRA: matrices that have an adapter: q,k,v,o,gate,up,down or some of them",
        "LoRA：带适配器的矩阵：q,k,v,o,gate,up,down 或其中几个",
        flag="--lora-targets",
    )
    lr_decay_iters: int | None = _row(
        None,
        whole(1),
        "iteration at which the cosine ends; else the last",
        "余弦结束的迭代；默认为最后一次",
    )
    master_port: int | None = _row(
        None,
        whole(1, 65535),
        "ENV=dsw: port of the rendezvous; else a free one",
        "ENV=dsw：会合端口；默认为空闲端口",
    )
    megatron_args: str | None = _row(
        None,
        words("expect-flags"),
        "more flags for Megatron's parser, as in a shell",
        "传给 Megatron 参数解析器的其他参数，写法同 shell",
    )
    memory_check: bool = _row(
        True,
        switch(),
        "GPUs: a run that does not fit by its plan is not started; 0 tries it",
        "GPU：按计划放不下的运行不会启动；0 = 仍然尝试",
        matters=("DEVICE", "cuda"),
    )
    moments: str = _row(
        "auto",
        choice("auto", "fp32", "bf16"),
        "precision of Adam's moments; auto = fp32, bf16 on GPUs where that alone makes the run fit",
        "Adam 两个矩的精度；auto = fp32，在 GPU 上只有 bf16 才放得下时用 bf16",
    )
    node_timeout_seconds: int = _row(
        60,
        whole(5),
        "several machines: one that is not heard of for so long is given up, and the run with it",
        "多台机器：一台机器失联这么久后即放弃，运行随之结束",
        matters=("ENV", "dlc", "slurm"),
    )
    nproc: int | None = _row(
        None,
        whole(1, 4096),
        "processes on this machine; else one per GPU, on the CPU TP x PP x CP",
        "本机的进程数；默认每个 GPU 一个，CPU 上为 TP x PP x CP",
    )
    num_workers: int | None = _row(
        None,
        whole(0, 256),
        "data loader processes per rank; else 2 on GPUs, 0 on the CPU",
        "每个 rank 的数据加载进程数；默认 GPU 上 2 个，CPU 上 0 个",
    )
    optimizer_offload_fraction: float = _row(
        1.0,
        real(0, 1, above=True),
        "OPTIMIZER_OFFLOAD=static: part of the optimizer's state that moves",
        "OPTIMIZER_OFFLOAD=static：移走的优化器状态所占的比例",
        matters=("OPTIMIZER_OFFLOAD", "static"),
    )
    pp_balance: bool = _row(
        True,
        switch(),
        "GPUs, PP > 1: fewer layers on the last stage, whose LM head takes time too",
        "GPU，PP > 1：最后一个阶段少放几层，因为 LM head 也要时间",
        matters=("DEVICE", "cuda"),
    )
    rendezvous_timeout_seconds: int = _row(
        600,
        whole(5),
        "several machines: how long they wait for each other before the first step",
        "多台机器：第一步之前互相等待多久",
        matters=("ENV", "dlc", "slurm"),
    )
    seed: int = _row(
        1234,
        whole(0, 2**31 - 1),
        "seed of weights and of the order of the data",
        "权重与数据顺序的随机种子",
        flag="--seed",
        always=True,
    )
    sft_average: str = _row(
        "token",
        choice("token", "sequence"),
        "SFT: what weighs equally in the loss: each trained token, or each conversation",
        "SFT：损失中权重相等的是每个训练词元，还是每段对话",
        flag="--sft-average",
        always=True,
        matters=("SFT", "true"),
    )
    sft_dropped: str = _row(
        "lose",
        choice("lose", "keep"),
        "SFT: conversations of which the chat template leaves out a text, reasoning, call or tool that is to be "
        "trained: they count as unusable, or are used and shown",
        "SFT：对话模板遗漏了要学习的文本、推理、工具调用或工具的对话：算作不能使用，或照用并显示",
        flag="--sft-dropped",
        matters=("SFT", "true"),
    )
    sft_loss: str = _row(
        "assistant",
        choice("assistant", "last", "all"),
        "SFT: what is learned: all that the assistant says, its last turn, or every token",
        "SFT：学习的内容：assistant 的全部回答、最后一轮，或每个词元",
        flag="--sft-loss",
        always=True,
        matters=("SFT", "true"),
    )
    sft_max_lost: float = _row(
        0.1,
        real(0, 1),
        "SFT: largest share of the conversations that may go unused",
        "SFT：允许不被使用的对话的最大比例",
        flag="--sft-max-lost",
        always=True,
        matters=("SFT", "true"),
    )
    sft_overlong: str = _row(
        "truncate",
        choice("truncate", "drop", "error"),
        "SFT: conversations longer than SEQ_LEN",
        "SFT：如何处理长于 SEQ_LEN 的对话",
        flag="--sft-overlong",
        always=True,
        matters=("SFT", "true"),
    )
    sft_packing: bool = _row(
        False,
        switch(),
        "SFT: several conversations in one sequence",
        "SFT：一个序列中放多段对话",
        flag="--sft-packing",
    )
    sft_turns: str = _row(
        "together",
        choice("together", "one-by-one"),
        "SFT: a conversation is one sample, or one for each turn of the assistant, as its last: templates of reasoning "
        "models write the reasoning of the last turn only",
        "SFT：一段对话作一个样本，或每个 assistant 轮次各作一个样本（该轮为最后一轮）："
        "推理模型的模板只写出最后一轮的推理",
        flag="--sft-turns",
        matters=("SFT", "true"),
    )
    slurm_account: str | None = _row(
        None, text("expect-name"), "ENV=slurm: account", "ENV=slurm：账户", matters=("ENV", "slurm")
    )
    slurm_args: str | None = _row(
        None,
        words("expect-options"),
        "ENV=slurm: more options for sbatch, as in a shell",
        "ENV=slurm：传给 sbatch 的其他选项，写法同 shell",
        matters=("ENV", "slurm"),
    )
    slurm_gpus: int | None = _row(
        None,
        whole(1, 4096),
        "ENV=slurm: GPUs of each node; else those that a node has",
        "ENV=slurm：每个节点的 GPU 数；默认为节点的全部 GPU",
        matters=("ENV", "slurm"),
    )
    slurm_image: str | None = _row(
        None,
        text("expect-image"),
        "ENV=slurm: container image (needs Slurm's pyxis plug-in); else none",
        "ENV=slurm：容器镜像（需要 Slurm 的 pyxis 插件）；默认不用",
        matters=("ENV", "slurm"),
    )
    slurm_nodes: int | None = _row(
        None, whole(1, 65536), "ENV=slurm: nodes; else 1", "ENV=slurm：节点数；默认 1", matters=("ENV", "slurm")
    )
    slurm_partition: str | None = _row(
        None,
        text("expect-name"),
        "ENV=slurm: partition; else the cluster's default",
        "ENV=slurm：分区；默认为集群的默认分区",
        matters=("ENV", "slurm"),
    )
    slurm_signal_seconds: int = _row(
        300,
        whole(10, 65535),
        "ENV=slurm: how long before the time limit the run saves and requeues itself",
        "ENV=slurm：在时限之前多久保存并重新排队",
        matters=("ENV", "slurm"),
    )
    slurm_time: str | None = _row(
        None,
        text("expect-time"),
        "ENV=slurm: time limit; else the partition's",
        "ENV=slurm：时限；默认为分区的时限",
        matters=("ENV", "slurm"),
    )
    split: str | None = _row(
        None,
        text("expect-split", example="99,1"),
        "VALID_DATASET_PATH=none: shares of DATASET_PATH for training and validation",
        "VALID_DATASET_PATH=none：DATASET_PATH 用于训练与验证的份额",
    )
    tokenizer_path: str | None = _row(
        None,
        text("expect-tokenizer"),
        "folder of the tokenizer; else PRETRAIN_CHECKPOINT_PATH",
        "分词器的文件夹；默认为 PRETRAIN_CHECKPOINT_PATH",
    )
    tp_overlap: str = _row(
        "auto",
        choice("auto", "none", *METHODS),
        "GPUs, TP > 1 with SP in bf16 or fp8: tensor-parallel communication overlaps the matmuls that need it, through "
        "Transformer Engine's userbuffers; pipeline = its own choice of methods, ring = copies also after the forward "
        "matmuls, ring-all = after all; auto = that, from 4096 tokens a micro batch, without AC=offload",
        "GPU，TP > 1 且 SP、bf16 或 fp8：张量并行通信与所需的矩阵乘法重叠，经由 Transformer Engine 的 userbuffers；"
        "pipeline = 由其自行选择方法，ring = 前向矩阵乘法之后也用复制，ring-all = 全部之后；"
        "auto = ring-all，微批次达到 4096 个词元且没有 AC=offload 时",
    )
    vp: int | None = _row(
        None,
        whole(1),
        "virtual pipeline: layers of one chunk, as --num-layers-per-virtual-pipeline-stage; else no chunks",
        "虚拟流水线：每块的层数，即 --num-layers-per-virtual-pipeline-stage；默认不分块",
    )
    vp_chunks: int | None = _row(
        None,
        whole(1),
        "virtual pipeline: chunks of each pipeline rank, in the place of MP_VP",
        "虚拟流水线：每个流水线 rank 的块数，可代替 MP_VP",
    )
    wandb_entity: str | None = _row(
        None, text("expect-name"), "Weights & Biases: team or user", "Weights & Biases：团队或用户"
    )
    wandb_name: str | None = _row(
        None,
        text("expect-name"),
        "Weights & Biases: name of the run; else the output folder's",
        "Weights & Biases：运行的名称；默认为输出文件夹的名称",
    )
    wandb_project: str | None = _row(
        None,
        text("expect-name"),
        "Weights & Biases: project; else megatron-patch where WANDB_API_KEY is set",
        "Weights & Biases：项目；设有 WANDB_API_KEY 时默认为 megatron-patch",
    )
    weight_decay: float = _row(
        0.1,
        real(),
        "weight decay, norms left out",
        "权重衰减，不作用于 norm 层",
        flag="--weight-decay",
        always=True,
    )
    z_loss: float = _row(
        0.0,
        real(),
        "weight of the z-loss, the mean square of log(sum(exp(logits))); 0 = none, PaLM took 1e-4",
        "z-loss 的权重，即 log(sum(exp(logits))) 的均方；0 = 不用，PaLM 用 1e-4",
        flag="--z-loss",
    )


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One row of the table of MP_* variables."""

    name: str
    field: str
    """Of Variables."""
    default: Any
    kind: Kind
    meaning: str
    chinese: str
    flag: str
    """Of the parser, where the value is only passed on; else empty."""
    always: bool
    """The flag is given for the default too."""
    matters: tuple[str, ...]
    """A position or DEVICE, and the values of it under which the variable does something; empty: always."""

    def argv(self, value: Any) -> list[str]:
        """The flag as words of a command line; none where it is left out."""
        if value is None or value is False or (value == self.default and not self.always):
            return []
        if value is True:
            return [self.flag]
        return [self.flag, repr(value) if isinstance(value, float) else str(value)]


VARIABLES = tuple(
    Variable(name=f"MP_{row.name.upper()}", field=row.name, default=row.default, **row.metadata)
    for row in fields(Variables)
)
BY_FIELD = {variable.field: variable for variable in VARIABLES}


def read_variables(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """Read the MP_* variables; an empty one counts as not set, as in Pai-Megatron-Patch's `[ -z ${MP_AC_LAYERS} ]`.

    Returns:
        Values by field name of Variables, defaults included, without those that could not be read; and what is wrong.
    """
    known = {variable.name: variable for variable in VARIABLES}
    values = {variable.field: variable.default for variable in VARIABLES}
    problems = []
    for name in sorted(name for name in environ if name.startswith("MP_") and environ[name]):
        if name not in known:
            near = nearest_word(name, tuple(known))
            unknown = Problem("unknown-variable-nearest", name, nearest=near) if near else None
            problems.append(unknown or Problem("unknown-variable", name))
            continue
        variable = known[name]
        try:
            values[variable.field] = variable.kind.parse(environ[name])
        except ValueProblem as error:
            del values[variable.field]
            problems += Problem.of(error, name, expected=variable.kind.expects)
    return values, problems
