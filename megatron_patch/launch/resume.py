"""What an earlier run left: whether this one can go on from it, and what is different."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron_patch.checkpoint.contents import TRACKER, iteration_folder, iterations
from megatron_patch.common.messages import Message, Name
from megatron_patch.common.values import shown
from megatron_patch.launch.plan import Earlier, Plan, meant, values_of
from megatron_patch.launch.problems import Problem
from megatron_patch.launch.schedule import of_values
from megatron_patch.models import ModelConfig, differences, model_from_dict
from megatron_patch.peft.settings import default_alpha, parse_targets, shown_targets
from megatron_patch.runs.folder import CHECKPOINTS, PARTIAL_PREFIX, PlanError, PlanRecord, read_plan
from megatron_patch.runs.stored_chunks import ChunkError, find_structural_damage, is_reserved, read_checksums

FIXED = {
    "MODEL_SIZE": Message("fixed-model"),
    "SEQ_LEN": Message("fixed-count"),
    "LR": Message("fixed-lr"),
    "MIN_LR": Message("fixed-lr"),
    "PR": Message("fixed-optimizer"),
    "DO": Message("fixed-optimizer"),
    "OPTIMIZER_OFFLOAD": Message("fixed-optimizer"),
    "SFT": Message("fixed-data"),
    "MP_DATASET_TYPE": Message("fixed-data"),
    "MP_OPTIMIZER": Message("fixed-optimizer"),
    "MP_ADAM_BETA1": Message("fixed-betas"),
    "MP_ADAM_BETA2": Message("fixed-betas"),
    "MP_ADAM_EPS": Message("fixed-betas"),
    "MP_LORA_RANK": Message("fixed-trained"),
    "MP_LORA_ALPHA": Message("fixed-trained"),
    "MP_LORA_TARGETS": Message("fixed-trained"),
    "MP_LORA_RSLORA": Message("fixed-trained"),
    "MP_LORA_RANK_PATTERN": Message("fixed-trained"),
    "MP_LORA_ALPHA_PATTERN": Message("fixed-trained"),
    "MP_FREEZE": Message("fixed-trained"),
}
"""Values that a checkpoint of this run has fixed, and why."""

EVER = {"MP_OPTIMIZER": "adam", "MP_LORA_RANK_PATTERN": None, "MP_LORA_ALPHA_PATTERN": None}
"""What a run had before there was a choice."""

REMARKS = {
    "TRAIN_TOKENS_OR_ITERS": Message("changed-train"),
    "WARMUP_TOKENS_OR_ITERS": Message("changed-warmup"),
    "MP_LR_DECAY_ITERS": Message("changed-warmup"),
    "MP_LR_DECAY_STYLE": Message("changed-warmup"),
    "MP_LR_WSD_DECAY_ITERS": Message("changed-warmup"),
    "MP_LR_WSD_DECAY_STYLE": Message("changed-warmup"),
    "DATASET_PATH": Message("changed-data"),
    "MP_SEED": Message("changed-seed"),
    "TP": Message("changed-layout"),
    "PP": Message("changed-layout"),
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
        damage[step] = [] if is_reserved(iteration_folder(folder, step)) else found
    broken = [iteration_folder(folder, step).name for step in sorted(damage)]
    if folder.is_dir():
        broken += sorted(entry.name for entry in folder.glob(f"{PARTIAL_PREFIX}*"))
    try:
        plan, problem = read_plan(Path(output)), ""
    except PlanError as error:
        plan, problem = None, str(error)
    return Earlier(
        iteration=newest,
        broken=tuple(broken),
        damage=tuple(line for step in sorted(damage) for line in damage[step]),
        lost=newest is None and (any(damage.values()) or _had_checkpoints(folder)),
        plan=plan,
        plan_problem=problem,
        weights_only=newest is not None and _holds_weights_alone(iteration_folder(folder, newest)),
    )


def _holds_weights_alone(iteration: Path) -> bool:
    """By the names of what was stored; a checkpoint without checksums is an older one, with its optimizer."""
    try:
        checksums = read_checksums(iteration)
    except (ChunkError, OSError):
        return False
    return checksums is not None and not any(one.item.startswith("optimizer.") for one in checksums.chunks.values())


def vp_as_when_it_began(facts: Mapping[str, Any]) -> dict[str, Any]:
    """MP_VP counted chunks before it counted layers: in the folder of such a run it goes on counting them.

    Args:
        facts: read so far, by name.
    Returns:
        `vp_counts_chunks`, and mp_vp and mp_vp_chunks where they change.
    """
    output, vp = facts.get("output_basepath"), facts.get("mp_vp")
    if output is None or vp is None or facts.get("mp_vp_chunks") is not None:
        return {"vp_counts_chunks": False}
    try:
        plan = read_plan(Path(output))
    except PlanError:
        plan = None
    if plan is None or not plan.vp_counts_chunks:
        return {"vp_counts_chunks": False}
    return {"vp_counts_chunks": True, "mp_vp": None, "mp_vp_chunks": vp}


def _had_checkpoints(folder: Path) -> bool:
    """Whether one was complete once: the tracker was written, or a damaged one was set aside."""
    return (folder / TRACKER).exists() or any(folder.glob("damaged_iter_*"))


def compare_values(
    earlier: Earlier, values: Mapping[str, Any], model: ModelConfig, vocab_rows: int
) -> tuple[list[Problem], list[Message]]:
    """What changed since the last start, if there is a checkpoint to go on from.

    Args:
        values: parsed values of this start, by position and variable name.
        vocab_rows: of this start's embedding, with its padding.
    Returns:
        Changes that the checkpoint forbids, and notes about the others.
    """
    if earlier.iteration is None:
        damage = list(earlier.damage[:3]) or Message("checkpoints-gone")
        return [Problem("checkpoints-lost", "OUTPUT_BASEPATH", damage=damage)] if earlier.lost else [], []
    if earlier.plan is None:
        why = Message("uncoded", text=earlier.plan_problem) if earlier.plan_problem else Message("no-plan")
        return [], [Message("no-earlier-plan", why=why)]
    problems = _compare_model(earlier.plan, model, vocab_rows)
    notes = []
    before: Mapping[str, Any] = {**EVER, **earlier.plan.values}
    if before.get("MP_LORA_RANK") == values["MP_LORA_RANK"]:
        before, values = _with_adapters_spelled_out(before), _with_adapters_spelled_out(values)
    for name, value in values.items():
        old = before.get(name)
        if name not in before or old == value or name == "MODEL_SIZE":  # the model has said it, and better
            continue
        if name in FIXED:
            code = "fixed-by-adapters" if before.get("MP_LORA_RANK") else "fixed-by-checkpoint"
            problems.append(Problem(code, name, before=_shown(old), why=FIXED[name]))
            continue
        told = {"name": Name(name), "before": _shown(meant(name, old)), "now": _shown(meant(name, value))}
        if name in REMARKS:
            notes.append(Message("changed-remark", **told, remark=REMARKS[name]))
        else:
            notes.append(Message("changed", **told))
    return [*problems, *_compare_batches(earlier.iteration, before, values)], [
        *notes,
        *_rows_anew(before, values),
        *_held_out_anew(before, values),
        *_jump(earlier.iteration, before, values),
    ]


ROWS_OF_CHATS = ("MP_TOKENIZER_PATH", "MP_SFT_DROPPED", "MP_SFT_OVERLONG", "MP_SFT_TURNS")
"""What decides which rows conversations in JSON become, beside packing."""


def _rows_anew(before: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Message]:
    """The same conversations in other rows: the position in the data counts rows."""
    if not values["SFT"]:
        return
    deciding = ["MP_SFT_PACKING", *(ROWS_OF_CHATS if values.get("MP_DATASET_TYPE") == "raw" else ())]
    deciding += ["CP"] if values.get("MP_SFT_PACKING") else []  # a packed sample is filled up to a multiple of it
    if changed := [Name(name) for name in deciding if name in before and before[name] != values.get(name)]:
        yield Message("rows-anew", names=changed)


HELD_OUT_OF_TEXTS = ("MP_SPLIT",)
"""What decides which documents MP_SPLIT holds out: of each data set a range."""
HELD_OUT_OF_CHATS = (
    "MP_SPLIT", "DATASET_PATH", "MP_TOKENIZER_PATH", "MP_SFT_DROPPED", "MP_SFT_LOSS", "MP_SFT_OVERLONG",
)  # fmt: skip
"""And of conversations: some numbers up to how many are used."""


def _held_out_anew(before: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Message]:
    """Validation by MP_SPLIT, on what the run may have been trained on before."""
    if values.get("MP_SPLIT") is None:
        return
    deciding = HELD_OUT_OF_CHATS if values["SFT"] else HELD_OUT_OF_TEXTS
    if changed := [Name(name) for name in deciding if name in before and before[name] != values.get(name)]:
        yield Message("held-out-anew", names=changed)


def _with_adapters_spelled_out(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """MP_LORA_ALPHA and MP_LORA_TARGETS as the adapters have them, however they were given."""
    try:
        alpha = default_alpha(values["MP_LORA_RANK"], values["MP_LORA_ALPHA"])
        targets = shown_targets(parse_targets(values["MP_LORA_TARGETS"]))
    except (KeyError, TypeError, ValueError, AttributeError):  # without adapters, or of a damaged plan.json
        return values
    return {**values, "MP_LORA_ALPHA": alpha, "MP_LORA_TARGETS": targets}


def _compare_batches(done: int, before: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Problem]:
    """Batches of the past: data position and schedule count in them. Those of the future may be others."""
    try:
        (old, _), (new, _) = of_values(before), of_values(values)
    except (KeyError, TypeError):
        return
    seen = old.samples(done)
    if (old.until(seen), seen) == (new.until(seen), new.samples(done)):
        return
    sft, seq_len, last = values["SFT"], values["SEQ_LEN"], values["GLOBAL_BATCH_SIZE"]
    past = [(stage.start * seq_len, stage.batch) for stage in old.until(seen)]
    if sft:
        past = [(start, stage.batch) for start, stage in zip([0, *old.changes()], old.until(seen), strict=False)]
    past += [(done if sft else seen * seq_len, last)] if last > past[-1][1] else []
    grown = ",".join(f"{start}:{batch}" for start, batch in past)
    names = [name for name in ("GLOBAL_BATCH_SIZE", "MP_BATCH_SCHEDULE") if before.get(name) != values[name]]
    shown_before = _shown(before.get(names[0])) if names else ""
    yield Problem("batches-of-the-past", *names, before=shown_before, done=done, grown=grown)


def _jump(done: int, before: Mapping[str, Any], values: Mapping[str, Any]) -> Iterator[Message]:
    """The learning rate of the next iteration, where another schedule makes it another."""
    try:
        (batches, old), (_, new) = of_values(before), of_values(values)
    except (KeyError, TypeError):
        return
    rates = old.after(batches.samples(done)), new.after(batches.samples(done))
    if abs(rates[0] - rates[1]) > 1e-6 * max(rates):
        yield Message("rate-jumps", iteration=done + 1, before=rates[0], now=rates[1])


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
    told = [Message("differs", field=name, before=old, now=new) for name, old, new in changed[:4]]
    names = ("MODEL_SIZE", "OUTPUT_BASEPATH")
    return [Problem("checkpoint-of-another-model", *names, model=before.name, differences=told)]


def _shown(value: object) -> object:
    """A value as it is typed."""
    return Message("not-set") if value is None else shown(value)


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
    "MP_BATCH_SCHEDULE",
    "MP_LR_DECAY_ITERS",
    "MP_LR_DECAY_STYLE",
    "MP_SEED",
    "MP_SPLIT",
)
"""Values whose change makes it another training: data and schedule."""


def warm_start(plan: Plan) -> Iterator[Message]:
    """Lines for a first start from a Megatron checkpoint."""
    weights = plan.weights
    if weights.kind != "mcore" or plan.resume_iteration is not None:
        return
    if weights.step:
        yield Message("kept-from-step", step=weights.step, path=weights.path, rows=plan.vocab_rows)
    else:
        yield Message("kept-from", path=weights.path, rows=plan.vocab_rows)
    yield Message("kept-not")
    try:
        earlier = read_plan(Path(weights.path).parent)
    except PlanError as error:
        yield Message("uncoded", text=str(error))
        return
    if earlier is not None:
        yield from _differences(plan, earlier)


def _differences(plan: Plan, earlier: PlanRecord) -> Iterator[Message]:
    mine, theirs = values_of(plan), earlier.values
    changed = [name for name in TOLD if name in mine and name in theirs and mine[name] != theirs[name]]
    if changed:
        pairs = [(Name(name), _shown(theirs[name]), _shown(mine[name])) for name in changed]
        changes = [Message("kept-change", name=name, before=before, now=now) for name, before, now in pairs]
        yield Message("kept-new", changes=changes)
    if earlier.tokenizer.ids != plan.tokenizer.ids:
        yield Message("kept-tokenizer", ids=plan.tokenizer.ids, before=earlier.tokenizer.ids)
