"""What a front door with named flags was asked for, on its way to 25 values and MP_ variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from megatron_patch.common.values import shown
from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.problems import Problem
from megatron_patch.nemo.flags import FLAGS

PRETRAIN, FINETUNE = "pretrain", "finetune"

LABELS = {
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
    "MP_SLURM_GPUS": "--num_gpus",
    "MP_SLURM_NODES": "--num_nodes",
    "MP_VP": "--virtual_pipeline_model_parallel_size",
    "MP_AC_LAYERS": "--recompute_num_layers",
    "MP_AC_METHOD": "--recompute_method",
    "MP_SPLIT": "--split",
}
"""How this door calls the positions and variables, for messages."""


@dataclass(kw_only=True)
class Request:
    """What was asked for, on its way to 25 values."""

    given: dict[str, Any]
    environ: dict[str, str]
    stage: str
    values: dict[str, str] = field(default_factory=dict)
    """By position name."""
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def get(self, name: str) -> Any:
        """A flag's value, or its documented default."""
        default = next(flag.default for flag in FLAGS if flag.name == name)
        if self.stage == FINETUNE:
            default = {"experiment": "finetuning", "lr": 5e-6}.get(name, default)
        return self.given.get(name, default)

    @property
    def dry_run(self) -> bool:
        """Nothing will be started, so nothing is fetched either."""
        return bool(self.given.get("dry_run")) or self.environ.get("DRY_RUN", "") not in ("", "0", "false")

    def command_line(self) -> list[str]:
        """The 25 values in their order."""
        return [self.values[position.name] for position in POSITIONS]

    def wrong(self, name: str, what: str, valid: str) -> None:
        """Something that cannot be translated."""
        self.problems.append(Problem(names=(f"--{name}",), what=what, valid=valid))

    def variable(self, name: str, value: object) -> None:
        """Set an MP_ variable; one of the user's that says something else is a contradiction."""
        text = shown(value)
        before = self.environ.get(name, "")
        if before not in ("", text):
            what = f"the command line makes {name} {text}, the environment says {before}"
            self.problems.append(Problem(names=(LABELS.get(name, name),), what=what, valid="one of them"))
        self.environ[name] = text
