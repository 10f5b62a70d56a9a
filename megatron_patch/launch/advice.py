"""Other values that a plan could have: the cheapest that fit where it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from megatron_patch.common.messages import Message
from megatron_patch.launch.build_plan import balances, overlap_of, takes_graphs
from megatron_patch.launch.chunks import choose_chunks, chunks_given, fitted, in_chunks
from megatron_patch.launch.config import RunConfig
from megatron_patch.launch.layout import Layout, cut_layers
from megatron_patch.launch.memory import PROCESS_BYTES, gigabytes
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.ram import saves_in_background
from megatron_patch.models.megatron import tensor_parallel_problem

MORE_RANKS = (2, 4, 8, 16, 32, 64, 128)
"""How many times the GPUs are tried."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Other values, and how a person is told."""

    words: Message
    config: Mapping[str, Any] = field(default_factory=dict)
    tp: int = 0
    """0 leaves it."""
    pp: int = 0
    ranks: int = 1
    """How many times as many."""


def cheapest_change(plan: Plan) -> Message:
    """What makes the run fit at the least cost in speed, with what it takes then.

    Args:
        plan: one whose `memory_limit` is known.
    """
    for change in _changes(plan):
        figures = _figures(plan, change)
        if figures is not None and figures[0] <= figures[1]:
            return Message("change", change=change.words, size=gigabytes(figures[0]))
    return Message("change-smaller-cpu" if plan.device == "cpu" else "change-smaller-gpu")


def _changes(plan: Plan) -> Iterator[Change]:
    """In the order of what they cost."""
    config, layout = plan.config, plan.layout
    gpu, several = plan.device == "cuda", layout.dp * layout.cp > 1
    splits = several and not config.do
    if splits:
        yield Change(words=Message("change-do"), config={"do": True})
    if config.batch_size > 1:
        yield Change(words=Message("change-batch"), config={"batch_size": 1})
    wider = [size for size in (2, 4, 8) if size > layout.tp and layout.dp % (size // layout.tp or 1) == 0]
    for size in wider:
        sp = {"sp": True} if gpu else {}
        yield Change(words=Message("change-tp", tp=size), config=sp, tp=size)
    recomputes = config.ac not in ("full", "offload")
    if recomputes:
        yield Change(words=Message("change-ac"), config={"ac": "full"})
    if gpu and config.optimizer_offload == "false" and config.pr in ("bf16", "fp16", "fp8"):
        offload = {"do": True, "optimizer_offload": "auto"}
        more = _also_typed(config, sp=False)
        yield Change(words=Message("change-offload", more=more), config=offload)
        if recomputes:
            yield Change(words=Message("change-ac-offload", more=more), config={**offload, "ac": "full"})
    if recomputes:
        for size in wider:
            yield Change(words=Message("change-tp-ac", tp=size), config={"ac": "full", "sp": gpu or config.sp}, tp=size)
    for times in MORE_RANKS:
        for tp in (layout.tp, 2, 4, 8):
            if tp >= layout.tp and layout.tp * times % tp == 0:
                yield from _larger(plan, times, tp)


def _larger(plan: Plan, times: int, tp: int) -> Iterator[Change]:
    pp = plan.layout.pp * (plan.layout.tp * times // tp)
    split = {"do": True, "sp": tp > 1}
    more = _also_typed(plan.config, sp=tp > 1)
    values = {"tp": tp, "pp": pp, "ranks": plan.layout.world_size * times, "more": more}
    gpu = plan.device == "cuda"
    words = Message("change-ranks-gpu" if gpu else "change-ranks-cpu", **values)
    yield Change(words=words, config=split, tp=tp, pp=pp, ranks=times)
    words = Message("change-ranks-ac-gpu" if gpu else "change-ranks-ac-cpu", **values)
    yield Change(words=words, config={**split, "ac": "full"}, tp=tp, pp=pp, ranks=times)


def _also_typed(config: RunConfig, *, sp: bool) -> Message | str:
    """Switches that a change needs and that are not set: the distributed optimizer, and SP where it is asked for."""
    needs_sp = sp and not config.sp
    if config.do:
        return Message("change-with-sp") if needs_sp else ""
    return Message("change-with-sp-do" if needs_sp else "change-with-do")


def _figures(plan: Plan, change: Change) -> tuple[int, int] | None:
    """Bytes that a rank takes after a change, and may take then; None if it, or the RAM for it, cannot be had."""
    config = replace(plan.config, **change.config)
    layout = _layout(plan, change, sp=config.sp)
    if layout is None or config.global_batch_size % (config.batch_size * layout.dp):
        return None
    if config.seq_len // layout.cp % (layout.tp if layout.sequence_parallel else 1):
        return None
    limit = _limit(plan, config, layout)
    changed = _planned(plan, config, layout, limit)
    return None if changed.lacks_ram else (changed.memory.total, limit)


def _planned(plan: Plan, config: RunConfig, layout: Layout, limit: int) -> Plan:
    """The plan of other values, in the chunks that they would bring."""
    schedule = replace(plan.schedule, micro_batches=config.global_batch_size // (config.batch_size * layout.dp))
    overlap, _ = overlap_of(config, plan.variables, plan.model, layout, plan.device)
    changed = replace(plan, config=config, schedule=schedule, tp_overlap=overlap, memory_limit=limit)
    changed = fitted(changed, layout)
    changed = fitted(changed, in_chunks(changed, choose_chunks(changed)) or layout)
    gpu = plan.gpu.name if plan.gpu else None
    graphs = takes_graphs(
        config, plan.variables, layout, plan.device, gpu=gpu, planned=changed.memory.total, limit=limit
    )
    background = saves_in_background(
        plan.variables, changed.memory, changed.precision, changed.layout, plan.machine_ram
    )
    return replace(changed, cuda_graphs=graphs, background_save=background)


def _limit(plan: Plan, config: RunConfig, layout: Layout) -> int:
    """More processes on the CPU share the same RAM; on GPUs the buffers of overlapped communication come and go."""
    assert plan.memory_limit is not None
    if plan.device == "cpu":
        ram = (plan.memory_limit + PROCESS_BYTES) * plan.layout.world_size
        return ram // layout.world_size - PROCESS_BYTES
    _, before = overlap_of(plan.config, plan.variables, plan.model, plan.layout, plan.device)
    _, after = overlap_of(config, plan.variables, plan.model, layout, plan.device)
    return plan.memory_limit + before - after


def _layout(plan: Plan, change: Change, *, sp: bool) -> Layout | None:
    old = plan.layout
    tp, pp = change.tp or old.tp, change.pp or old.pp
    world = old.world_size * change.ranks
    balance = balances(plan.variables, plan.device)
    chunks = old.chunks if chunks_given(plan.variables) else 1
    cut = cut_layers(plan.model, plan.vocab_rows, plan.config.seq_len, pp=pp, chunks=chunks, balance=balance)
    if cut is None or world % (tp * pp * old.cp) or tensor_parallel_problem(plan.model, tp):
        return None
    return replace(
        old,
        nodes=1,
        processes=world,
        tp=tp,
        pp=pp,
        chunks=chunks,
        dp=world // (tp * pp * old.cp),
        sequence_parallel=sp and tp > 1,
        stage_layers=cut[0],
        ends_count=cut[1],
    )
