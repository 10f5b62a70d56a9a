"""What an earlier run left: whether this one can go on from it, and what is different."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.contents import TRACKER, iteration_folder, iterations
from megatron_patch.common.run_folder import CHECKPOINTS, PlanError, PlanRecord, read_plan
from megatron_patch.common.stored_chunks import find_structural_damage
from megatron_patch.common.values import shown
from megatron_patch.launch.plan import Earlier, Plan, values_of
from megatron_patch.launch.problems import Problem, label
from megatron_patch.models import ModelConfig, differences, model_from_dict

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
    "MP_ADAM_EPS": "megatron-core 0.19.2 takes it from the checkpoint",
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
    folder = Path(output) / CHECKPOINTS
    newest, damage = None, {}
    for step in reversed(iterations(folder)):  # older ones than the newest sound one do not matter
        found = find_structural_damage(iteration_folder(folder, step))
        if not found:
            newest = step
            break
        damage[step] = found
    broken = [iteration_folder(folder, step).name for step in sorted(damage)]
    if folder.is_dir():
        broken += sorted(entry.name for entry in folder.glob(".incomplete_*"))
    try:
        plan, problem = read_plan(Path(output)), ""
    except PlanError as error:
        plan, problem = None, str(error)
    return Earlier(
        iteration=newest,
        broken=tuple(broken),
        damage=tuple(line for step in sorted(damage) for line in damage[step]),
        lost=newest is None and (bool(damage) or _had_checkpoints(folder)),
        plan=plan,
        plan_problem=problem,
    )


def _had_checkpoints(folder: Path) -> bool:
    """Whether one was complete once: the tracker was written, or a damaged one was set aside."""
    return (folder / TRACKER).exists() or any(folder.glob("damaged_iter_*"))


def compare_values(
    earlier: Earlier, values: Mapping[str, Any], model: ModelConfig, vocab_rows: int
) -> tuple[list[Problem], list[str]]:
    """What changed since the last start, if there is a checkpoint to go on from.

    Args:
        values: parsed values of this start, by position and variable name.
        vocab_rows: of this start's embedding, with its padding.
    Returns:
        Changes that the checkpoint forbids, and notes about the others.
    """
    if earlier.iteration is None:
        lost = Problem("checkpoints-lost", "OUTPUT_BASEPATH", damage="; ".join(earlier.damage[:3]) or "they are gone")
        return [lost] if earlier.lost else [], []
    if earlier.plan is None:
        why = earlier.plan_problem or "no plan.json beside the checkpoints"
        return [], [f"{why}: what changed since the last start cannot be told"]
    problems = _compare_model(earlier.plan, model, vocab_rows)
    notes = []
    before = earlier.plan.values
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


def _compare_model(plan: PlanRecord, model: ModelConfig, vocab_rows: int) -> list[Problem]:
    """A vocabulary that one of the two takes from the tokenizer (`tiny`, not `auto`) is told by its rows."""
    try:
        before = model_from_dict(plan.model)
    except (KeyError, TypeError):
        return []
    changed = differences(before, model)
    rows = plan.vocab_rows or vocab_rows
    if rows != vocab_rows and not any(name == "vocab_size" for name, _, _ in changed):
        changed.append(("vocab_rows", rows, vocab_rows))
    if not changed:
        return []
    facts = ", ".join(f"{name} {old} there and {new} here" for name, old, new in changed[:4])
    what = f"the checkpoints in OUTPUT_BASEPATH are of {before.name}: {facts}"
    return [Problem(names=("MODEL_SIZE", "OUTPUT_BASEPATH"), what=what, valid="that model, or a new OUTPUT_BASEPATH")]


TOLD = (
    "GLOBAL_BATCH_SIZE",
    "LR",
    "MIN_LR",
    "SEQ_LEN",
    "PR",
    "SFT",
    "DATASET_PATH",
    "TRAIN_TOKENS_OR_ITERS",
    "WARMUP_TOKENS_OR_ITERS",
    "MP_LR_DECAY_ITERS",
    "MP_SEED",
    "MP_SPLIT",
)
"""Values whose change makes it another training: data and schedule."""


def handover(plan: Plan) -> Iterator[str]:
    """Lines for a first start from a Megatron checkpoint."""
    weights = plan.weights
    if weights.kind != "mcore" or plan.resume_iteration is not None:
        return
    where = f"iteration {weights.step} of {weights.path}" if weights.step else weights.path
    yield f"kept from {where}: the weights, {plan.vocab_rows} rows of vocabulary"
    yield "reset: optimizer state, iteration count, learning rate schedule, position in the data, random states"
    try:
        before = read_plan(Path(weights.path).parent)
    except PlanError as error:
        yield str(error)
        return
    if before is None:
        return
    mine, theirs = values_of(plan), before.values
    changed = [name for name in TOLD if name in mine and name in theirs and mine[name] != theirs[name]]
    lines = [f"{name} {shown(theirs[name])} -> {shown(mine[name])}" for name in changed]
    if lines:
        yield f"new beside that run: {', '.join(lines)}"
    if before.tokenizer.ids != plan.tokenizer.ids:
        yield f"the tokenizer has {plan.tokenizer.ids} ids, that of the earlier run {before.tokenizer.ids}"
