"""Batch, length, learning rate: what an iteration is, and how many there are."""

from __future__ import annotations

from megatron_patch.launch.megatron_flags import skipped_iterations
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import Findings, finds
from megatron_patch.launch.schedule import (
    Batches,
    EpochCount,
    constant,
    count_iterations,
    read_stages,
    wsd_iterations,
)
from megatron_patch.models import ModelConfig


@finds("batches")
def find_batches(*, global_batch_size: int, seq_len: int, sft: bool, mp_batch_schedule: str | None) -> Findings:
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
def check_batch(*, batches: Batches, batch_size: int, dp: int, mp_batch_schedule: str | None) -> Findings:
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


def check_length(*, seq_len: int, model: ModelConfig) -> Findings:
    """No longer than the model was made for."""
    limit = model.context_length
    if seq_len > limit:
        yield Problem("sequence-too-long", "SEQ_LEN", "MODEL_SIZE", limit=limit)


def check_padding(*, seq_len: int, pad_len: int) -> Findings:
    """Every sequence has SEQ_LEN tokens: Pai-Megatron-Patch fed another PAD_LEN through unchecked."""
    if pad_len != seq_len:
        yield Problem("padding", "PAD_LEN", "SEQ_LEN", seq_len=seq_len)


def check_rates(*, lr: float, min_lr: float) -> Findings:
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
    epochs: EpochCount | None,
) -> Findings:
    """At least one iteration, and the warm-up inside."""
    train, words = count_iterations(train_tokens_or_iters, sft, batches, seq_len)
    warmup, warmup_words = count_iterations(warmup_tokens_or_iters, sft, batches, seq_len)
    if epochs is not None:
        words = epochs.words("TRAIN_TOKENS_OR_ITERS", train, words, sft=sft, batches=batches)
        warmup_words = epochs.words("WARMUP_TOKENS_OR_ITERS", warmup, warmup_words, sft=sft, batches=batches)
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


def check_decay(*, warmup: int, decay_end: int, mp_lr_decay_style: str, mp_lr_wsd_decay_iters: int | None) -> Findings:
    """The decay of WSD begins after the warm-up, whose length gives the inverse square root its scale."""
    wsd = wsd_iterations(mp_lr_decay_style, mp_lr_wsd_decay_iters, decay_end)
    if wsd > decay_end - warmup:
        names = ("MP_LR_WSD_DECAY_ITERS", "WARMUP_TOKENS_OR_ITERS")
        yield Problem("wsd-too-long", *names, wsd=wsd, end=decay_end, warmup=warmup, most=decay_end - warmup)
    if mp_lr_decay_style == "inverse-square-root" and warmup == 0:
        yield Problem("inverse-root-needs-warmup", "MP_LR_DECAY_STYLE", "WARMUP_TOKENS_OR_ITERS")


def check_profile(
    *, mp_profile: str | None, mp_profile_ranks: str, train_iters: int, nodes: int, processes: int
) -> Findings:
    """Iterations and ranks that there are."""
    if mp_profile is None:
        return
    if int(mp_profile.partition("-")[2]) > train_iters:
        yield Problem("profile-beyond", "MP_PROFILE", "TRAIN_TOKENS_OR_ITERS", iterations=train_iters)
    ranks = nodes * processes
    if max(map(int, mp_profile_ranks.split(","))) >= ranks:
        yield Problem("profile-no-rank", "MP_PROFILE_RANKS", ranks=ranks, last=ranks - 1)


def check_skipped(*, megatron_args: tuple[str, ...], train_iters: int, save_interval: int) -> Findings:
    """Iterations that there are; and the last one saves, where nothing is saved after it."""
    skipped = skipped_iterations(megatron_args)
    beyond = [iteration for iteration in skipped if not 1 <= iteration <= train_iters]
    if beyond:
        yield Problem("skip-beyond", "MP_MEGATRON_ARGS", "TRAIN_TOKENS_OR_ITERS", beyond=beyond, last=train_iters)
    if train_iters in skipped and train_iters % save_interval == 0:
        yield Problem("skip-last", "MP_MEGATRON_ARGS", "SAVE_INTERVAL", last=train_iters)
