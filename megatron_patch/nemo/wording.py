"""The 25 values and MP_ variables as the NeMo flags that set them: messages speak of what was typed."""

from __future__ import annotations

from megatron_patch.common.messages import Message, Wording
from megatron_patch.nemo.command_line import CommandLine

NAMES = {
    "ENV": "--executor",
    "MODEL_SIZE": "--model_size",
    "BATCH_SIZE": "--micro_batch_size",
    "GLOBAL_BATCH_SIZE": "--global_batch_size",
    "LR": "--lr",
    "MIN_LR": "--min_lr",
    "SEQ_LEN": "--seq_length",
    "PAD_LEN": "--seq_length",
    "PR": "--precision",
    "TP": "--tensor_model_parallel_size",
    "PP": "--pipeline_model_parallel_size",
    "CP": "--context_parallel_size",
    "SP": "--sequence_parallel",
    "AC": "--recompute_granularity",
    "OPTIMIZER_OFFLOAD": "--optim_cpu_offloading",
    "SAVE_INTERVAL": "--save_interval",
    "DATASET_PATH": "--dataset_path",
    "VALID_DATASET_PATH": "--dataset_path",
    "PRETRAIN_CHECKPOINT_PATH": "--nemo_model",
    "TRAIN_TOKENS_OR_ITERS": "--max_steps",
    "WARMUP_TOKENS_OR_ITERS": "--warmup_steps",
    "OUTPUT_BASEPATH": "--experiment",
    "MP_TOKENIZER_PATH": "--hf_model_id",
    "MP_NPROC": "--num_gpus",
    "MP_SLURM_ACCOUNT": "--account",
    "MP_SLURM_GPUS": "--num_gpus",
    "MP_SLURM_IMAGE": "--container_image",
    "MP_SLURM_NODES": "--num_nodes",
    "MP_SLURM_PARTITION": "--partition",
    "MP_SLURM_TIME": "--time",
    "MP_VP_CHUNKS": "--virtual_pipeline_model_parallel_size",
    "MP_AC_LAYERS": "--recompute_num_layers",
    "MP_AC_METHOD": "--recompute_method",
    "MP_FP8_RECIPE": "--fp8_recipe",
    "MP_OPTIMIZER_OFFLOAD_FRACTION": "--optim_cpu_offloading_frac",
    "MP_SPLIT": "--split",
    "MP_WANDB_PROJECT": "--wandb",
    "MP_WANDB_NAME": "--wandb",
}
"""The flag that sets each position and variable."""

SWITCHES = {
    ("SP", "true"): ("--sequence_parallel",),
    ("PR", "fp8"): ("--fp8",),
    ("AC", "sel"): ("--recompute_granularity", "selective"),
    ("AC", "offload"): ("--cpu_offloading",),
    ("OPTIMIZER_OFFLOAD", "static"): ("--optim_cpu_offloading",),
    ("OPTIMIZER_OFFLOAD", "auto"): ("--optim_cpu_offloading",),
    ("ENV", "dsw"): ("--executor", "local"),
}
"""Values that another flag sets, or a flag without a value, or in another word."""
LEFT_OUT = {("SP", "false"), ("AC", "false"), ("AC", "none"), ("OPTIMIZER_OFFLOAD", "false")}
"""Values that a flag has by not being given."""


def wording(line: CommandLine, language: str) -> Wording:
    """The positions and variables as this command line calls them: as typed, else by the flag's long name."""
    flags = {name: line.spelled.get(flag, flag) for name, flag in NAMES.items()}
    words = {setting: " ".join((line.spelled.get(flag, flag), *more)) for setting, (flag, *more) in SWITCHES.items()}
    without = Wording(language=language)
    words |= {(name, value): without.text(Message("flag-left-out", flag=flags[name])) for name, value in LEFT_OUT}
    return Wording(language=language, flags={**flags, **line.spelled}, settings=words)
