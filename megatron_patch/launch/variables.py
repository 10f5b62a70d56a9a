"""How a run is tuned: the MP_* variables, in one table that parsing, errors, `--help` and the README are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from megatron_patch.common.values import Kind, choice, nearest, real, switch, text, whole
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.tp_overlap import METHODS


def _row(default: Any, meaning: str, kind: Kind) -> Any:
    return field(default=default, metadata={"meaning": meaning, "kind": kind})


@dataclass(frozen=True, kw_only=True)
class Variables:
    """The MP_* variables, one field each; None leaves the choice to the plan, which says what it took."""

    ac_layers: int = _row(1, "AC=full: layers of one recomputed group; AC=offload: layers moved to the CPU", whole(1))
    ac_method: str = _row(
        "uniform",
        "AC=full: uniform = every layer, in groups of MP_AC_LAYERS; block = MP_AC_LAYERS layers of each stage",
        choice("uniform", "block"),
    )
    adam_beta1: float = _row(0.9, "Adam's decay of the first moment", real(0, 0.99999))
    adam_beta2: float = _row(0.95, "Adam's decay of the second moment", real(0, 0.99999))
    adam_eps: float = _row(1e-8, "Adam's epsilon", real(above=True))
    allow_unfused_attention: bool = _row(
        False, "GPUs: train on where attention falls back to S x S scores at 2048 tokens or more", switch()
    )
    attention_backend: str | None = _row(
        None, "attention kernel, before FL", choice("auto", "flash", "fused", "unfused")
    )
    background_save: str = _row(
        "auto",
        "checkpoints are copied to RAM and written while training goes on; auto = where there is RAM for the copy",
        choice("auto", "true", "false"),
    )
    clip_grad: float = _row(1.0, "largest norm of the gradient; 0 does not clip", real())
    dataset_type: str = _row("idxmap", "form of the data: .bin and .idx, or JSON (SFT only)", choice("idxmap", "raw"))
    device: str = _row("auto", "auto takes GPUs where there are any", choice("auto", "cpu", "cuda"))
    distributed_timeout_minutes: int = _row(10, "how long a rank waits for another before the run fails", whole(1))
    eval_interval: int | None = _row(
        None, "iterations between two validations; else a tenth of the run, 1000 at most", whole(1)
    )
    eval_iters: int = _row(10, "iterations of one validation; 0 = no validation", whole(0))
    export_hf: bool = _row(False, "write OUTPUT_BASEPATH/hf, a Hugging Face folder, when training is done", switch())
    fp8_recipe: str = _row("tensorwise", "scaling under PR=fp8", choice("tensorwise", "delayed", "blockwise"))
    grad_reduce: str = _row(
        "auto",
        "precision that gradients are summed in; auto = bf16 on GPUs up to 16 micro batches an iteration, else fp32",
        choice("auto", "fp32", "bf16"),
    )
    init_std: float | None = _row(None, "standard deviation of new weights; else the model's own", real(above=True))
    keep_checkpoints: int | None = _row(None, "how many checkpoints are kept, the newest; else all", whole(1))
    k8s_image: str | None = _row(None, "--emit k8s: container image", text("registry/name:tag"))
    k8s_name: str | None = _row(None, "--emit k8s: name of the job; else the output folder's", text("a DNS label"))
    k8s_project: str | None = _row(
        None, "--emit k8s: where this project lies in the image; else where it lies here", text("a folder")
    )
    k8s_volumes: str | None = _row(
        None,
        "--emit k8s: volume claims to mount, `CLAIM:/FOLDER CLAIM:/FOLDER`",
        text("CLAIM:/FOLDER, several by spaces"),
    )
    log_interval: int = _row(1, "iterations between two lines of progress", whole(1))
    lr_decay_iters: int | None = _row(None, "iteration at which the cosine ends; else the last", whole(1))
    master_port: int | None = _row(None, "ENV=dsw: port of the rendezvous; else a free one", whole(1, 65535))
    megatron_args: str | None = _row(None, "more flags for Megatron's parser, as in a shell", text("flags"))
    node_timeout_seconds: int = _row(
        60, "several machines: one that is not heard of for so long is given up, and the run with it", whole(5)
    )
    memory_check: bool = _row(True, "GPUs: a run that does not fit by its plan is not started; 0 tries it", switch())
    nproc: int | None = _row(
        None, "processes on this machine; else one per GPU, on the CPU TP x PP x CP", whole(1, 4096)
    )
    moments: str = _row(
        "auto",
        "precision of Adam's moments; auto = fp32, bf16 on GPUs where that alone makes the run fit",
        choice("auto", "fp32", "bf16"),
    )
    num_workers: int | None = _row(None, "data loader processes per rank; else 2 on GPUs, 0 on the CPU", whole(0, 256))
    optimizer_offload_fraction: float = _row(
        1.0, "OPTIMIZER_OFFLOAD=static: part of the optimizer's state that moves", real(0, 1, above=True)
    )
    pp_balance: bool = _row(
        True, "GPUs, PP > 1: fewer layers on the last stage, whose LM head takes time too", switch()
    )
    rendezvous_timeout_seconds: int = _row(
        600, "several machines: how long they wait for each other before the first step", whole(5)
    )
    seed: int = _row(1234, "seed of weights and of the order of the data", whole(0, 2**31 - 1))
    sft_average: str = _row(
        "token",
        "SFT: what weighs equally in the loss: each trained token, or each conversation",
        choice("token", "sequence"),
    )
    sft_loss: str = _row(
        "assistant",
        "SFT: what is learned: all that the assistant says, its last turn, or every token",
        choice("assistant", "last", "all"),
    )
    sft_max_lost: float = _row(0.1, "SFT: largest share of the conversations that may go unused", real(0, 1))
    sft_overlong: str = _row("truncate", "SFT: conversations longer than SEQ_LEN", choice("truncate", "drop", "error"))
    sft_packing: bool = _row(False, "SFT: several conversations in one sequence", switch())
    slurm_account: str | None = _row(None, "ENV=slurm: account", text("a name"))
    slurm_args: str | None = _row(None, "ENV=slurm: more options for sbatch, as in a shell", text("options"))
    slurm_gpus: int | None = _row(None, "ENV=slurm: GPUs of each node; else those that a node has", whole(1, 4096))
    slurm_image: str | None = _row(
        None, "ENV=slurm: container image (needs Slurm's pyxis plug-in); else none", text("an image, or none")
    )
    slurm_nodes: int | None = _row(None, "ENV=slurm: nodes; else 1", whole(1, 65536))
    slurm_partition: str | None = _row(None, "ENV=slurm: partition; else the cluster's default", text("a name"))
    slurm_signal_seconds: int = _row(
        300, "ENV=slurm: how long before the time limit the run saves and requeues itself", whole(10, 65535)
    )
    slurm_time: str | None = _row(
        None, "ENV=slurm: time limit; else the partition's", text("MINUTES, HH:MM:SS or DAYS-HH:MM:SS")
    )
    split: str | None = _row(
        None, "VALID_DATASET_PATH=none: shares of DATASET_PATH for training and validation", text("such as 99,1")
    )
    tp_overlap: str = _row(
        "auto",
        "GPUs, TP > 1 with SP in bf16: transfers run beside the products that need them, through Transformer Engine's "
        "userbuffers; pipeline = its own choice of methods, ring = copies also after the forward products, "
        "ring-all = after all; auto = that, from 4096 tokens a micro batch, without AC=offload",
        choice("auto", "none", *METHODS),
    )
    tokenizer_path: str | None = _row(
        None,
        "folder of the tokenizer; else PRETRAIN_CHECKPOINT_PATH",
        text("folder with tokenizer.json, or a SentencePiece .model"),
    )
    vp: int | None = _row(
        None,
        "virtual pipeline: layers of one chunk, as --num-layers-per-virtual-pipeline-stage; else no chunks",
        whole(1),
    )
    vp_chunks: int | None = _row(
        None, "virtual pipeline: chunks of each pipeline rank, in the place of MP_VP", whole(1)
    )
    wandb_entity: str | None = _row(None, "Weights & Biases: team or user", text("a name"))
    wandb_name: str | None = _row(None, "Weights & Biases: name of the run; else the output folder's", text("a name"))
    wandb_project: str | None = _row(
        None, "Weights & Biases: project; else megatron-patch where WANDB_API_KEY is set", text("a name")
    )
    weight_decay: float = _row(0.1, "weight decay, norms left out", real())
    z_loss: float = _row(
        0.0, "weight of the z-loss, the mean square of log(sum(exp(logits))); 0 = none, PaLM took 1e-4", real()
    )


@dataclass(frozen=True, kw_only=True)
class Variable:
    """One row of the table of MP_* variables."""

    name: str
    default: Any
    meaning: str
    kind: Kind


VARIABLES = tuple(
    Variable(name=f"MP_{row.name.upper()}", default=row.default, **row.metadata) for row in fields(Variables)
)


def read_variables(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Problem]]:
    """Read the MP_* variables; an empty one counts as not set, as in the seed's `[ -z ${MP_AC_LAYERS} ]`.

    Returns:
        Values by field name of Variables, defaults included, without those that could not be read; and what is wrong.
    """
    known = {variable.name: variable for variable in VARIABLES}
    values = {variable.name.removeprefix("MP_").lower(): variable.default for variable in VARIABLES}
    problems = []
    for name in sorted(name for name in environ if name.startswith("MP_") and environ[name]):
        field_name = name.removeprefix("MP_").lower()
        if name not in known:
            what = f"unknown variable{nearest(name, tuple(known))}"
            problems.append(Problem(names=(name,), what=what, valid="one of the MP_ variables that --help lists"))
            continue
        try:
            values[field_name] = known[name].kind.parse(environ[name])
        except ValueError as error:
            del values[field_name]
            problems.append(Problem(names=(name,), what=str(error), valid=known[name].kind.valid))
    return values, problems
