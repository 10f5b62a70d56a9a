"""Values that are right alone and wrong together. As in `resolve.py`, a check runs if the facts it names are there."""

from __future__ import annotations

import os
import shlex
from importlib.util import find_spec
from pathlib import Path

from megatron_patch.common.checksum import file_sha256
from megatron_patch.common.files import real_path
from megatron_patch.common.loggers import LOGGERS
from megatron_patch.common.messages import Name
from megatron_patch.common.values import ValueProblem, real
from megatron_patch.data import prepared  # standard library only, as sidecar
from megatron_patch.data.sft import sidecar  # standard library only: not a way into the other wing
from megatron_patch.launch import megatron_flags, tp_overlap
from megatron_patch.launch.adapter_checks import (
    check_adapters,
    check_adapters_asked_for,
    check_first_adapter,
    check_freeze,
)
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
from megatron_patch.launch.memory import gigabytes
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import STEPS, Step, finds, found_by, in_order
from megatron_patch.launch.save_checks import check_best, check_best_interval, check_weights_only
from megatron_patch.launch.schedule import Batches, constant, count_iterations, read_stages, wsd_iterations
from megatron_patch.models import ModelConfig
from megatron_patch.models.megatron import tensor_parallel_problem


def check_tensor_parallel(*, tp: int, model: ModelConfig) -> Step:
    """Heads, FFN and vocabulary have to divide by TP."""
    why = tensor_parallel_problem(model, tp)
    if why:
        yield Problem(why.code, "TP", "MODEL_SIZE", **why.values, fits=valid_tensor_parallel(model))


@finds("layers_divide")
def check_pipeline_parallel(*, pp: int, model: ModelConfig) -> Step:
    """The layers have to divide by PP."""
    if split_layers(model.num_layers, pp, 1) is None:
        values = {"layers": model.num_layers, "padded": model.num_layers + 2, "pp": pp}
        yield Problem("pp-layers", "PP", "MODEL_SIZE", **values, fits=valid_pipeline_parallel(model))
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
            values = {"stage": stage_words(model.num_layers, pp), "vp": mp_vp}
            fits = valid_chunk_layers(model.num_layers, pp)
            yield Problem("vp-layers", "MP_VP", "PP", "MODEL_SIZE", **values, fits=fits)
            return
        if mp_vp_chunks not in (None, found):
            values = {"vp": mp_vp, "made": found, "said": mp_vp_chunks}
            yield Problem("vp-and-chunks", "MP_VP", "MP_VP_CHUNKS", **values)
            return
        chunks = found
    if chunks > 1 and pp == 1:
        yield Problem("vp-without-pipeline", name, "PP", name=Name(name))
    elif split_layers(model.num_layers, pp, chunks) is None:
        counts = valid_chunks(model.num_layers, pp)
        values = {"stage": stage_words(model.num_layers, pp), "chunks": chunks, "name": Name(name)}
        yield Problem("vp-chunks", name, "PP", "MODEL_SIZE", **values, fits=counts)
    else:
        yield "chunks", chunks


@finds("batches")
def find_batches(*, global_batch_size: int, seq_len: int, sft: bool, mp_batch_schedule: str | None) -> Step:
    """One batch, or several that follow each other; GLOBAL_BATCH_SIZE is the last, and 0.19.2 lets them only grow."""
    if mp_batch_schedule is None:
        yield "batches", constant(global_batch_size)
        return
    batches = read_stages(mp_batch_schedule, sft=sft, seq_len=seq_len)
    stages = batches.stages
    sizes, starts = [stage.batch for stage in stages], [stage.start for stage in stages]
    if sizes[-1] != global_batch_size:
        yield Problem("stages-last", "MP_BATCH_SCHEDULE", "GLOBAL_BATCH_SIZE", last=sizes[-1])
    if sizes != sorted(set(sizes)):
        yield Problem("stages-grow", "MP_BATCH_SCHEDULE", sizes=sizes)
    if len(set(starts)) < len(starts):
        yield Problem("stages-within-a-sequence", "MP_BATCH_SCHEDULE", "SEQ_LEN", length=seq_len)
    yield "batches", batches


@finds("micro_batches")
def check_batch(*, batches: Batches, batch_size: int, dp: int, mp_batch_schedule: str | None) -> Step:
    """An iteration is a whole number of micro batches on every data-parallel rank; in every stage."""
    step, sizes = batch_size * dp, [stage.batch for stage in batches.stages]
    name = "MP_BATCH_SCHEDULE" if mp_batch_schedule else "GLOBAL_BATCH_SIZE"
    wrong = [number for number, size in enumerate(sizes, 1) if size % step]
    values = {"batch_size": batch_size, "dp": dp, "multiple": step}
    for number in wrong:
        staged = {"number": number, "size": sizes[number - 1]}
        code = "batch-stage-multiple" if mp_batch_schedule else "batch-multiple"
        yield Problem(code, name, "BATCH_SIZE", **values, **(staged if mp_batch_schedule else {}))
    if not wrong:
        yield "micro_batches", sizes[-1] // step


def check_interleaving(
    *, micro_batches: int, batches: Batches, batch_size: int, dp: int, pp: int, chunks: int, mp_vp: int | None
) -> Step:
    """The interleaved schedule wants whole groups of PP micro batches. Source: schedules.py, megatron-core 0.19.2."""
    counts = [stage.batch // (batch_size * dp) for stage in batches.stages]
    wrong = [count for count in counts if count % pp]
    if chunks > 1 and wrong:
        name = "MP_VP_CHUNKS" if mp_vp is None else "MP_VP"
        yield Problem("vp-micro-batches", name, "GLOBAL_BATCH_SIZE", "PP", micro_batches=wrong[0])


def check_sequence(*, seq_len: int, cp: int) -> Step:
    """Each context-parallel rank holds two chunks of a sequence, one from each end."""
    if cp > 1 and seq_len % (2 * cp):
        yield Problem("sequence-cp", "SEQ_LEN", "CP", multiple=2 * cp)


def check_sequence_parallel(*, seq_len: int, cp: int, tp: int, sp: bool) -> Step:
    """Sequence parallelism cuts what context parallelism leaves once more."""
    if sp and tp > 1 and seq_len % cp == 0 and (seq_len // cp) % tp:
        values = {"part": seq_len // cp, "tp": tp, "multiple": cp * tp}
        yield Problem("sequence-sp", "SEQ_LEN", "CP", "TP", "SP", **values)


def check_length(*, seq_len: int, model: ModelConfig) -> Step:
    """No longer than the model was made for."""
    limit = model.context_length
    if seq_len > limit:
        yield Problem("sequence-too-long", "SEQ_LEN", "MODEL_SIZE", limit=limit)


def check_padding(*, seq_len: int, pad_len: int) -> Step:
    """Every sequence has SEQ_LEN tokens: Pai-Megatron-Patch fed another PAD_LEN through unchecked."""
    if pad_len != seq_len:
        yield Problem("padding", "PAD_LEN", "SEQ_LEN", seq_len=seq_len)


def check_rates(*, lr: float, min_lr: float) -> Step:
    """The cosine falls."""
    if min_lr > lr:
        yield Problem("rates", "MIN_LR", "LR", lr=lr)


@finds("train_iters", "warmup", "decay_end")
def check_schedule(
    *,
    train_tokens_or_iters: int,
    warmup_tokens_or_iters: int,
    sft: bool,
    batches: Batches,
    seq_len: int,
    mp_lr_decay_iters: int | None,
) -> Step:
    """At least one iteration, and the warm-up inside."""
    train, words = count_iterations(train_tokens_or_iters, sft, batches, seq_len)
    warmup, warmup_words = count_iterations(warmup_tokens_or_iters, sft, batches, seq_len)
    if train == 0:
        names = ("TRAIN_TOKENS_OR_ITERS", "GLOBAL_BATCH_SIZE", "SEQ_LEN")
        yield Problem("no-iteration", *names, arithmetic=words, tokens=batches.stages[0].batch * seq_len)
    elif warmup >= (mp_lr_decay_iters or train):
        end = "MP_LR_DECAY_ITERS" if mp_lr_decay_iters else "TRAIN_TOKENS_OR_ITERS"
        values = {"warmup": warmup_words, "train": words, "limit": mp_lr_decay_iters or train}
        yield Problem("warmup-too-long", "WARMUP_TOKENS_OR_ITERS", end, **values)
    else:
        yield "train_iters", train
        yield "warmup", warmup
        yield "decay_end", mp_lr_decay_iters or train


def check_decay(*, warmup: int, decay_end: int, mp_lr_decay_style: str, mp_lr_wsd_decay_iters: int | None) -> Step:
    """The decay of WSD begins after the warm-up, whose length gives the inverse square root its scale."""
    wsd = wsd_iterations(mp_lr_decay_style, mp_lr_wsd_decay_iters, decay_end)
    if wsd > decay_end - warmup:
        names = ("MP_LR_WSD_DECAY_ITERS", "WARMUP_TOKENS_OR_ITERS")
        yield Problem("wsd-too-long", *names, wsd=wsd, end=decay_end, warmup=warmup, most=decay_end - warmup)
    if mp_lr_decay_style == "inverse-square-root" and warmup == 0:
        yield Problem("inverse-root-needs-warmup", "MP_LR_DECAY_STYLE", "WARMUP_TOKENS_OR_ITERS")


def check_profile(
    *, mp_profile: str | None, mp_profile_ranks: str, train_iters: int, nodes: int, processes: int
) -> Step:
    """Iterations and ranks that there are."""
    if mp_profile is None:
        return
    if int(mp_profile.partition("-")[2]) > train_iters:
        yield Problem("profile-beyond", "MP_PROFILE", "TRAIN_TOKENS_OR_ITERS", iterations=train_iters)
    ranks = nodes * processes
    if max(map(int, mp_profile_ranks.split(","))) >= ranks:
        yield Problem("profile-no-rank", "MP_PROFILE_RANKS", ranks=ranks, last=ranks - 1)


def check_activations(*, ac: str, pp: int, device: str, model: ModelConfig, chunks: int, mp_ac_layers: int) -> Step:
    """What recomputation and offloading need. Source: transformer_config.py, megatron-core 0.19.2."""
    if ac == "offload" and device == "cpu":
        yield Problem("offload-on-cpu", "AC")
    limit = model.num_layers - 1 if ac == "offload" else model.num_layers // (pp * chunks)
    counts = ac == "full" or (ac == "offload" and pp == 1)
    if counts and mp_ac_layers > max(1, limit):
        code = "ac-layers-offload" if ac == "offload" else "ac-layers-chunk"
        yield Problem(code, "MP_AC_LAYERS", "AC", "MODEL_SIZE", limit=max(1, limit))


def check_optimizer_offload(*, optimizer_offload: str, do: bool, device: str) -> Step:
    """Offloading is a part of the distributed optimizer."""
    if optimizer_offload == "false":
        return
    if not do:
        yield Problem("optimizer-offload-needs-do", "OPTIMIZER_OFFLOAD", "DO")
    if device == "cpu":
        yield Problem("optimizer-on-cpu", "OPTIMIZER_OFFLOAD")


def check_muon(
    *,
    mp_optimizer: str,
    do: bool,
    pr: str,
    optimizer_offload: str,
    mp_lora_rank: int | None,
    mp_freeze: str | None,
    environment: Environment,
) -> Step:
    """Where Muon trains: its whole state on every rank. Source: optimizer/__init__.py of megatron-core 0.19.2."""
    if mp_optimizer != "muon":
        return
    if not environment.only_plans and find_spec("emerging_optimizers") is None:
        yield Problem("muon-not-installed", "MP_OPTIMIZER", pin=EMERGING_OPTIMIZERS)
    if do:
        yield Problem("muon-shards", "MP_OPTIMIZER", "DO")
    if optimizer_offload != "false":
        yield Problem("muon-offload", "MP_OPTIMIZER", "OPTIMIZER_OFFLOAD")
    if pr in ("fp16", "fp8"):
        yield Problem("muon-precision", "MP_OPTIMIZER", "PR", pr=pr)
    for name, value in (("MP_LORA_RANK", mp_lora_rank), ("MP_FREEZE", mp_freeze)):
        if value is not None:
            yield Problem("muon-partly", "MP_OPTIMIZER", name)


EMERGING_OPTIMIZERS = "emerging-optimizers==0.3.0"
"""As the extra `muon` of pyproject.toml."""
WITHOUT_FP8 = ("A100", "A800", "A40", "A30", "A10", "V100", "T4", "RTX 3090", "RTX A6000")
"""Parts of the names of GPUs before Ada and Hopper, which have no FP8 units."""


def check_precision(*, pr: str, cp: int, device: str, environment: Environment) -> Step:
    """What the CPU, or an older GPU, cannot compute.

    Source: Transformer Engine 2.20, `get_attention_backend`: over context-parallel ranks only its fused kernels and
    flash-attention, of 16 bits and less.
    """
    names = [gpu.name for gpu in environment.gpus if any(f" {name} " in _words(gpu.name) for name in WITHOUT_FP8)]
    if pr == "fp8" and device == "cuda" and names:
        yield Problem("fp8-no-units", "PR", gpu=names[0])
    if pr == "fp32" and device == "cuda" and cp > 1:
        yield Problem("fp32-cp", "PR", "CP")
    if pr == "fp8" and device == "cpu":
        yield Problem("fp8-on-cpu", "PR")


def _words(name: str) -> str:
    return f" {name.replace('-', ' ')} "


def check_fp8_shape(*, pr: str, batch_size: int, seq_len: int, cp: int, tp: int, sp: bool) -> Step:
    """FP8 matmuls want 16 rows at least. Source: `assert_dim_for_fp8_exec`, Transformer Engine 2.20."""
    rows = batch_size * seq_len // cp // (tp if sp else 1)
    if pr == "fp8" and rows % 16:
        yield Problem("fp8-rows", "SEQ_LEN", "PR", rows=rows)


def check_attention(*, mp_attention_backend: str | None, device: str) -> Step:
    """cuDNN's kernels exist on GPUs only."""
    if mp_attention_backend == "fused" and device == "cpu":
        yield Problem("attention-on-cpu", "MP_ATTENTION_BACKEND")


def check_gradient_precision(*, mp_grad_reduce: str, pr: str) -> Step:
    """bf16 sums exist beside bf16 weights only."""
    if mp_grad_reduce == "bf16" and pr not in ("bf16", "fp8"):
        yield Problem("gradient-bf16", "MP_GRAD_REDUCE", "PR")


def check_tp_overlap(
    *, mp_tp_overlap: str, device: str, tp: int, sp: bool, pr: str, mp_fp8_recipe: str, processes: int
) -> Step:
    """Asked for where it is not possible; MP_TP_OVERLAP=auto does without."""
    found = tp_overlap.obstacle(device=device, tp=tp, sp=sp, pr=pr, fp8_recipe=mp_fp8_recipe, processes=processes)
    if mp_tp_overlap in tp_overlap.METHODS and found is not None:
        yield Problem(found.code, "MP_TP_OVERLAP", *found.names, **found.values)


def check_cluster(*, env: str, mp_master_port: int | None) -> Step:
    """Under ENV=dlc the port is the cluster's."""
    if env != "dsw" and mp_master_port is not None:
        yield Problem("master-port-twice", "MP_MASTER_PORT", "ENV", env=env)


def check_wandb(
    *,
    environment: Environment,
    mp_loggers: str | None,
    mp_wandb_project: str | None,
    mp_wandb_entity: str | None,
    mp_wandb_name: str | None,
) -> Step:
    """A project without a key would log nothing."""
    asked = {"PROJECT": mp_wandb_project, "ENTITY": mp_wandb_entity, "NAME": mp_wandb_name}
    names = [f"MP_WANDB_{name}" for name, value in asked.items() if value is not None]
    loggers = mp_loggers.split(",") if mp_loggers else ["wandb"]
    if names and "wandb" not in loggers:
        yield Problem("logger-not-asked", *names)
        return
    names += ["MP_LOGGERS"] if mp_loggers and "wandb" in loggers else []
    if names and not environment.wandb_key:
        yield Problem("wandb-no-key", *names)
    elif names and not environment.wandb_installed and not environment.only_plans:
        yield Problem("wandb-not-installed", *names)


def check_loggers(*, environment: Environment, mp_loggers: str | None) -> Step:
    """What is asked for has its package, and its key where it cannot do without; keys are read by the logger alone."""
    for name in (mp_loggers or "").split(","):
        logger = LOGGERS.get(name)
        if logger is None:
            continue
        if logger.keys and not environment.inherited & set(logger.keys):
            yield Problem("logger-no-key", "MP_LOGGERS", logger=name, variables=" / ".join(logger.keys))
        if not environment.only_plans and find_spec(logger.package) is None:
            yield Problem("logger-not-installed", "MP_LOGGERS", logger=name, package=logger.package, pin=logger.pin)


@finds("megatron_args")
def check_megatron_args(*, mp_megatron_args: str | None) -> Step:
    """More flags, but none against the plan."""
    if mp_megatron_args is None:
        return
    try:
        words = shlex.split(mp_megatron_args)
    except ValueError as error:
        yield Problem("megatron-args-form", "MP_MEGATRON_ARGS", error=error)
        return
    for fault in megatron_flags.faults(words, EMITTED | FIXED):
        yield Problem(fault.code, "MP_MEGATRON_ARGS", **fault.values)
    yield "megatron_args", tuple(words)


def check_flags_on_cpu(*, megatron_args: tuple[str, ...], device: str) -> Step:
    """What only a GPU's run can do."""
    for name, _ in megatron_flags.grouped(megatron_args):
        if device == "cpu" and name in megatron_flags.INERT_ON_CPU:
            yield Problem("flag-on-cpu", "MP_MEGATRON_ARGS", flag=name, why=megatron_flags.INERT_ON_CPU[name])


def check_output(*, output_basepath: str) -> Step:
    """A folder that is ours, or that can be made."""
    path = real_path(Path(output_basepath))
    there = next(folder for folder in (path, *path.parents) if os.path.lexists(folder))
    if not there.is_dir():
        yield Problem("output-not-folder", "OUTPUT_BASEPATH", path=there)
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Problem("output-not-writable", "OUTPUT_BASEPATH", path=there)


def check_data_form(*, sft: bool, mp_dataset_type: str, mp_sft_packing: bool) -> Step:
    """Raw JSON and packing are for conversations."""
    if mp_dataset_type == "raw" and not sft:
        yield Problem("raw-without-sft", "MP_DATASET_TYPE", "SFT")
    if mp_sft_packing and not sft:
        yield Problem("packing-without-sft", "MP_SFT_PACKING", "SFT")


def check_sft_tokenizer(*, sft: bool, tokenizer: Tokenizer) -> Step:
    """Conversations need a chat template."""
    if sft and tokenizer.model is not None:
        yield Problem("sft-sentencepiece", "MP_TOKENIZER_PATH", "SFT")


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
                yield Problem("sft-idxmap", name, "SEQ_LEN", found=what)


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
    for name, prefix in every:
        for what in prepared.problems(prefix, vocab_size=min(vocab_size, tokenizer.ids), tokenizer_sha256=sha256):
            yield Problem("pretraining-idxmap", name, found=what)


def check_sft_split(*, sft: bool, mp_split: str | None) -> Step:
    """Conversations for validation are named, not split off."""
    if sft and mp_split is not None:
        yield Problem("split-under-sft", "MP_SPLIT", "SFT")


def check_split(*, mp_split: str | None, train_data: tuple[Corpus, ...], valid_data: tuple[Corpus, ...] | None) -> Step:
    """MP_SPLIT and VALID_DATASET_PATH both say where the validation data is; every share gets a document."""
    if mp_split is None:
        return
    if valid_data is not None:
        yield Problem("split-and-data", "MP_SPLIT", "VALID_DATASET_PATH")
    parts = mp_split.split(",")
    shares = _shares(parts)
    if len(shares) not in (2, 3) or not shares[0] or not shares[1]:
        yield Problem("split-form", "MP_SPLIT")
        return
    for corpus in sorted(train_data, key=lambda one: one.documents or 0):
        counts = _documents(shares, corpus.documents or 0)
        empty = [part for part, share, count in zip(parts, shares, counts, strict=True) if share and not count]
        if corpus.documents and empty:
            yield _empty_share(empty[0], sum(map(bool, shares)), corpus)
            return  # what suits the smallest suits all


def _shares(parts: list[str]) -> list[float]:
    """Empty where one of them is not a number >= 0."""
    try:
        return [real().parse(part.strip()) for part in parts]
    except ValueProblem:
        return []


def _empty_share(share: str, wanted: int, corpus: Corpus) -> Problem:
    """A share without a document, with shares that give every part at least one, if there are so many."""
    documents = corpus.documents or 0
    values = {"share": share, "documents": documents, "path": corpus.path}
    if documents < wanted:
        return Problem("split-few-documents", "MP_SPLIT", "DATASET_PATH", **values, wanted=wanted)
    suggested = ",".join(map(str, [documents - wanted + 1, *[1] * (wanted - 1)]))
    return Problem("split-empty-share", "MP_SPLIT", "DATASET_PATH", **values, suggested=suggested)


def _documents(shares: list[float], documents: int) -> list[int]:
    """How many documents each share gets. Source: `_build_megatron_dataset_splits` of megatron-core 0.19.2."""
    ends = [round(sum(shares[: number + 1]) / sum(shares) * documents) for number in range(len(shares))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


INDEX_BYTES = 20
"""Of RAM while Megatron makes its index of a data set, for each document in each epoch, and for each sample."""


def check_index_memory(
    *,
    train_tokens_or_iters: int,
    sft: bool,
    seq_len: int,
    mp_split: str | None,
    train_data: tuple[Corpus, ...],
    environment: Environment,
) -> Step:
    """A small corpus that is read very often: the order of all its epochs is kept in RAM.

    Source: `_build_document_index`, gpt_dataset.py of megatron-core 0.19.2: `numpy.mgrid` of epochs x documents.
    """
    if sft or environment.elsewhere:
        return
    total = sum(corpus.weight or corpus.tokens or 0 for corpus in train_data)
    for corpus in train_data:
        if not corpus.tokens or not corpus.documents or not total:
            continue
        wanted = train_tokens_or_iters * (corpus.weight or corpus.tokens) / total
        epochs = wanted / corpus.tokens
        needed = INDEX_BYTES * (epochs * corpus.documents + wanted / seq_len)
        if needed > environment.memory_total_bytes:
            most = train_tokens_or_iters * environment.memory_total_bytes / needed
            figures = {"needed": gigabytes(round(needed)), "ram": gigabytes(environment.memory_total_bytes)}
            told = {"path": corpus.path, "epochs": f"{epochs:.3g}", "most": f"{most:.2g}", **figures}
            yield Problem("index-memory", "TRAIN_TOKENS_OR_ITERS", "DATASET_PATH", **told)


CHECKS = in_order(
    check_tensor_parallel,
    check_pipeline_parallel,
    check_chunks,
    find_batches,
    check_batch,
    check_interleaving,
    check_sequence,
    check_sequence_parallel,
    check_length,
    check_padding,
    check_rates,
    check_schedule,
    check_decay,
    check_profile,
    check_activations,
    check_optimizer_offload,
    check_muon,
    check_precision,
    check_fp8_shape,
    check_attention,
    check_adapters,
    check_adapters_asked_for,
    check_first_adapter,
    check_freeze,
    check_gradient_precision,
    check_tp_overlap,
    check_data_form,
    check_sft_tokenizer,
    check_sft_idxmap,
    check_pretraining_idxmap,
    check_sft_split,
    check_split,
    check_index_memory,
    check_best,
    check_best_interval,
    check_weights_only,
    check_cluster,
    check_wandb,
    check_loggers,
    check_megatron_args,
    check_flags_on_cpu,
    check_output,
    known=found_by(STEPS),
)
