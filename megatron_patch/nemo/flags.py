"""The flags of the NeMo tutorials' scripts: one table for the parser, `--help` and the README.

Three tutorials spell the flags of one script differently; all of their spellings are taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megatron_patch.common.values import Kind, choice, real, text, whole


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
    ),
    Flag(
        name="experiment",
        also=("-E",),
        kind=text("expect-name"),
        default="pretraining",
        becomes="OUTPUT_BASEPATH",
        meaning="everything goes to experiments/NAME, which is resumed from if it is there (finetune_llm: finetuning)",
    ),
    Flag(
        name="account",
        also=("-a", "-A"),
        kind=text("expect-name"),
        default="root",
        becomes="MP_SLURM_ACCOUNT",
        meaning="Slurm's account",
    ),
    Flag(
        name="partition",
        also=("-p", "-P"),
        kind=text("expect-name"),
        default="defq",
        becomes="MP_SLURM_PARTITION",
        meaning="Slurm's partition (-P with a number is the pipeline)",
    ),
    Flag(
        name="container_image",
        also=("-i", "-I"),
        kind=text("expect-image"),
        default="nvcr.io/nvidia/nemo:dev",
        becomes="MP_SLURM_IMAGE",
        meaning="container of the job, where Slurm has pyxis",
    ),
    Flag(
        name="time",
        kind=text("expect-time"),
        becomes="MP_SLURM_TIME",
        meaning="Slurm's time limit; the run saves, requeues itself and goes on",
    ),
    Flag(
        name="num_nodes",
        also=("-N",),
        kind=SIZE,
        default=1,
        becomes="MP_SLURM_NODES",
        meaning="machines",
    ),
    Flag(
        name="num_gpus",
        also=("-G",),
        kind=SIZE,
        default=8,
        becomes="MP_NPROC, MP_SLURM_GPUS",
        meaning="GPUs of each machine; not given, --executor local takes all of this machine",
    ),
    Flag(
        name="model_size",
        also=("-M", "--model_name", "--model"),
        kind=text("expect-model"),
        becomes="MODEL_SIZE",
        meaning="model; not given, it is told from --hf_model_id or the checkpoint",
    ),
    Flag(
        name="hf_model_id",
        kind=text("expect-hub-name"),
        becomes="MP_TOKENIZER_PATH",
        meaning="where the tokenizer comes from (required)",
    ),
    Flag(
        name="nemo_model",
        also=("-n",),
        kind=FOLDER,
        becomes="PRETRAIN_CHECKPOINT_PATH",
        meaning="checkpoint to start from: ours, converted or trained, or a Hugging Face folder",
        may_be_empty=True,
    ),
    Flag(
        name="hf_token",
        kind=text("expect-hub-token"),
        default="$HF_TOKEN",
        becomes="HF_TOKEN",
        meaning="for downloading the tokenizer; stays in this process",
    ),
    Flag(
        name="max_steps",
        kind=SIZE,
        becomes="TRAIN_TOKENS_OR_ITERS",
        meaning="iterations; not given, one epoch of the data, computed and printed",
    ),
    Flag(
        name="global_batch_size",
        also=("-g", "-gbs"),
        kind=SIZE,
        default=2048,
        becomes="GLOBAL_BATCH_SIZE",
        meaning="sequences of one iteration",
    ),
    Flag(
        name="micro_batch_size",
        also=("-m", "-mbs"),
        kind=SIZE,
        default=1,
        becomes="BATCH_SIZE",
        meaning="sequences of one pass",
    ),
    Flag(
        name="seq_length",
        also=("-s",),
        kind=SIZE,
        default=8192,
        becomes="SEQ_LEN, PAD_LEN",
        meaning="tokens of one sequence",
    ),
    Flag(
        name="lr",
        kind=real(above=True),
        default=1e-5,
        becomes="LR",
        meaning="peak learning rate (finetune_llm: 5e-6)",
    ),
    Flag(name="min_lr", kind=real(), becomes="MIN_LR", meaning="end of the cosine; not given, a tenth of --lr"),
    Flag(
        name="warmup_steps",
        kind=whole(0),
        becomes="WARMUP_TOKENS_OR_ITERS",
        meaning="iterations of warm-up; not given, a tenth of the run, 2000 at most",
    ),
    Flag(
        name="save_interval",
        kind=SIZE,
        default=500,
        becomes="SAVE_INTERVAL",
        meaning="iterations between two checkpoints",
    ),
    Flag(
        name="split",
        kind=text("expect-split", example="998,1,1"),
        becomes="MP_SPLIT",
        meaning="shares of the data for training, validation and test; not given, no validation",
    ),
    Flag(name="fp8", becomes="PR", meaning="FP8 matmuls; without it bf16"),
    Flag(
        name="fp8_recipe",
        kind=choice("delayed_scaling", "current_scaling", "subchannel_scaling"),
        becomes="MP_FP8_RECIPE",
        meaning="scaling under --fp8; not given, current_scaling",
    ),
    Flag(
        name="peft",
        kind=choice("lora"),
        becomes="MP_LORA_RANK, MP_LORA_ALPHA",
        meaning="finetune_llm: train adapters beside frozen weights, rank 32 and alpha 32 unless MP_LORA_... say so",
    ),
    Flag(
        name="precision",
        kind=choice("fp32", "bf16", "fp16"),
        default="bf16",
        becomes="PR",
        meaning="precision without --fp8",
    ),
    Flag(
        name="tensor_model_parallel_size",
        also=("-T", "-TP"),
        kind=SIZE,
        default=1,
        becomes="TP",
        meaning="tensor parallel size",
    ),
    Flag(
        name="pipeline_model_parallel_size",
        also=("-P", "-PP"),
        kind=SIZE,
        default=1,
        becomes="PP",
        meaning="pipeline parallel size",
    ),
    Flag(
        name="virtual_pipeline_model_parallel_size",
        also=("-VPP",),
        kind=SIZE,
        default=1,
        becomes="MP_VP_CHUNKS",
        meaning="model chunks of each pipeline rank",
    ),
    Flag(
        name="context_parallel_size",
        also=("-C", "-CP"),
        kind=SIZE,
        default=1,
        becomes="CP",
        meaning="context parallel size",
    ),
    Flag(name="sequence_parallel", also=("-SP",), becomes="SP", meaning="sequence parallelism"),
    Flag(
        name="dataset_path",
        also=("-D", "--dataset_dir"),
        kind=FOLDER,
        becomes="DATASET_PATH, VALID_DATASET_PATH, MP_DATASET_TYPE",
        meaning="folder of .bin and .idx, all of them; finetune_llm: of training.jsonl and validation.jsonl (required)",
    ),
    Flag(
        name="recompute_granularity",
        kind=choice("full", "selective"),
        becomes="AC",
        meaning="compute activations again: whole layers, or attention",
    ),
    Flag(
        name="recompute_method",
        kind=choice("block", "uniform"),
        becomes="MP_AC_METHOD",
        meaning="under full: some layers of each stage, or all in groups",
    ),
    Flag(
        name="recompute_num_layers",
        kind=SIZE,
        becomes="MP_AC_LAYERS",
        meaning="under full: layers of each stage (block) or of a group (uniform)",
    ),
    Flag(name="cpu_offloading", becomes="AC", meaning="move activations to the CPU"),
    Flag(name="cpu_offloading_layers", kind=SIZE, becomes="MP_AC_LAYERS", meaning="layers that are moved"),
    Flag(name="cpu_offloading_activations", becomes="AC", meaning="what is moved: activations"),
    Flag(
        name="cpu_offloading_weights",
        becomes="refused",
        meaning="Transformer Engine has taken it away: since 2.5 its switch does nothing",
    ),
    Flag(name="optim_cpu_offloading", becomes="OPTIMIZER_OFFLOAD", meaning="move the optimizer's state to the CPU"),
    Flag(
        name="optim_cpu_offloading_frac",
        kind=real(0, 1, above=True),
        default=1.0,
        becomes="MP_OPTIMIZER_OFFLOAD_FRACTION",
        meaning="part of it",
    ),
    Flag(name="wandb", becomes="WANDB_API_KEY", meaning="log to Weights & Biases; without it, its key is not used"),
    Flag(
        name="wandb_project",
        kind=text("expect-name"),
        becomes="MP_WANDB_PROJECT",
        meaning="project; not given, the experiment's name",
    ),
    Flag(
        name="wandb_name",
        kind=text("expect-name"),
        becomes="MP_WANDB_NAME",
        meaning="name of the run; not given, the experiment's",
    ),
    Flag(
        name="wandb_token",
        kind=text("expect-wandb-key"),
        default="$WANDB_API_KEY",
        becomes="WANDB_API_KEY",
        meaning="reaches the ranks in their environment, nothing else",
    ),
    Flag(name="dry_run", becomes="", meaning="show plan and command (and batch script), start nothing"),
    Flag(name="list", becomes="", meaning="the models that --model_size knows"),
)
SECRETS = {"hf_token": "HF_TOKEN", "wandb_token": "WANDB_API_KEY"}
"""Flags whose values leave the command line at once, and where they go."""


def table() -> Iterator[str]:
    """The flags for `--help`."""
    for flag in FLAGS:
        default = "" if flag.default is None else f" [{flag.default}]"
        yield f"  {flag.shown}"
        yield f"      {flag.meaning}{default}" + (f": {flag.kind.valid}" if flag.kind else "")
