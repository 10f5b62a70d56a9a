"""The flags of the NeMo tutorials' scripts: one table for the parser, `--help` and the README.

Three tutorials spell the flags of one script differently; all of their spellings are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megatron_patch.common.messages import Message, Wording
from megatron_patch.common.values import Kind, choice, meaning_of, real, text, whole


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One flag."""

    name: str
    """With underscores, as the scripts' own variables; `-` is taken for `_`."""
    also: tuple[str, ...] = ()
    """Other names and short forms, as typed."""
    kind: Kind | None = None
    """None is a switch without a value."""
    default: Any = None
    """As the tutorials document it; None where they leave it open."""
    becomes: str
    """What it sets: positions and MP_ variables of the driver."""
    meaning: str
    chinese: str
    """The same in Chinese."""
    may_be_empty: bool = False
    """`--nemo_model` followed by nothing counts as not given: a tutorial shows it so."""

    @property
    def shown(self) -> str:
        """All spellings."""
        return ", ".join((*self.also, f"--{self.name}"))


SIZE, FOLDER = whole(1), text("expect-folder")
FLAGS = (
    Flag(
        name="executor",
        kind=choice("local", "slurm"),
        default="local",
        becomes="ENV",
        meaning="this machine alone, or a job on a Slurm cluster",
        chinese="仅本机，或 Slurm 集群上的作业",
    ),
    Flag(
        name="experiment",
        also=("-E",),
        kind=text("expect-name"),
        default="pretraining",
        becomes="OUTPUT_BASEPATH",
        meaning="everything goes to experiments/NAME, which is resumed from if it is there (finetune_llm: finetuning)",
        chinese="一切写入 experiments/NAME；已存在则从中断点续训（finetune_llm：finetuning）",
    ),
    Flag(
        name="account",
        also=("-a", "-A"),
        kind=text("expect-name"),
        default="root",
        becomes="MP_SLURM_ACCOUNT",
        meaning="Slurm's account",
        chinese="Slurm 账户",
    ),
    Flag(
        name="partition",
        also=("-p", "-P"),
        kind=text("expect-name"),
        default="defq",
        becomes="MP_SLURM_PARTITION",
        meaning="Slurm's partition (-P with a number is the pipeline)",
        chinese="Slurm 分区（-P 后面是数时表示流水线）",
    ),
    Flag(
        name="container_image",
        also=("-i", "-I"),
        kind=text("expect-image"),
        default="nvcr.io/nvidia/nemo:dev",
        becomes="MP_SLURM_IMAGE",
        meaning="container of the job, where Slurm has pyxis",
        chinese="作业的容器，需要 Slurm 装有 pyxis",
    ),
    Flag(
        name="time",
        kind=text("expect-time"),
        becomes="MP_SLURM_TIME",
        meaning="Slurm's time limit; the run saves, requeues itself and goes on",
        chinese="Slurm 的时间限制；到时运行会保存、重新排队并继续",
    ),
    Flag(
        name="num_nodes",
        also=("-N",),
        kind=SIZE,
        default=1,
        becomes="MP_SLURM_NODES",
        meaning="machines",
        chinese="机器数",
    ),
    Flag(
        name="num_gpus",
        also=("-G",),
        kind=SIZE,
        default=8,
        becomes="MP_NPROC, MP_SLURM_GPUS",
        meaning="GPUs of each machine; not given, --executor local takes all of this machine",
        chinese="每台机器的 GPU 数；不给时 --executor local 使用本机全部 GPU",
    ),
    Flag(
        name="model_size",
        also=("-M", "--model_name", "--model"),
        kind=text("expect-model"),
        becomes="MODEL_SIZE",
        meaning="model; not given, it is told from --hf_model_id or the checkpoint",
        chinese="模型；不给则由 --hf_model_id 或检查点得出",
    ),
    Flag(
        name="hf_model_id",
        kind=text("expect-hub-name"),
        becomes="MP_TOKENIZER_PATH",
        meaning="where the tokenizer comes from (required)",
        chinese="分词器的来源（必需）",
    ),
    Flag(
        name="nemo_model",
        also=("-n",),
        kind=FOLDER,
        becomes="PRETRAIN_CHECKPOINT_PATH",
        meaning="checkpoint to start from: ours, converted or trained, or a Hugging Face folder",
        chinese="起始检查点：本项目转换或训练的检查点，或 Hugging Face 文件夹",
        may_be_empty=True,
    ),
    Flag(
        name="hf_token",
        kind=text("expect-hub-token"),
        default="$HF_TOKEN",
        becomes="HF_TOKEN",
        meaning="for downloading the tokenizer; stays in this process",
        chinese="用于下载分词器；只留在本进程",
    ),
    Flag(
        name="max_steps",
        kind=SIZE,
        becomes="TRAIN_TOKENS_OR_ITERS",
        meaning="iterations; not given, one epoch of the data, computed and printed",
        chinese="迭代数；不给则为数据的一个 epoch，会计算并显示",
    ),
    Flag(
        name="global_batch_size",
        also=("-g", "-gbs"),
        kind=SIZE,
        default=2048,
        becomes="GLOBAL_BATCH_SIZE",
        meaning="sequences of one iteration",
        chinese="一次迭代的序列数",
    ),
    Flag(
        name="micro_batch_size",
        also=("-m", "-mbs"),
        kind=SIZE,
        default=1,
        becomes="BATCH_SIZE",
        meaning="sequences of one pass",
        chinese="一次前向的序列数",
    ),
    Flag(
        name="seq_length",
        also=("-s",),
        kind=SIZE,
        default=8192,
        becomes="SEQ_LEN, PAD_LEN",
        meaning="tokens of one sequence",
        chinese="一条序列的词元数",
    ),
    Flag(
        name="lr",
        kind=real(above=True),
        default=1e-5,
        becomes="LR",
        meaning="peak learning rate (finetune_llm: 5e-6)",
        chinese="峰值学习率（finetune_llm：5e-6）",
    ),
    Flag(
        name="min_lr",
        kind=real(),
        becomes="MIN_LR",
        meaning="end of the cosine; not given, a tenth of --lr",
        chinese="余弦衰减的终值；不给则为 --lr 的十分之一",
    ),
    Flag(
        name="warmup_steps",
        kind=whole(0),
        becomes="WARMUP_TOKENS_OR_ITERS",
        meaning="iterations of warm-up; not given, a tenth of the run, 2000 at most",
        chinese="预热的迭代数；不给则为总数的十分之一，最多 2000",
    ),
    Flag(
        name="save_interval",
        kind=SIZE,
        default=500,
        becomes="SAVE_INTERVAL",
        meaning="iterations between two checkpoints",
        chinese="两个检查点之间的迭代数",
    ),
    Flag(
        name="split",
        kind=text("expect-split", example="998,1,1"),
        becomes="MP_SPLIT",
        meaning="shares of the data for training, validation and test; not given, no validation",
        chinese="训练、验证和测试数据的比例；不给则不验证",
    ),
    Flag(
        name="fp8",
        becomes="PR",
        meaning="FP8 matmuls; without it bf16",
        chinese="FP8 矩阵乘法；不给则用 bf16",
    ),
    Flag(
        name="fp8_recipe",
        kind=choice("delayed_scaling", "current_scaling", "subchannel_scaling"),
        becomes="MP_FP8_RECIPE",
        meaning="scaling under --fp8; not given, current_scaling",
        chinese="--fp8 时的缩放方式；不给则为 current_scaling",
    ),
    Flag(
        name="peft",
        kind=choice("lora"),
        becomes="MP_LORA_RANK, MP_LORA_ALPHA",
        meaning="finetune_llm: train adapters beside frozen weights, rank 32 and alpha 32 unless MP_LORA_... say so",
        chinese="finetune_llm：冻结权重，训练适配器；rank 和 alpha 为 32，除非设置了 MP_LORA_...",
    ),
    Flag(
        name="precision",
        kind=choice("fp32", "bf16", "fp16"),
        default="bf16",
        becomes="PR",
        meaning="precision without --fp8",
        chinese="没有 --fp8 时的精度",
    ),
    Flag(
        name="tensor_model_parallel_size",
        also=("-T", "-TP"),
        kind=SIZE,
        default=1,
        becomes="TP",
        meaning="tensor parallel size",
        chinese="张量并行大小",
    ),
    Flag(
        name="pipeline_model_parallel_size",
        also=("-P", "-PP"),
        kind=SIZE,
        default=1,
        becomes="PP",
        meaning="pipeline parallel size",
        chinese="流水线并行大小",
    ),
    Flag(
        name="virtual_pipeline_model_parallel_size",
        also=("-VPP",),
        kind=SIZE,
        default=1,
        becomes="MP_VP_CHUNKS",
        meaning="model chunks of each pipeline rank",
        chinese="每个流水线阶段的模型分块数",
    ),
    Flag(
        name="context_parallel_size",
        also=("-C", "-CP"),
        kind=SIZE,
        default=1,
        becomes="CP",
        meaning="context parallel size",
        chinese="上下文并行大小",
    ),
    Flag(
        name="sequence_parallel",
        also=("-SP",),
        becomes="SP",
        meaning="sequence parallelism",
        chinese="序列并行",
    ),
    Flag(
        name="dataset_path",
        also=("-D", "--dataset_dir"),
        kind=FOLDER,
        becomes="DATASET_PATH, VALID_DATASET_PATH, MP_DATASET_TYPE",
        meaning="folder of .bin and .idx, all of them; finetune_llm: of training.jsonl and validation.jsonl (required)",
        chinese=".bin 和 .idx 所在的文件夹，使用其中全部；"
        "finetune_llm：training.jsonl 和 validation.jsonl 所在的文件夹（必需）",
    ),
    Flag(
        name="recompute_granularity",
        kind=choice("full", "selective"),
        becomes="AC",
        meaning="compute activations again: whole layers, or attention",
        chinese="重计算激活值：整层，或仅注意力",
    ),
    Flag(
        name="recompute_method",
        kind=choice("block", "uniform"),
        becomes="MP_AC_METHOD",
        meaning="under full: some layers of each stage, or all in groups",
        chinese="full 时：每个阶段的若干层，或全部层分组",
    ),
    Flag(
        name="recompute_num_layers",
        kind=SIZE,
        becomes="MP_AC_LAYERS",
        meaning="under full: layers of each stage (block) or of a group (uniform)",
        chinese="full 时：每个阶段的层数（block）或每组的层数（uniform）",
    ),
    Flag(
        name="cpu_offloading",
        becomes="AC",
        meaning="move activations to the CPU",
        chinese="把激活值转移到 CPU",
    ),
    Flag(
        name="cpu_offloading_layers",
        kind=SIZE,
        becomes="MP_AC_LAYERS",
        meaning="layers that are moved",
        chinese="转移的层数",
    ),
    Flag(
        name="cpu_offloading_activations",
        becomes="AC",
        meaning="what is moved: activations",
        chinese="转移的内容：激活值",
    ),
    Flag(
        name="cpu_offloading_weights",
        becomes="refused",
        meaning="Transformer Engine has taken it away: since 2.5 its switch does nothing",
        chinese="Transformer Engine 已取消：自 2.5 起这个开关不起作用",
    ),
    Flag(
        name="optim_cpu_offloading",
        becomes="OPTIMIZER_OFFLOAD",
        meaning="move the optimizer's state to the CPU",
        chinese="把优化器状态转移到 CPU",
    ),
    Flag(
        name="optim_cpu_offloading_frac",
        kind=real(0, 1, above=True),
        default=1.0,
        becomes="MP_OPTIMIZER_OFFLOAD_FRACTION",
        meaning="part of it",
        chinese="转移的比例",
    ),
    Flag(
        name="wandb",
        becomes="WANDB_API_KEY",
        meaning="log to Weights & Biases; without it, its key is not used",
        chinese="记录到 Weights & Biases；不给则不使用它的密钥",
    ),
    Flag(
        name="wandb_project",
        kind=text("expect-name"),
        becomes="MP_WANDB_PROJECT",
        meaning="project; not given, the experiment's name",
        chinese="项目；不给则为实验的名称",
    ),
    Flag(
        name="wandb_name",
        kind=text("expect-name"),
        becomes="MP_WANDB_NAME",
        meaning="name of the run; not given, the experiment's",
        chinese="运行的名称；不给则为实验的名称",
    ),
    Flag(
        name="wandb_token",
        kind=text("expect-wandb-key"),
        default="$WANDB_API_KEY",
        becomes="WANDB_API_KEY",
        meaning="reaches the ranks in their environment, nothing else",
        chinese="只通过环境变量传给各进程",
    ),
    Flag(
        name="dry_run",
        becomes="",
        meaning="show plan and command (and batch script), start nothing",
        chinese="显示计划和命令（以及批处理脚本），不启动任何任务",
    ),
    Flag(
        name="list",
        becomes="",
        meaning="the models that --model_size knows",
        chinese="--model_size 认识的模型",
    ),
)
SECRETS = {"hf_token": "HF_TOKEN", "wandb_token": "WANDB_API_KEY"}
"""Flags whose values leave the command line at once, and where they go."""


def table(wording: Wording) -> Iterator[str]:
    """The flags for `--help`."""
    for flag in FLAGS:
        default = "" if flag.default is None else f" [{flag.default}]"
        yield f"  {flag.shown}"
        meaning = f"      {meaning_of(flag, wording.language)}{default}"
        yield wording.text(Message("nemo-flag", meaning=meaning, valid=flag.kind.expects)) if flag.kind else meaning
