"""Values that are right alone and wrong together. As in `resolve.py`, a check runs if the facts it names are there."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from megatron_patch.common.checksum import file_sha256
from megatron_patch.data import prepared  # standard library only, as sidecar
from megatron_patch.data.sft import sidecar  # standard library only: not a way into the other wing
from megatron_patch.launch import megatron_flags, tp_overlap
from megatron_patch.launch.argv import EMITTED, FIXED
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.inputs import Corpus, Tokenizer
from megatron_patch.launch.layout import (
    chunks_of,
    split_layers,
    stage_words,
    valid_chunk_layers,
    valid_chunks,
    valid_pipeline_parallel,
    valid_tensor_parallel,
)
from megatron_patch.launch.plan import count_iterations
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import STEPS, Step, finds, found_by, in_order
from megatron_patch.models import ModelConfig
from megatron_patch.models.megatron import tensor_parallel_problem


def check_tensor_parallel(*, tp: int, model: ModelConfig) -> Step:
    """Heads, FFN and vocabulary have to divide by TP."""
    why = tensor_parallel_problem(model, tp)
    if why:
        valid = ", ".join(map(str, valid_tensor_parallel(model)))
        yield Problem(names=("TP", "MODEL_SIZE"), what=why, valid=f"TP {valid}")


@finds("layers_divide")
def check_pipeline_parallel(*, pp: int, model: ModelConfig) -> Step:
    """The layers have to divide by PP."""
    if split_layers(model.num_layers, pp, 1) is None:
        valid = ", ".join(map(str, valid_pipeline_parallel(model)))
        what = f"neither {model.num_layers} layers nor {model.num_layers + 2} (with embedding and loss) divide by {pp}"
        yield Problem(names=("PP", "MODEL_SIZE"), what=what, valid=f"PP {valid}")
    else:
        yield "layers_divide", True


@finds("chunks")
def check_chunks(
    *, pp: int, model: ModelConfig, layers_divide: bool, mp_vp: int | None, mp_vp_chunks: int | None
) -> Step:
    """Virtual pipeline stages: MP_VP says how many layers one has, MP_VP_CHUNKS how many of them a rank has."""
    chunks = 1 if mp_vp_chunks is None else mp_vp_chunks
    name = "MP_VP_CHUNKS" if mp_vp is None else "MP_VP"
    if mp_vp is not None:
        found = chunks_of(model.num_layers, pp, mp_vp)
        if found is None:
            what = f"a stage of {stage_words(model.num_layers, pp)} is not a whole number of chunks of {mp_vp}"
            valid = ", ".join(map(str, valid_chunk_layers(model.num_layers, pp)))
            yield Problem(names=("MP_VP", "PP", "MODEL_SIZE"), what=what, valid=f"MP_VP {valid}")
            return
        if mp_vp_chunks not in (None, found):
            what = f"MP_VP {mp_vp} makes {found} chunks a stage, MP_VP_CHUNKS says {mp_vp_chunks}"
            yield Problem(names=("MP_VP", "MP_VP_CHUNKS"), what=what, valid="one of them")
            return
        chunks = found
    if chunks > 1 and pp == 1:
        yield Problem(names=(name, "PP"), what="chunks need a pipeline", valid=f"{name} unset, or PP > 1")
    elif split_layers(model.num_layers, pp, chunks) is None:
        counts = valid_chunks(model.num_layers, pp)
        what = f"a stage of {stage_words(model.num_layers, pp)} does not divide into {chunks} chunks"
        yield Problem(names=(name, "PP", "MODEL_SIZE"), what=what, valid=f"{name} {', '.join(map(str, counts))}")
    else:
        yield "chunks", chunks


@finds("micro_batches")
def check_batch(*, global_batch_size: int, batch_size: int, dp: int) -> Step:
    """An iteration is a whole number of micro batches on every data-parallel rank."""
    step = batch_size * dp
    if global_batch_size % step:
        what = f"no multiple of BATCH_SIZE x data parallel = {batch_size} x {dp}"
        yield Problem(names=("GLOBAL_BATCH_SIZE", "BATCH_SIZE"), what=what, valid=f"a multiple of {step}")
    else:
        yield "micro_batches", global_batch_size // step


def check_interleaving(*, micro_batches: int, pp: int, chunks: int, mp_vp: int | None) -> Step:
    """The interleaved schedule wants whole groups of PP micro batches. Source: schedules.py, megatron-core 0.19.2."""
    if chunks > 1 and micro_batches % pp:
        name = "MP_VP_CHUNKS" if mp_vp is None else "MP_VP"
        what = f"chunks need a multiple of PP as micro batches per iteration, here {micro_batches}"
        valid = "a GLOBAL_BATCH_SIZE that is a multiple of BATCH_SIZE x data parallel x PP"
        yield Problem(names=(name, "GLOBAL_BATCH_SIZE", "PP"), what=what, valid=valid)


def check_sequence(*, seq_len: int, cp: int) -> Step:
    """Each context-parallel rank holds two chunks of a sequence, one from each end."""
    if cp > 1 and seq_len % (2 * cp):
        what = f"no multiple of 2 x CP = {2 * cp}"
        yield Problem(names=("SEQ_LEN", "CP"), what=what, valid=f"a multiple of {2 * cp}")


def check_sequence_parallel(*, seq_len: int, cp: int, tp: int, sp: bool) -> Step:
    """Sequence parallelism cuts what context parallelism leaves once more."""
    if sp and tp > 1 and seq_len % cp == 0 and (seq_len // cp) % tp:
        what = f"SP=true cuts SEQ_LEN / CP = {seq_len // cp} over TP {tp}, which does not divide it"
        yield Problem(names=("SEQ_LEN", "CP", "TP", "SP"), what=what, valid=f"a multiple of {cp * tp}, or SP false")


def check_length(*, seq_len: int, model: ModelConfig) -> Step:
    """No longer than the model was made for."""
    limit = model.context_length
    if seq_len > limit:
        yield Problem(
            names=("SEQ_LEN", "MODEL_SIZE"), what=f"the model reads {limit} tokens at most", valid=f"<= {limit}"
        )


def check_padding(*, seq_len: int, pad_len: int) -> Step:
    """Every sequence has SEQ_LEN tokens: Pai-Megatron-Patch fed another PAD_LEN through unchecked."""
    if pad_len != seq_len:
        yield Problem(names=("PAD_LEN", "SEQ_LEN"), what="they have to be the same", valid=f"PAD_LEN {seq_len}")


def check_rates(*, lr: float, min_lr: float) -> Step:
    """The cosine falls."""
    if min_lr > lr:
        yield Problem(names=("MIN_LR", "LR"), what="the end is above the peak", valid=f"MIN_LR <= {lr:g}")


def check_schedule(
    *,
    train_tokens_or_iters: int,
    warmup_tokens_or_iters: int,
    sft: bool,
    global_batch_size: int,
    seq_len: int,
    mp_lr_decay_iters: int | None,
) -> Step:
    """At least one iteration, and the warm-up inside."""
    train, words = count_iterations(
        train_tokens_or_iters, sft=sft, global_batch_size=global_batch_size, seq_len=seq_len
    )
    warmup, warmup_words = count_iterations(
        warmup_tokens_or_iters, sft=sft, global_batch_size=global_batch_size, seq_len=seq_len
    )
    if train == 0:
        names = ("TRAIN_TOKENS_OR_ITERS", "GLOBAL_BATCH_SIZE", "SEQ_LEN")
        yield Problem(names=names, what=words, valid=f"at least {global_batch_size * seq_len} tokens: one iteration")
    elif warmup >= (mp_lr_decay_iters or train):
        what = f"warm-up is not shorter than training: {warmup_words}; {words}"
        valid = f"fewer than {mp_lr_decay_iters or train} iterations of warm-up"
        end = "MP_LR_DECAY_ITERS" if mp_lr_decay_iters else "TRAIN_TOKENS_OR_ITERS"
        yield Problem(names=("WARMUP_TOKENS_OR_ITERS", end), what=what, valid=valid)


def check_activations(*, ac: str, pp: int, device: str, model: ModelConfig, chunks: int, mp_ac_layers: int) -> Step:
    """What recomputation and offloading need. Source: transformer_config.py, megatron-core 0.19.2."""
    if ac == "offload" and device == "cpu":
        what = "activations are already on the CPU, and offloading needs Transformer Engine"
        yield Problem(names=("AC",), what=what, valid="sel, full, false, none on the CPU")
    limit = model.num_layers - 1 if ac == "offload" else model.num_layers // (pp * chunks)
    counts = ac == "full" or (ac == "offload" and pp == 1)
    if counts and mp_ac_layers > max(1, limit):
        what = f"more layers than {'can be offloaded' if ac == 'offload' else 'one model chunk has'}"
        yield Problem(names=("MP_AC_LAYERS", "AC", "MODEL_SIZE"), what=what, valid=f"1 to {max(1, limit)}")


def check_optimizer_offload(*, optimizer_offload: str, do: bool, device: str) -> Step:
    """Offloading is a part of the distributed optimizer."""
    if optimizer_offload == "false":
        return
    if not do:
        what = "only the distributed optimizer can be offloaded"
        yield Problem(names=("OPTIMIZER_OFFLOAD", "DO"), what=what, valid="DO true, or OPTIMIZER_OFFLOAD false")
    if device == "cpu":
        what = "the optimizer is already on the CPU"
        yield Problem(names=("OPTIMIZER_OFFLOAD",), what=what, valid="false on the CPU")


WITHOUT_FP8 = ("A100", "A800", "A40", "A30", "A10", "V100", "T4", "RTX 3090", "RTX A6000")
"""Parts of the names of GPUs before Ada and Hopper, which have no FP8 units."""


def check_precision(*, pr: str, cp: int, device: str, environment: Environment) -> Step:
    """What the CPU, or an older GPU, cannot compute.

    Source: Transformer Engine 2.20, `get_attention_backend`: over context-parallel ranks only its fused kernels and
    flash-attention, of 16 bits and less.
    """
    names = [gpu.name for gpu in environment.gpus if any(f" {name} " in _words(gpu.name) for name in WITHOUT_FP8)]
    if pr == "fp8" and device == "cuda" and names:
        yield Problem(names=("PR",), what=f"{names[0]} has no FP8 units", valid="bf16")
    if pr == "fp32" and device == "cuda" and cp > 1:
        what = "Transformer Engine has no attention in fp32 over context-parallel ranks"
        yield Problem(names=("PR", "CP"), what=what, valid="bf16, or CP 1; on the CPU fp32 with any CP")
    if pr == "fp8" and device == "cpu":
        what = "needs a GPU with FP8 units and Transformer Engine"
        yield Problem(names=("PR",), what=what, valid="fp32, bf16 on the CPU")


def _words(name: str) -> str:
    return f" {name.replace('-', ' ')} "


def check_fp8_shape(*, pr: str, batch_size: int, seq_len: int, cp: int, tp: int, sp: bool) -> Step:
    """FP8 matrix products want 16 rows at least. Source: `assert_dim_for_fp8_exec`, Transformer Engine 2.20."""
    rows = batch_size * seq_len // cp // (tp if sp else 1)
    if pr == "fp8" and rows % 16:
        what = f"FP8 needs a multiple of 16 tokens per rank, here BATCH_SIZE x SEQ_LEN / CP / TP = {rows}"
        yield Problem(names=("SEQ_LEN", "PR"), what=what, valid="a multiple of 16 per rank, or another PR")


def check_attention(*, mp_attention_backend: str | None, device: str) -> Step:
    """cuDNN's kernels exist on GPUs only."""
    if mp_attention_backend == "fused" and device == "cpu":
        yield Problem(
            names=("MP_ATTENTION_BACKEND",), what="cuDNN needs a GPU", valid="auto, flash, unfused on the CPU"
        )


def check_gradient_precision(*, mp_grad_reduce: str, pr: str) -> Step:
    """bf16 sums exist beside bf16 weights only."""
    if mp_grad_reduce == "bf16" and pr not in ("bf16", "fp8"):
        yield Problem(names=("MP_GRAD_REDUCE", "PR"), what="bf16 sums need PR bf16 or fp8", valid="auto, fp32")


def check_tp_overlap(*, mp_tp_overlap: str, device: str, tp: int, sp: bool, pr: str, processes: int) -> Step:
    """Asked for where it is not possible; MP_TP_OVERLAP=auto does without."""
    found = tp_overlap.obstacle(device=device, tp=tp, sp=sp, pr=pr, processes=processes)
    if mp_tp_overlap in tp_overlap.METHODS and found is not None:
        yield Problem(names=("MP_TP_OVERLAP", *found.names), what=found.what, valid=found.valid)


def check_cluster(*, env: str, mp_master_port: int | None) -> Step:
    """Under ENV=dlc the port is the cluster's."""
    if env != "dsw" and mp_master_port is not None:
        yield Problem(names=("MP_MASTER_PORT", "ENV"), what=f"{env} takes MASTER_PORT", valid="unset, or ENV dsw")


def check_wandb(
    *, environment: Environment, mp_wandb_project: str | None, mp_wandb_entity: str | None, mp_wandb_name: str | None
) -> Step:
    """A project without a key would log nothing."""
    asked = {"PROJECT": mp_wandb_project, "ENTITY": mp_wandb_entity, "NAME": mp_wandb_name}
    for name in (f"MP_WANDB_{name}" for name, value in asked.items() if value is not None):
        if not environment.wandb_key:
            what = "no key: set WANDB_API_KEY, or WANDB_MODE=offline"
            yield Problem(names=(name,), what=what, valid="unset, or with a key")
        elif not environment.wandb_installed and not environment.only_plans:
            what = "the package wandb is not installed"
            yield Problem(names=(name,), what=what, valid="unset, or `pip install wandb`")


@finds("megatron_args")
def check_megatron_args(*, mp_megatron_args: str | None) -> Step:
    """More flags, but none against the plan."""
    if mp_megatron_args is None:
        return
    try:
        words = shlex.split(mp_megatron_args)
    except ValueError as error:
        yield Problem(names=("MP_MEGATRON_ARGS",), what=f"cannot be split: {error}", valid="flags as in a shell")
        return
    for what, valid in megatron_flags.faults(words, EMITTED | FIXED):
        yield Problem(names=("MP_MEGATRON_ARGS",), what=what, valid=valid)
    yield "megatron_args", tuple(words)


def check_flags_on_cpu(*, megatron_args: tuple[str, ...], device: str) -> Step:
    """What only a GPU's run can do."""
    for name, _ in megatron_flags.grouped(megatron_args):
        if device == "cpu" and name in megatron_flags.INERT_ON_CPU:
            what = f"{name} does nothing on the CPU: {megatron_flags.INERT_ON_CPU[name]}"
            yield Problem(names=("MP_MEGATRON_ARGS",), what=what, valid="without it")


def check_output(*, output_basepath: str) -> Step:
    """A folder that is ours, or that can be made."""
    path = Path(output_basepath).resolve()
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not there.is_dir():
        yield Problem(names=("OUTPUT_BASEPATH",), what=f"{there} is not a folder", valid="a folder, new or yours")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Problem(names=("OUTPUT_BASEPATH",), what=f"{there} is not writable", valid="a folder, new or yours")


def check_data_form(*, sft: bool, mp_dataset_type: str, mp_sft_packing: bool) -> Step:
    """Raw JSON and packing are for conversations."""
    if mp_dataset_type == "raw" and not sft:
        what = "raw JSON holds conversations; text for pretraining has to be tokenized first"
        valid = "idxmap (make it with toolkits/pretrain_data_preprocessing), or SFT true"
        yield Problem(names=("MP_DATASET_TYPE", "SFT"), what=what, valid=valid)
    if mp_sft_packing and not sft:
        yield Problem(names=("MP_SFT_PACKING", "SFT"), what="packing is for SFT", valid="false, or SFT true")


def check_sft_tokenizer(*, sft: bool, tokenizer: Tokenizer) -> Step:
    """Conversations need a chat template."""
    if sft and tokenizer.model is not None:
        valid = "a folder with tokenizer.json and a chat template"
        yield Problem(
            names=("MP_TOKENIZER_PATH", "SFT"), what="a SentencePiece model has no chat template", valid=valid
        )


def check_sft_idxmap(
    *,
    sft: bool,
    mp_dataset_type: str,
    seq_len: int,
    tokenizer: Tokenizer,
    train_data: tuple[Corpus, ...],
    valid_data: tuple[Corpus, ...] | None,
) -> Step:
    """An idxmap of conversations is built for one sequence length and one tokenizer."""
    if not sft or mp_dataset_type != "idxmap" or tokenizer.model is not None:
        return
    sha256 = sidecar.tokenizer_sha256(tokenizer.path)
    for name, corpora in (("DATASET_PATH", train_data), ("VALID_DATASET_PATH", valid_data or ())):
        for corpus in corpora:
            for what in sidecar.problems(corpus.path, seq_length=seq_len, tokenizer_sha256=sha256):
                valid = "an idxmap that toolkits/sft_data_preprocessing built for this SEQ_LEN and tokenizer"
                yield Problem(names=(name, "SEQ_LEN"), what=what, valid=valid)


def check_pretraining_idxmap(
    *,
    sft: bool,
    mp_dataset_type: str,
    tokenizer: Tokenizer,
    vocab_size: int,
    train_data: tuple[Corpus, ...],
    valid_data: tuple[Corpus, ...] | None,
) -> Step:
    """An idxmap of texts holds ids of this tokenizer, and no labels. Whole before a start: see `idxmap_check`."""
    if sft or mp_dataset_type != "idxmap":
        return
    every = [("DATASET_PATH", corpus.path) for corpus in train_data]
    every += [("VALID_DATASET_PATH", corpus.path) for corpus in valid_data or ()]
    sha256 = None
    if any(prepared.tokenizer_of(prefix) for _, prefix in every):
        sha256 = file_sha256(Path(tokenizer.model or f"{tokenizer.path}/tokenizer.json"))
    valid = "an idxmap that toolkits/pretrain_data_preprocessing made with this tokenizer"
    for name, prefix in every:
        for what in prepared.problems(prefix, vocab_size=vocab_size, tokenizer_sha256=sha256):
            yield Problem(names=(name,), what=what, valid=valid)


def check_sft_split(*, sft: bool, mp_split: str | None) -> Step:
    """Conversations for validation are named, not split off."""
    if sft and mp_split is not None:
        yield Problem(names=("MP_SPLIT", "SFT"), what="no splitting under SFT", valid="unset, and VALID_DATASET_PATH")


def check_split(*, mp_split: str | None, train_data: tuple[Corpus, ...], valid_data: tuple[Corpus, ...] | None) -> Step:
    """MP_SPLIT and VALID_DATASET_PATH both say where the validation data is; every share gets a document."""
    if mp_split is None:
        return
    if valid_data is not None:
        what = "both say where the validation data comes from"
        yield Problem(names=("MP_SPLIT", "VALID_DATASET_PATH"), what=what, valid="one of them; VALID_DATASET_PATH none")
    parts = mp_split.split(",")
    try:
        shares = [float(part) for part in parts]
    except ValueError:
        shares = []
    if len(shares) not in (2, 3) or any(share < 0 for share in shares) or not shares[0] or not shares[1]:
        yield Problem(names=("MP_SPLIT",), what="no shares of training and validation", valid="such as 99,1")
        return
    for corpus in train_data:
        empty = [
            part for part, share in zip(parts, _documents(shares, corpus.documents or 0), strict=True) if not share
        ]
        if corpus.documents and any(float(part) for part in empty):
            what = f"a share of {empty[0]} of the {corpus.documents} documents in {corpus.path} is none"
            yield Problem(names=("MP_SPLIT", "DATASET_PATH"), what=what, valid="larger shares, or more documents")


def _documents(shares: list[float], documents: int) -> list[int]:
    """How many documents each share gets. Source: `_build_megatron_dataset_splits` of megatron-core 0.19.2."""
    ends = [round(sum(shares[: number + 1]) / sum(shares) * documents) for number in range(len(shares))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


CHECKS = in_order(
    check_tensor_parallel,
    check_pipeline_parallel,
    check_chunks,
    check_batch,
    check_interleaving,
    check_sequence,
    check_sequence_parallel,
    check_length,
    check_padding,
    check_rates,
    check_schedule,
    check_activations,
    check_optimizer_offload,
    check_precision,
    check_fp8_shape,
    check_attention,
    check_gradient_precision,
    check_tp_overlap,
    check_data_form,
    check_sft_tokenizer,
    check_sft_idxmap,
    check_pretraining_idxmap,
    check_sft_split,
    check_split,
    check_cluster,
    check_wandb,
    check_megatron_args,
    check_flags_on_cpu,
    check_output,
    known=found_by(STEPS),
)
