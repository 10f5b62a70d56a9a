"""A run that begins with another run's weights: what it keeps of it, what starts anew, what is different."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megatron_patch.common.values import shown
from megatron_patch.launch.plan import Plan, values_of

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
    before = _plan_of(Path(weights.path))
    if before is None:
        return
    mine, theirs = values_of(plan), before.get("values", {})
    changed = [name for name in TOLD if name in mine and name in theirs and mine[name] != theirs[name]]
    lines = [f"{name} {shown(theirs[name])} -> {shown(mine[name])}" for name in changed]
    if lines:
        yield f"new beside that run: {', '.join(lines)}"
    ids = (before.get("tokenizer") or {}).get("ids")
    if isinstance(ids, int) and ids != plan.tokenizer.ids:
        yield f"the tokenizer has {plan.tokenizer.ids} ids, that of the earlier run {ids}"


def _plan_of(checkpoints: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads((checkpoints.parent / "plan.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
