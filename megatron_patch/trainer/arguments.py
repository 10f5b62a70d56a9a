"""Our own flags beside Megatron's. Everything else that changes training is a flag of Megatron's parser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from megatron_patch.trainer.passes import FEWER


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Declare our flags; Megatron's `parse_and_validate_args` takes this as `extra_args_provider`.

    Three of Megatron's defaults are changed. A signal ends a run after the step, with a checkpoint. NaN or inf are met
    by the policy of `runs/recovery.py`: 0.19.2 would compute the step again, save, and end with status 16 to be
    started on another GPU; and its check of every micro batch ends one rank while the others wait for it.
    """
    parser.set_defaults(exit_signal_handler=True, rerun_mode="disabled", check_for_nan_in_loss_and_grad=False)
    group = parser.add_argument_group(title="megatron_patch")
    group.add_argument("--device", choices=("cpu", "cuda"), default="cuda", help="what the ranks compute on")
    group.add_argument(
        "--output-dir", type=Path, required=True, help="where metrics, logs, dataset indices and checkpoints go"
    )
    group.add_argument(
        "--hf-checkpoint", type=Path, default=None, help="start from the safetensors of this Hugging Face folder"
    )
    group.add_argument(
        "--export-hf", type=Path, default=None, help="write this Hugging Face folder when training is done"
    )
    group.add_argument("--export-hf-every", action="store_true", help="one of each checkpoint, while training goes on")
    group.add_argument(
        "--background-save", action="store_true", help="copy a checkpoint to RAM and write it while training goes on"
    )
    group.add_argument(
        "--keep-checkpoints", type=int, default=None, help="remove all but so many, once a newer one is complete"
    )
    group.add_argument("--keep-best", action="store_true", help="never remove that of the lowest validation loss")
    group.add_argument(
        "--early-stop-patience", type=int, default=None, help="end after so many validations without improvement"
    )
    group.add_argument(
        "--on-spike", choices=("off", "skip", "stop", "rollback"), default="off", help="see docs/failures.md"
    )
    group.add_argument("--spike-factor", type=float, default=10.0, help="deviations above the median of the last steps")
    group.add_argument("--spike-window", type=int, default=64, help="how many steps these are")
    group.add_argument("--trace-iterations", default=None, help="FIRST-LAST, recorded by torch's profiler")
    group.add_argument("--trace-ranks", default="0", help="ranks that are recorded, as 0,3")
    group.add_argument("--loggers", default="", help="callbacks that log elsewhere, as mlflow,swanlab")
    group.add_argument("--z-loss", type=float, default=0.0, help="weight of the mean of log(sum(exp(logits)))^2")
    add_backend_arguments(parser.add_argument_group(title="megatron_patch, how GPUs compute"))
    add_lora_arguments(parser.add_argument_group(title="megatron_patch, adapters"))
    add_sft_arguments(parser.add_argument_group(title="megatron_patch, finetuning on conversations"))
    return parser


def add_backend_arguments(group: argparse._ArgumentGroup) -> None:
    """What is computed in which kernels, and in how many bits."""
    group.add_argument(
        "--allow-unfused-attention",
        action="store_true",
        help="train on even if Transformer Engine falls back to S x S attention at 2048 tokens or more",
    )
    group.add_argument(
        "--fused-single-qkv-rope",
        action="store_true",
        help="rotate queries and keys where they lie in the fused projection (Megatron has no flag for its own field)",
    )
    group.add_argument(
        "--qkv-rope",
        choices=("together", "apart"),
        default="together",
        help="split queries, keys and values and rotate them in one kernel of ours, where it applies, or in several",
    )
    group.add_argument(
        "--fewer-passes",
        nargs="*",
        choices=FEWER,
        help="passes over memory to leave out, on GPUs: what applies, where not given; after no name, none",
    )
    group.add_argument(
        "--fp8-extra",
        nargs="+",
        choices=("sums", "head"),
        default=(),
        help="what fp8 also computes in fewer bits: sums of the backward pass, the LM head",
    )


def add_lora_arguments(group: argparse._ArgumentGroup) -> None:
    """The base comes from --hf-checkpoint at every start, or from --base-checkpoint; --load is a resume's."""
    group.add_argument("--lora-rank", type=int, default=None, help="train adapters of this rank beside frozen weights")
    group.add_argument("--lora-alpha", type=float, default=None, help="divided by the rank: scale; else twice the rank")
    group.add_argument("--lora-rank-pattern", default=None, help="ranks of some modules, as JSON like PEFT's")
    group.add_argument("--lora-alpha-pattern", default=None, help="alphas of some modules, as JSON like PEFT's")
    group.add_argument("--lora-dropout", type=float, default=0.0, help="of the adapters' inputs")
    group.add_argument("--lora-targets", default="all-linear", help="q,k,v,o,gate,up,down or some of them")
    group.add_argument("--lora-rslora", action="store_true", help="divide alpha by the square root of the rank")
    group.add_argument("--lora-adapter", type=Path, default=None, help="go on from this folder of Hugging Face's PEFT")
    group.add_argument("--base-checkpoint", type=Path, default=None, help="the base, an iteration in torch_dist form")
    group.add_argument("--freeze", default=None, help="embedding, head, norms, layers.N, layers.N-M: not trained")


def add_sft_arguments(group: argparse._ArgumentGroup) -> None:
    """Megatron's own `--sft` is not used: it has no Llama 3 template, and averages validation by micro batch."""
    group.add_argument("--sft-data", choices=("idxmap", "raw"), help="finetune, on conversations of this form")
    group.add_argument("--sft-packing", action="store_true", help="several conversations in one row, none sees another")
    group.add_argument("--sft-loss", choices=("assistant", "last", "all"), default="assistant", help="what is learned")
    group.add_argument("--sft-average", choices=("token", "sequence"), default="token", help="what weighs equally")
    group.add_argument(
        "--sft-overlong", choices=("truncate", "drop", "error"), default="truncate", help="rows that do not fit"
    )
    group.add_argument(
        "--sft-dropped", choices=("lose", "keep"), default="lose", help="rows of which the chat template drops a part"
    )
    group.add_argument(
        "--sft-split", metavar="SHARES", help="hold conversations out for validation: shares such as 95,5"
    )
    group.add_argument(
        "--sft-turns", choices=("together", "one-by-one"), default="together", help="samples of a conversation"
    )
    group.add_argument(
        "--trained-logits",
        type=int,
        default=0,
        metavar="MULTIPLE",
        help="logits and loss at trained positions only, up to a multiple of so many rows; 0 = at all",
    )
    group.add_argument("--sft-max-lost", type=float, default=0.1, help="largest share of rows that may go unused")


def parse_early(argv: Sequence[str]) -> argparse.Namespace:
    """Read our flags alone: device and output folder are needed before Megatron can be imported."""
    known, _ = add_arguments(argparse.ArgumentParser(allow_abbrev=False, add_help=False)).parse_known_args(argv)
    return known
