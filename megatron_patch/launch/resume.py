"""What an output folder already holds, and whether the same run can go on from it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.common.values import shown
from megatron_patch.launch.problems import Problem, label
from megatron_patch.launch.weights import is_complete, iteration_folder, iterations
from megatron_patch.models import BESIDE_THE_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The trace of earlier starts in an output folder."""

    iteration: int | None
    """Newest checkpoint that was written to its end; None if there is none."""
    broken: tuple[str, ...]
    """Checkpoints that were not; the run writes them anew."""
    plan: Mapping[str, Any] | None
    """plan.json of the last start."""


NEW_RUN = "the old value; or a new OUTPUT_BASEPATH, with this one as PRETRAIN_CHECKPOINT_PATH"

FIXED = {
    "MODEL_SIZE": "the checkpoint holds another model",
    "GLOBAL_BATCH_SIZE": "schedule and data position count in it",
    "SEQ_LEN": "schedule and data position count in it",
    "LR": "megatron-core 0.19.2 finds the optimizer's groups again by their LR",
    "MIN_LR": "megatron-core 0.19.2 finds the optimizer's groups again by their MIN_LR",
    "PR": "the optimizer's state has another form",
    "DO": "the optimizer's state has another form",
    "OPTIMIZER_OFFLOAD": "the optimizer's state has another form",
    "SFT": "the data position belongs to other data",
    "MP_DATASET_TYPE": "the data position belongs to other data",
    "MP_ADAM_BETA1": "megatron-core 0.19.2 takes it from the checkpoint",
    "MP_ADAM_BETA2": "megatron-core 0.19.2 takes it from the checkpoint",
}
"""Values that a checkpoint of this run has fixed, and why."""

REMARKS = {
    "TRAIN_TOKENS_OR_ITERS": "the cosine ends there; the order of the data changes where it is read more than once",
    "WARMUP_TOKENS_OR_ITERS": "the learning rate continues on the new curve",
    "DATASET_PATH": "as many samples of the new data are skipped as were read of the old",
    "MP_SEED": "the order of the data changes",
    "TP": "random states start anew; without dropout nothing draws from them",
    "PP": "random states start anew; without dropout nothing draws from them",
}
"""What a change that is allowed does."""


def read_earlier(output: str) -> Earlier:
    """Look into an output folder; no folder is an empty one."""
    folder = Path(output) / "checkpoints"
    steps = iterations(folder)
    whole = [step for step in steps if is_complete(iteration_folder(folder, step))]
    newest = whole[-1] if whole else None
    broken = [iteration_folder(folder, step).name for step in steps if step not in whole]
    if folder.is_dir():
        broken += sorted(entry.name for entry in folder.glob(".incomplete_*"))
    try:
        plan = json.loads((Path(output) / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        plan = None
    return Earlier(iteration=newest, broken=tuple(broken), plan=plan if isinstance(plan, dict) else None)


def is_written(output: str) -> bool:
    """Whether a run holds this output folder (`trainer/process.py`)."""
    try:
        descriptor = os.open(Path(output) / "logs", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def compare_values(
    earlier: Earlier, values: Mapping[str, Any], model: Mapping[str, Any]
) -> tuple[list[Problem], list[str]]:
    """What changed since the last start, if there is a checkpoint to go on from.

    Args:
        values: parsed values of this start, by position and variable name.
        model: of this start's model, as in plan.json.
    Returns:
        Changes that the checkpoint forbids, and notes about the others.
    """
    if earlier.iteration is None:
        return [], []
    if earlier.plan is None:
        return [], ["no plan.json beside the checkpoints: what changed since the last start cannot be told"]
    problems = _compare_shape(earlier.plan.get("shape", {}), model)
    notes = []
    before = earlier.plan.get("values", {})
    for name, value in values.items():
        old = before.get(name)
        if name not in before or old == value or name == "MODEL_SIZE":  # the model has said it, and better
            continue
        if name in FIXED:
            what = f"the checkpoints in OUTPUT_BASEPATH were made with {old}: {FIXED[name]}"
            problems.append(Problem(names=(name,), what=what, valid=NEW_RUN))
        else:
            remark = f": {REMARKS[name]}" if name in REMARKS else ""
            notes.append(f"{label(name)} was {shown(old)} at the last start and is {shown(value)}{remark}")
    return problems, notes


def _compare_shape(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Problem]:
    changed = [key for key in now if key not in BESIDE_THE_WEIGHTS and key in before and before[key] != now[key]]
    if not changed:
        return []
    facts = ", ".join(f"{key} {before[key]} there and {now[key]} here" for key in changed[:4])
    what = f"the checkpoints in OUTPUT_BASEPATH are of {before.get('name', 'another model')}: {facts}"
    return [Problem(names=("MODEL_SIZE", "OUTPUT_BASEPATH"), what=what, valid="that model, or a new OUTPUT_BASEPATH")]
