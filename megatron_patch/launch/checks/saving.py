"""What MP_KEEP_BEST, MP_EARLY_STOP_PATIENCE and MP_SAVE_OPTIMIZER need of the rest."""

from __future__ import annotations

from megatron_patch.launch.inputs import DataSource
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.resolve import Findings
from megatron_patch.launch.schedule import Batches, count_iterations


def check_best(
    *,
    mp_keep_best: bool,
    mp_early_stop_patience: int | None,
    mp_eval_iters: int | None,
    mp_split: str | None,
    valid_data: tuple[DataSource, ...] | None,
) -> Findings:
    """Validation, without which there is no best."""
    asked = {"MP_KEEP_BEST": mp_keep_best, "MP_EARLY_STOP_PATIENCE": mp_early_stop_patience is not None}
    for name in (name for name, given in asked.items() if given):
        if valid_data is None and mp_split is None:
            yield Problem("best-without-validation", name, "VALID_DATASET_PATH")
        elif mp_eval_iters == 0:
            yield Problem("best-without-validation", name, "MP_EVAL_ITERS")


def check_best_interval(
    *,
    mp_keep_best: bool,
    mp_eval_interval: int | None,
    save_interval: int,
    train_tokens_or_iters: int,
    sft: bool,
    batches: Batches,
    seq_len: int,
) -> Findings:
    """Every checkpoint is validated."""
    last, _ = count_iterations(train_tokens_or_iters, sft, batches, seq_len)
    if mp_keep_best and mp_eval_interval is not None and save_interval < last and save_interval % mp_eval_interval:
        yield Problem("best-interval", "MP_EVAL_INTERVAL", "SAVE_INTERVAL", save=save_interval)


def check_weights_only(*, mp_save_optimizer: bool, mp_max_restarts: int, mp_on_spike: str) -> Findings:
    """Nothing can go on from weights alone."""
    if mp_save_optimizer:
        return
    if mp_max_restarts:
        yield Problem("weights-only-restarts", "MP_SAVE_OPTIMIZER", "MP_MAX_RESTARTS")
    if mp_on_spike == "rollback":
        yield Problem("weights-only-restarts", "MP_SAVE_OPTIMIZER", "MP_ON_SPIKE")
