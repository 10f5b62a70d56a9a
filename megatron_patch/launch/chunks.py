"""Chunks of a pipeline that nobody has asked for: two where they pay; a run that goes on keeps its own."""

from __future__ import annotations

from dataclasses import asdict, replace

from megatron_patch.common.messages import Message
from megatron_patch.launch.build_plan import balances, fit_memory
from megatron_patch.launch.checks.adapters import frozen_stage
from megatron_patch.launch.checks.layout import NO_OVERLAP, check_chunks_send, check_interleaving
from megatron_patch.launch.checks.precision import check_activations
from megatron_patch.launch.layout import Layout, cut_layers
from megatron_patch.launch.memory import gigabytes
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.step_time import time_of_plan
from megatron_patch.launch.variables import Variables

WORTH_TAKING = 0.01
"""Part of a step; the planner's own error is larger, but alike for both."""
TAKEN = 2
"""Chunks of a rank that are tried: what was measured (docs/performance.md)."""


UNTRIED = (
    NO_OVERLAP,
    "--defer-embedding-wgrad-compute",
    "--delay-wgrad-compute",
    "--enable-cuda-graph",
    "--external-cuda-graph",
    "--microbatch-group-size-per-virtual-pipeline-stage",
    "--use-megatron-fsdp",
)
"""Of MP_MEGATRON_ARGS: they change the schedule of a pipeline, or what is kept for it."""


def chunks_given(variables: Variables) -> bool:
    """Whether MP_VP or MP_VP_CHUNKS says how many."""
    return variables.vp is not None or variables.vp_chunks is not None


def choose_chunks(plan: Plan) -> int:
    """Chunks of each pipeline rank; as they are where they were asked for, and on the CPU.

    A run that goes on in the layout of its plan.json keeps the chunks that stand there, so that its next steps have
    the bits that they would have had. In another layout (TP, PP, CP, DP, device) the sums are others anyway, and
    checkpoints are read in any number of chunks: it is decided anew. So it is where the kept chunks cannot be any
    more, by the micro batches or the memory: nobody has asked for them, and they keep no run from starting.

    Args:
        plan: in one chunk, unless they were asked for.
    """
    if plan.device != "cuda" or chunks_given(plan.variables):
        return plan.layout.chunks
    kept = chunks_kept(plan)
    if kept is not None:
        return kept
    return TAKEN if was_tried(plan) and time_saved(plan) is not None else 1


def chunks_kept(plan: Plan) -> int | None:
    """The chunks that a run goes on with; None for a first start, and where it is decided anew."""
    before = plan.earlier.plan
    if plan.resume_iteration is None or before is None:
        return None
    layout = plan.layout
    if (before.device, before.layout.sizes) != (plan.device, (layout.tp, layout.pp, layout.cp, layout.dp)):
        return None
    one, same = _in_one(plan), in_chunks(plan, before.layout.chunks)
    if one is None or same is None or not _can_be(plan, same):
        return None
    now = fitted(plan, same)
    as_before = asdict(now.precision) == before.precision and now.offload_fraction == before.offload_fraction
    fits = plan.memory_limit is None or now.memory.total <= plan.memory_limit or not plan.variables.memory_check
    return same.chunks if same.chunks == 1 or (fits and (as_before or _stored_alike(now, one))) else None


def was_tried(plan: Plan) -> bool:
    """Whether chunks are taken where they pay, not only said to pay.

    Not with adapters or an optimizer in RAM, which nobody has trained in chunks on GPUs, nor beside flags of Megatron's
    that change the schedule; and not where MP_AC_LAYERS of each stage are recomputed: Megatron would recompute as many
    of each chunk.
    """
    flags, by_block = plan.variables.megatron_args or "", plan.variables.ac_method == "block"
    untried = plan.variables.lora_rank is not None or plan.offload_fraction > 0
    if untried or any(flag in flags for flag in UNTRIED):
        return False
    return plan.config.ac != "full" or not by_block


def time_saved(plan: Plan) -> tuple[float, Plan] | None:
    """What two chunks save of a step by the planner, a part, and the plan in them.

    None if it is too little or not known, and where they would not fit with the optimizer's state as it is stored
    in one chunk.

    Args:
        plan: in one chunk.
    """
    overlapped = NO_OVERLAP not in (plan.variables.megatron_args or "")  # as the prediction has it
    layout = in_chunks(plan, TAKEN) if plan.device == "cuda" and plan.layout.pp > 1 and overlapped else None
    before = time_of_plan(plan)
    if layout is None or before is None or not _can_be(plan, layout):
        return None
    chunked = fitted(plan, layout)
    after = time_of_plan(chunked)
    saved = 0.0 if after is None else 1 - after.total / before.total
    limit = plan.memory_limit
    if saved < WORTH_TAKING or not _stored_alike(chunked, plan) or limit is None or chunked.memory.total > limit:
        return None
    return saved, chunked


def explain_chunks(plan: Plan) -> Message | None:
    """Why the stages have the chunks that they have, or what two would bring; None where there is nothing to say."""
    one = _in_one(plan)
    if plan.device != "cuda" or plan.layout.pp == 1 or chunks_given(plan.variables) or one is None:
        return None
    if plan.layout.chunks > 1 and chunks_kept(one) is not None:
        return Message("chunks-kept", chunks=plan.layout.chunks)
    if plan.gpu is None and plan.layout.chunks == 1 and chunks_kept(one) is None:
        two = in_chunks(plan, TAKEN)
        return Message("chunks-later") if was_tried(plan) and two is not None and _can_be(plan, two) else None
    found = time_saved(one)
    if found is None:
        return None
    saved, chunked = found
    figures = {"percent": f"{100 * saved:.1f}", "size": gigabytes(chunked.memory.total)}
    if plan.layout.chunks > 1:
        return Message("chunks-taken", **figures, before=gigabytes(one.memory.total))
    return Message("chunks-pay", **figures)


def in_chunks(plan: Plan, chunks: int) -> Layout | None:
    """The plan's layout with each stage in so many chunks; None if its layers cannot be cut so."""
    layout, balance = plan.layout, balances(plan.variables, plan.device)
    cut = cut_layers(plan.model, plan.vocab_rows, plan.config.seq_len, pp=layout.pp, chunks=chunks, balance=balance)
    return None if cut is None else replace(layout, chunks=chunks, stage_layers=cut[0], ends_count=cut[1])


def fitted(plan: Plan, layout: Layout) -> Plan:
    """The plan in another layout, with the memory that it takes there and the optimizer as it fits."""
    fit = fit_memory(
        plan.config,
        plan.variables,
        plan.model,
        plan.vocab_rows,
        layout,
        plan.device,
        plan.memory_limit,
        deterministic=plan.deterministic,
    )
    return replace(
        plan,
        layout=layout,
        precision=fit.precision,
        gradient_bf16=fit.precision.gradient == 2,
        offload_fraction=fit.offload_fraction,
        memory=fit.memory,
    )


def _in_one(plan: Plan) -> Plan | None:
    if plan.layout.chunks == 1:
        return plan
    layout = in_chunks(plan, 1)
    return None if layout is None else fitted(plan, layout)


def _can_be(plan: Plan, layout: Layout) -> bool:
    """Whether the checks let these chunks through: micro batches of all stages, recomputed layers, frozen parts."""
    config, variables = plan.config, plan.variables
    problems = [
        *check_chunks_send(
            megatron_args=tuple((variables.megatron_args or "").split()),
            pp=layout.pp,
            chunks=layout.chunks,
            mp_vp=None,
            vp_counts_chunks=False,
        ),
        *check_interleaving(
            micro_batches=plan.schedule.micro_batches,
            batches=plan.schedule.batches,
            batch_size=config.batch_size,
            dp=layout.dp,
            pp=layout.pp,
            chunks=layout.chunks,
            mp_vp=None,
            vp_counts_chunks=False,
        ),
        *check_activations(
            ac=config.ac,
            pp=layout.pp,
            device=plan.device,
            model=plan.model,
            chunks=layout.chunks,
            mp_ac_layers=variables.ac_layers,
        ),
    ]
    frozen = variables.freeze and frozen_stage(variables.freeze, layout) is not None
    return not problems and not frozen


def _stored_alike(first: Plan, second: Plan) -> bool:
    """The optimizer's state: in the same precision, and as much of it in RAM."""
    return (first.precision, first.offload_fraction) == (second.precision, second.offload_fraction)
