"""What the planner shows: a table, JSON, a bar."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from megatron_patch.charts.parts import parts_of_a_step
from megatron_patch.common.messages import Message, localized, named
from megatron_patch.launch.cluster.place import GPUS_VARIABLE
from megatron_patch.launch.command import script_of, words_before_values
from megatron_patch.launch.config import POSITIONS
from megatron_patch.launch.layout import Layout
from megatron_patch.launch.memory import checkpoint_bytes, gigabytes
from megatron_patch.planner.errors import PlannerError
from megatron_patch.planner.failures import Outlook
from megatron_patch.planner.layouts import Prediction, TrainingJob, values_of, variables_of
from megatron_patch.planner.search import SearchResult

PEAK_BF16 = 989.4e12
"""What MFU is counted against, in bf16 and fp8 alike, as published figures do."""
DISK = 1.9e9
"""Bytes/s that one machine writes of a checkpoint (the lent machines' disk; a parallel file system is faster)."""


def flops_per_token(job: TrainingJob) -> float:
    """Of the model, forward and backward, attention counted below the diagonal (Megatron's count)."""
    model = job.model
    queries, keys = model.head_dim * model.num_attention_heads, model.head_dim * model.num_query_groups
    layer = 2 * model.hidden_size * (2 * queries + 2 * keys + 3 * model.ffn_hidden_size) + 2 * job.seq_len * queries
    return 3.0 * (model.num_layers * layer + 2 * model.hidden_size * job.vocab_rows)


def rates(job: TrainingJob, prediction: Prediction) -> dict[str, float]:
    """Tokens/s and TFLOP/s of one GPU, and MFU."""
    tokens = job.global_batch * job.seq_len / prediction.time.total / job.gpus
    flops = tokens * flops_per_token(job)
    return {"tokens_per_s_per_gpu": tokens, "tflops_per_gpu": flops / 1e12, "mfu": flops / PEAK_BF16}


def training(job: TrainingJob, prediction: Prediction, tokens: float) -> dict[str, float]:
    """Of the whole training."""
    steps = tokens / (job.global_batch * job.seq_len)
    seconds = steps * prediction.time.total
    return {"steps": steps, "days": seconds / 86400, "gpu_hours": seconds * job.gpus / 3600}


def saving(job: TrainingJob, prediction: Prediction) -> dict[str, float]:
    """One checkpoint, written asynchronously by all machines at once."""
    size = checkpoint_bytes(job.model.num_parameters(job.vocab_rows), prediction.fit.precision)
    return {"checkpoint_bytes": size, "save_seconds": size / DISK / prediction.candidate.layout.nodes}


def as_json(job: TrainingJob, found: SearchResult, tokens: float | None, future: Outlook | None) -> dict[str, Any]:
    """Of the best, and the others in short."""
    best = found.best[0]
    content = _one(job, best) | saving(job, best) | {"command": command(job, best), "tried": found.tried}
    content |= {"training": training(job, best, tokens)} if tokens else {}
    content |= {"failures": future.__dict__} if future else {}
    return content | {"others": [_one(job, other) for other in found.best[1:]]}


def _one(job: TrainingJob, prediction: Prediction) -> dict[str, Any]:
    candidate, memory = prediction.candidate, prediction.fit.memory
    layout = candidate.layout
    return {
        "step_seconds": prediction.time.total,
        **rates(job, prediction),
        "memory_bytes_per_gpu": memory.total,
        "memory_components": memory.components(),
        "layout": {
            **{name: getattr(layout, name) for name in ("tp", "pp", "cp", "dp")},
            "vpp": layout.chunks,
            "stage_layers": list(layout.stage_layers),
            "micro_batch": candidate.micro_batch,
            "micro_batches": candidate.micro_batches,
            "recompute": candidate.ac,
            "optimizer_offload": candidate.offload,
        },
        "step_components": prediction.time.components(),
        "measured_rates": job.kind.measured,
    }


def table(job: TrainingJob, found: SearchResult, tokens: float | None, future: Outlook | None) -> str:
    """For a person."""
    best = found.best[0]
    lines = [_title(job, found)]
    if not job.kind.measured:
        lines.append(localized("planner-unmeasured", gpu=job.kind.name.upper()))
    if any(one.fit.memory.host_optimizer for one in found.best):
        ram = max(one.fit.memory.host_optimizer for one in found.best)
        lines.append(localized("planner-ram", size=gigabytes(ram)))
    lines += ["", localized("planner-heads")]
    lines += [_row(job, one) for one in found.best]
    lines += ["", localized("planner-components"), *_components(best), "", localized("planner-memory"), *_memory(best)]
    cost = saving(job, best)
    size, seconds = gigabytes(round(cost["checkpoint_bytes"])), cost["save_seconds"]
    lines += ["", localized("planner-checkpoint", size=size, seconds=seconds)]
    if tokens:
        whole = training(job, best, tokens)
        lines.append(localized("planner-training", tokens=tokens, days=whole["days"], hours=whole["gpu_hours"]))
    if future:
        lines.append(_outlook(future, best))
    return "\n".join([*lines, "", localized("planner-type"), command(job, best, tokens=tokens)])


def _title(job: TrainingJob, found: SearchResult) -> str:
    return localized(
        "planner-title",
        size=job.size,
        gpus=job.gpus,
        gpu=job.kind.name.upper(),
        precision=job.precision,
        length=job.seq_len,
        batch=job.global_batch,
        tried=found.tried,
    )


def _row(job: TrainingJob, one: Prediction) -> str:
    rate, layout, candidate = rates(job, one), one.candidate.layout, one.candidate
    words = localized(
        "planner-layout",
        tp=layout.tp,
        pp=layout.pp,
        cp=layout.cp,
        dp=layout.dp,
        chunks=Message("planner-chunks", chunks=layout.chunks) if layout.chunks > 1 else "",
        micro=candidate.micro_batch,
        ac=candidate.ac,
        offload=Message("planner-offload", offload=candidate.offload) if candidate.offload != "false" else "",
    )
    return (
        f"{one.time.total:9.3f} {rate['tokens_per_s_per_gpu']:13,.0f} {rate['tflops_per_gpu']:8.0f} "
        f"{rate['mfu']:6.1%} {one.fit.memory.total / 1e9:8.1f}  {words}"
    )


def _components(one: Prediction) -> list[str]:
    parts = sorted(one.time.components().items(), key=lambda item: -item[1])
    return [
        localized("planner-component", seconds=seconds, share=seconds / one.time.total, name=_named(name))
        for name, seconds in parts
        if seconds > 0
    ]


def _memory(one: Prediction) -> list[str]:
    components = one.fit.memory.components()
    return [f"{size / 1e9:9.1f} GB  {_named(name).localized()}" for name, size in components.items() if size]


def _named(component: str) -> Message:
    return named(component.replace("_", " "))


def _outlook(future: Outlook, best: Prediction) -> str:
    steps = max(1, round(future.save_interval / best.time.total))
    times = {"hours": future.between_failures / 3600, "minutes": future.save_interval / 60}
    return localized("planner-failures", **times, effective=future.effective, steps=steps)


WAYS = ("dsw", "slurm", "k8s")
"""How a job may start: on this machine, through sbatch, or as manifests for Kubernetes."""


DECIDED = frozenset(
    {"ENV", "MODEL_SIZE", "BATCH_SIZE", "GLOBAL_BATCH_SIZE", "SEQ_LEN", "PAD_LEN", "PR", "TP", "PP", "CP", "SP", "DO"}
    | {"AC", "OPTIMIZER_OFFLOAD", "MP_VP", "MP_VP_CHUNKS", "MP_NPROC", "MP_DEVICE", "MP_SLURM_NODES", "MP_SLURM_GPUS"}
)
"""What the planner itself was asked for or has found: another value would be another prediction."""


def command(
    job: TrainingJob,
    prediction: Prediction,
    way: str | None = None,
    given: Mapping[str, str] | None = None,
    tokens: float | None = None,
) -> str:
    """What to type, for a shell.

    Args:
        way: one of WAYS; None: dsw on one machine, dlc on several.
        given: by name, positions and variables that the planner cannot know; DATA, CKPT, OUT, image, claim and the
            rates stand for what is not given.
        tokens: of the whole training; None: 1000 iterations.
    Raises:
        PlannerError: `given` has a name that is neither a position nor a variable, or one that the planner decides; dsw
            is asked for on several machines.
    """
    known = {"TRAIN_TOKENS_OR_ITERS": str(round(tokens))} if tokens else {}
    given, layout = known | dict(given or {}), prediction.candidate.layout
    positions = {position.name for position in POSITIONS}
    wrong = [name for name in given if name not in positions and not re.fullmatch("MP_[A-Z0-9_]+", name)]
    if wrong:
        raise PlannerError("planner-set-name", name=wrong[0])
    decided = [name for name in given if name in DECIDED]
    if decided:
        raise PlannerError("planner-set-decided", name=decided[0])
    if way == "dsw" and layout.nodes > 1:
        raise PlannerError("planner-emit-dsw", nodes=layout.nodes)
    typed = {name: value for name, value in given.items() if name in positions}
    typed |= {"slurm": {"ENV": "slurm"}, "k8s": {"ENV": "dlc"}}.get(way or "", {})
    variables = variables_of(prediction.candidate) | _surroundings(layout, way)
    variables |= {name: value for name, value in given.items() if name not in positions}
    assignments = [f"{name}={shlex.quote(value)}" for name, value in variables.items()]
    words = [*words_before_values(script_of(job.model)), *values_of(job, prediction.candidate, **typed)]
    return " ".join([*assignments, shlex.join([*words, *(["--emit", "k8s"] if way == "k8s" else [])])])


def _surroundings(layout: Layout, way: str | None) -> dict[str, str]:
    """How many machines of how many GPUs, as each way is told."""
    nodes, gpus = str(layout.nodes), str(layout.processes)
    if way == "slurm":
        return {"MP_DEVICE": "cuda", "MP_SLURM_NODES": nodes, "MP_SLURM_GPUS": gpus}
    if way == "k8s":
        pods = {"WORLD_SIZE": nodes, GPUS_VARIABLE: gpus}
        return {"MP_DEVICE": "cuda", **pods, "MP_K8S_IMAGE": "image", "MP_K8S_VOLUMES": "claim:/data"}
    return {"MP_NPROC": gpus} if way == "dsw" else {}


def bar(prediction: Prediction) -> str:
    """SVG: where a step goes."""
    components = prediction.time.components()
    return parts_of_a_step([(_named(name).localized(), seconds) for name, seconds in components.items() if seconds > 0])
