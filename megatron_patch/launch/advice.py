"""What to change where a run does not fit: the cheapest change that makes it fit, found by planning it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from megatron_patch.launch.config import RunConfig
from megatron_patch.launch.fit import fit_memory
from megatron_patch.launch.layout import Layout, cut_layers, tensor_parallel_problem
from megatron_patch.launch.memory import PROCESS_BYTES, gigabytes
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.planning import balances, overlap_of

MORE_RANKS = (2, 4, 8, 16, 32, 64, 128)
"""How many times the GPUs are tried."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Other values, and how a person is told."""

    words: str
    config: Mapping[str, Any] = field(default_factory=dict)
    tp: int = 0
    """0 leaves it."""
    pp: int = 0
    ranks: int = 1
    """How many times as many."""


def cheapest_change(plan: Plan) -> str:
    """What makes the run fit at the least cost in speed, with what it takes then.

    Args:
        plan: one whose `memory_limit` is known.
    """
    for change in _changes(plan):
        figures = _figures(plan, change)
        if figures is not None and figures[0] <= figures[1]:
            return f"{change.words}: {gigabytes(figures[0])}"
    if plan.device == "cpu":
        return "a smaller MODEL_SIZE (position 2), or a machine with more memory"
    return "a smaller MODEL_SIZE (position 2) or SEQ_LEN (position 7), or GPUs with more memory"


def _changes(plan: Plan) -> Iterator[Change]:
    """In the order of what they cost."""
    config, layout = plan.config, plan.layout
    gpu, several = plan.device == "cuda", layout.dp * layout.cp > 1
    splits = several and not config.do
    if splits:
        yield Change(words="DO true (position 14)", config={"do": True})
    if config.batch_size > 1:
        yield Change(words="BATCH_SIZE 1 (position 3)", config={"batch_size": 1})
    wider = [size for size in (2, 4, 8) if size > layout.tp and layout.dp % (size // layout.tp or 1) == 0]
    for size in wider:
        sp = {"sp": True} if gpu else {}
        yield Change(words=f"TP {size} and SP true (positions 10, 13), on the same ranks", config=sp, tp=size)
    recomputes = config.ac not in ("full", "offload")
    if recomputes:
        yield Change(words="AC full (position 17)", config={"ac": "full"})
    if gpu and config.optimizer_offload == "false" and config.pr in ("bf16", "fp16", "fp8"):
        offload = {"do": True, "optimizer_offload": "auto"}
        yield Change(words="OPTIMIZER_OFFLOAD auto (position 18)", config=offload)
        if recomputes:
            both = "AC full and OPTIMIZER_OFFLOAD auto (positions 17, 18)"
            yield Change(words=both, config={**offload, "ac": "full"})
    if recomputes:
        for size in wider:
            words = f"TP {size}, SP true and AC full (positions 10, 13, 17)"
            yield Change(words=words, config={"ac": "full", "sp": gpu or config.sp}, tp=size)
    for times in MORE_RANKS:
        for tp in (layout.tp, 2, 4, 8):
            if tp >= layout.tp and layout.tp * times % tp == 0:
                yield from _larger(plan, times, tp)


def _larger(plan: Plan, times: int, tp: int) -> Iterator[Change]:
    layout, unit = plan.layout, "GPUs" if plan.device == "cuda" else "processes"
    pp = layout.pp * (layout.tp * times // tp)
    ranks = layout.world_size * times
    words = f"TP {tp} x PP {pp} (positions 10, 11) on {ranks} {unit}"
    yield Change(words=words, config={"do": True, "sp": tp > 1}, tp=tp, pp=pp, ranks=times)
    full = {"do": True, "sp": tp > 1, "ac": "full"}
    yield Change(words=f"{words}, AC full (position 17)", config=full, tp=tp, pp=pp, ranks=times)


def _figures(plan: Plan, change: Change) -> tuple[int, int] | None:
    """Bytes that a rank takes after a change, and that it may take then; None if the change cannot be made."""
    config = replace(plan.config, **change.config)
    layout = _layout(plan, change, sp=config.sp)
    if layout is None or config.global_batch_size % (config.batch_size * layout.dp):
        return None
    if config.seq_len // layout.cp % (layout.tp if layout.sequence_parallel else 1):
        return None
    limit = _limit(plan, config, layout)
    fit = fit_memory(config, plan.knobs, plan.model, plan.vocab_rows, layout, plan.device, limit)
    return fit.memory.total, limit


def _limit(plan: Plan, config: RunConfig, layout: Layout) -> int:
    """More processes on the CPU share the same RAM; on GPUs the buffers of overlapping transfers come and go."""
    assert plan.memory_limit is not None
    if plan.device == "cpu":
        ram = (plan.memory_limit + PROCESS_BYTES) * plan.layout.world_size
        return ram // layout.world_size - PROCESS_BYTES
    _, before = overlap_of(plan.config, plan.knobs, plan.model, plan.layout, plan.device)
    _, after = overlap_of(config, plan.knobs, plan.model, layout, plan.device)
    return plan.memory_limit + before - after


def _layout(plan: Plan, change: Change, *, sp: bool) -> Layout | None:
    old = plan.layout
    tp, pp = change.tp or old.tp, change.pp or old.pp
    world = old.world_size * change.ranks
    balance = balances(plan.knobs, plan.device)
    cut = cut_layers(plan.model, plan.vocab_rows, plan.config.seq_len, pp=pp, vp=old.vp, balance=balance)
    if cut is None or world % (tp * pp * old.cp) or tensor_parallel_problem(plan.model, tp):
        return None
    return replace(
        old,
        nodes=1,
        processes=world,
        tp=tp,
        pp=pp,
        dp=world // (tp * pp * old.cp),
        sequence_parallel=sp and tp > 1,
        stage_layers=cut[0],
        ends_count=cut[1],
    )
