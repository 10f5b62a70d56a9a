"""What a person should hear before a run: choices made for him, consequences, and what will probably go wrong."""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_patch.common.machine import SHARED_MEMORY, free_disk
from megatron_patch.common.messages import Message, Name
from megatron_patch.common.values import shown
from megatron_patch.data.columns import told
from megatron_patch.data.sources import find_sources, left_out
from megatron_patch.launch.advice import cheapest_change
from megatron_patch.launch.argv import gathers_fp8, offloads_modules, trained_logits
from megatron_patch.launch.build_plan import adapters_of
from megatron_patch.launch.chunks import explain_chunks
from megatron_patch.launch.command import DROPPED
from megatron_patch.launch.cuda_graphs import ROOM
from megatron_patch.launch.environment import Environment
from megatron_patch.launch.inputs import DataSource, folders_of
from megatron_patch.launch.megatron_flags import exit_interval, skipped_iterations
from megatron_patch.launch.memory import gigabytes, save_bytes
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.resume import warm_start
from megatron_patch.launch.step_time import CORES_OF_ADAM
from megatron_patch.launch.variables import BY_FIELD, VARIABLES, Variable
from megatron_patch.peft.folder import other_base, settings_of
from megatron_patch.peft.settings import FIXED, target_shapes
from megatron_patch.runs import status as run_status


def annotate(plan: Plan, environment: Environment, changes: list[Message]) -> Plan:
    """The plan with its notes and warnings.

    Args:
        changes: what is different from the last start in this output folder.
    """
    notes = [
        *_start_notes(plan),
        *changes,
        *_layout_notes(plan, environment),
        *_data_notes(plan),
        *_skip_notes(plan),
        *_rank_notes(plan),
        *_adapter_notes(plan, environment),
        *_idle_notes(plan, environment),
        *_optimizer_notes(plan),
        *_offload_notes(plan, environment),
        *_surroundings_notes(plan, environment),
    ]
    warnings = [*_memory_warnings(plan), *_shared_memory_warnings(plan, environment), *_disk_warnings(plan)]
    return dataclasses.replace(plan, notes=tuple(notes), warnings=tuple(warnings))


def _start_notes(plan: Plan) -> Iterator[Message]:
    if plan.earlier.broken:
        yield Message("checkpoints-broken", broken=plan.earlier.broken, folder=plan.checkpoints)
    yield from (Message("checkpoint-damaged", what=line) for line in plan.earlier.damage[:5])
    left = run_status.left_elsewhere(Path(plan.output))
    if left is not None and (plan.cluster is None or plan.cluster.node_rank == 0):
        yield Message("last-run-elsewhere", holder=left.said)
    if plan.resume_iteration is not None and plan.weights.kind != "none" and plan.variables.lora_rank is None:
        yield Message("weights-not-read")
    yield from warm_start(plan)
    if not plan.variables.save_optimizer:
        yield Message("weights-only")
    if plan.layout.nodes > 1:
        yield Message("output-shared")


def _layout_notes(plan: Plan, environment: Environment) -> Iterator[Message]:
    config, layout = plan.config, plan.layout
    processes, gpus = layout.processes, len(environment.gpus)
    if plan.device == "cpu" and plan.variables.device == "auto":
        yield Message("no-gpu-here")
    if plan.device == "cpu" and plan.variables.nproc is None and plan.cluster is None:
        yield Message("processes-of-layout", processes=processes)
    if plan.device == "cpu" and processes > environment.cores:
        yield Message("processes-share-cores", processes=processes, cores=environment.cores)
    if plan.device == "cuda" and plan.gpu is None:
        yield Message("gpus-not-here", processes=processes)
    if plan.gpu is not None and processes < gpus:
        yield Message("gpus-left", processes=processes, gpus=gpus)
    if config.sp and config.tp == 1:
        yield Message("sp-alone")
    if layout.ends_count:
        divide = sum(layout.stage_layers) % layout.pp == 0
        yield Message("ends-count-chunks", count=layout.pp * layout.chunks) if divide else Message("ends-count")
    elif len(set(layout.stage_layers)) > 1:
        yield Message("stages-uneven", layers=layout.stage_layers)
    if (chunks := explain_chunks(plan)) is not None:
        yield chunks
    if plan.vp_counts_chunks:
        yield Message("vp-counts-chunks", chunks=layout.chunks)
    if plan.tp_overlap is not None:
        yield Message("overlap", method=plan.tp_overlap)
    if plan.cuda_graphs:
        yield Message("graphs")
        if plan.memory_limit is not None and ROOM * plan.memory.total > plan.memory_limit:
            yield Message("graphs-tight", wanted=gigabytes(int(ROOM * plan.memory.total)))
    if trained_logits(plan):
        yield Message("trained-logits")
    if layout.tp > plan.model.num_query_groups:
        yield Message("kv-heads-shared", groups=plan.model.num_query_groups)
    if config.pr == "fp16" and plan.device == "cpu":
        yield Message("fp16-slow")


def _data_notes(plan: Plan) -> Iterator[Message]:
    """Schedule, tokenizer, validation."""
    unused = plan.schedule.batches.unused(plan.schedule.samples)
    if unused and plan.variables.batch_schedule:
        stages = plan.variables.batch_schedule.split(",")
        yield Message("stages-unused", stages=[stages[number] for number in unused], last=plan.schedule.train_iters)
    if plan.schedule.warmup_iters == 0 and plan.config.warmup_tokens_or_iters > 0:
        yield Message("no-warmup")
    if plan.schedule.wsd_iters == 1 and plan.schedule.decay_iters >= plan.schedule.train_iters:
        yield Message("wsd-unseen", last=plan.schedule.train_iters)
    if plan.tokenizer.ids < plan.vocab_size:
        yield Message("rows-unused", ids=plan.tokenizer.ids, rows=plan.vocab_size)
    yield from _left_out(plan)
    yield from _twice(plan)
    shares = [float(share) for share in (plan.variables.split or "").split(",") if share]
    if len(shares) == 3 and shares[2]:
        yield Message("split-test", percent=100 * shares[2] / sum(shares))
    if plan.valid_data is None and plan.variables.split is None:
        yield Message("no-validation")


def _skip_notes(plan: Plan) -> Iterator[Message]:
    """What Megatron's loop leaves out together with an iteration that it skips."""
    schedule, done = plan.schedule, plan.resume_iteration or 0
    words = shlex.split(plan.variables.megatron_args or "")
    ahead = [one for one in skipped_iterations(words) if one > done]
    if unsaved := [one for one in ahead if one % schedule.save_interval == 0]:
        yield Message("skip-saves", unsaved=unsaved)
    if schedule.eval_iters and (untried := [one for one in ahead if one % schedule.eval_interval == 0]):
        yield Message("skip-validations", untried=untried)
    if interval := exit_interval(words):
        first = interval * (done // interval + 1)
        ends = [*(at for at in range(first, schedule.train_iters, interval) if at not in ahead), schedule.train_iters]
        if first in ahead:
            yield Message("skip-ends", missed=[at for at in ahead if at % interval == 0 and at < ends[0]], end=ends[0])


def _twice(plan: Plan) -> Iterator[Message]:
    """Data that are named more than once, in training, or in training and validation: by their files, which may lie in
    a folder that is named too, or behind a link."""
    named: dict[Path, str] = {}
    training, validation = (
        [_remembered(file, name, named) for source in data for file, name in _files(plan, source)]
        for data in (plan.train_data, plan.valid_data or ())
    )
    again = [named[file] for file, count in Counter(training).items() if count > 1]
    if again:
        yield Message("data-twice", paths=again[:3], count=len(again))
    both = [named[file] for file in dict.fromkeys(validation) if file in set(training)]
    if both and set(validation) == set(training):
        yield Message("validates-on-training")
    elif both:
        yield Message("validates-partly", paths=both[:3], count=len(both))


def _files(plan: Plan, source: DataSource) -> Iterator[tuple[Path, str]]:
    """The files of a data set, and what each is called."""
    if plan.variables.dataset_type == "raw":
        yield from ((file, str(file)) for file in find_sources([source.path]))
    else:
        yield Path(f"{source.path}.bin"), source.path


def _remembered(file: Path, name: str, named: dict[Path, str]) -> Path:
    """The file itself, links followed; what it was called first is kept."""
    real = file.resolve()
    named.setdefault(real, name)
    return real


def _left_out(plan: Plan) -> Iterator[Message]:
    """Files of the data's folders that are not read."""
    if plan.variables.dataset_type == "raw":
        for path in dict.fromkeys(corpus.path for corpus in (*plan.train_data, *(plan.valid_data or ()))):
            yield from left_out(path)
            yield from told(find_sources([path]))
        return
    typed = [plan.config.dataset_path] + ([plan.config.valid_dataset_path] if plan.valid_data is not None else [])
    for folder in dict.fromkeys(folder for text in typed for folder in folders_of(text)):
        yield from left_out(folder, idxmap=True)


def _rank_notes(plan: Plan) -> Iterator[Message]:
    """Adapters of a rank that their product cannot have: no matrix has more than its smaller side."""
    adapters, shapes = adapters_of(plan.variables), target_shapes(plan.model)
    if adapters is None:
        return
    beyond = []
    for target in adapters.targets:
        rank = max(adapters.rank_of(layer, target) for layer in range(plan.model.num_layers))
        rows, columns = shapes[target]
        if rank > min(rows, columns):
            beyond.append(Message("rank-beyond-matrix", target=target, rank=rank, rows=rows, columns=columns))
    if beyond:
        yield Message("rank-beyond", matrices=beyond)


def _adapter_notes(plan: Plan, environment: Environment) -> Iterator[Message]:
    """What MP_LORA_ADAPTER brings."""
    if plan.variables.lora_adapter is None or plan.resume_iteration is not None:
        return
    brought = [BY_FIELD[f"lora_{name}"] for name in FIXED]
    values = {
        one.name: shown(value)
        for one in brought
        if one.name not in environment.given and (value := getattr(plan.variables, one.field)) is not None
    }
    settings = [Message("setting", name=Name(name), value=value) for name, value in values.items()]
    if settings:
        yield Message("adapter-brings", settings=settings)
    adapter = Path(plan.variables.lora_adapter)
    if (other := other_base(adapter, plan.weights.path, plan.weights.folder)) is not None:
        yield other
    theirs, mine = settings_of(adapter).dropout, plan.variables.lora_dropout
    if theirs != mine:
        yield Message("adapter-dropout", theirs=shown(theirs), mine=shown(mine))


def _idle_notes(plan: Plan, environment: Environment) -> Iterator[Message]:
    """Values that do nothing beside the others."""
    config, variables = plan.config, plan.variables
    if offloads_modules(plan):
        yield Message("idle-ac-layers-pipeline")
    for variable, value, (name, now) in idle_variables(plan, environment):
        told = {"name": Name(variable.name), "value": shown(value)}
        if name == "DEVICE":
            yield Message("idle-on-cpu", **told)
        elif now is None:
            yield Message("idle-without", **told, other=Name(name))
        else:
            yield Message("idle-under", **told, under=Message("setting", name=Name(name), value=now))
    if variables.attention_backend is not None:
        yield Message("attention-before-fl", backend=variables.attention_backend, fl=shown(config.fl))


def idle_variables(plan: Plan, environment: Environment) -> Iterator[tuple[Variable, Any, tuple[str, str | None]]]:
    """Variables that somebody has set and that do nothing, with the position and its value that make them idle.

    The value is None where a variable that is not set makes them so.
    """
    for variable in VARIABLES:
        value = getattr(plan.variables, variable.field)
        if not variable.matters or variable.name not in environment.inherited or value == variable.default:
            continue
        name, *active = variable.matters
        if name == "MP_DATASET_TYPE" and not plan.config.sft:
            name, active = "SFT", ["true"]  # pretraining has one type of data
        now = _value_of(plan, name)
        if now is None or (active and now not in active):
            yield variable, value, (name, now)


def _value_of(plan: Plan, name: str) -> str | None:
    """Of DEVICE, a variable or a position, as it is typed; None: not set."""
    if name == "DEVICE":
        return plan.device
    if name.startswith("MP_"):
        value = getattr(plan.variables, name.removeprefix("MP_").lower())
        return None if value is None else shown(value)
    return shown(getattr(plan.config, name.lower()))


def _optimizer_notes(plan: Plan) -> Iterator[Message]:
    """How gradients are summed, the optimizer's state is kept, and weights travel."""
    config, variables = plan.config, plan.variables
    if plan.gradient_bf16 and variables.grad_reduce == "auto":
        yield Message("gradients-bf16", micro_batches=plan.schedule.micro_batches)
    if plan.precision.adam.compact and not plan.precision.fp8:
        yield Message("compact-asked" if variables.moments == "bf16" else "compact-needed")
    if plan.precision.adam.moments_bf16 and variables.moments == "auto":
        yield Message("moments-bf16")
    if config.pr == "fp8" and not gathers_fp8(plan):
        yield Message("fp8-travel-offload" if config.do else "fp8-travel-do")
    if config.pr == "fp8" and variables.fp8_extra != "none":
        yield Message("fp8-extra", what=variables.fp8_extra)


def _surroundings_notes(plan: Plan, environment: Environment) -> Iterator[Message]:
    if plan.variables.background_save == "auto" and not plan.background_save:
        yield _save_note(plan, environment)
    stretch = plan.variables.profile
    if stretch and int(stretch.partition("-")[2]) <= (plan.resume_iteration or 0):
        yield Message("profile-passed", stretch=stretch)
    if plan.config.env == "dsw" and environment.machines:
        yield Message("alone-among-several", said=environment.machines)
    if environment.wandb_key and not environment.wandb_installed:
        yield Message("wandb-key-alone")
    for name, value in environment.mine.items():
        yield Message("yours", name=name, value=value)
    if plan.device == "cuda":
        yield from _library_notes(environment)


def _library_notes(environment: Environment) -> Iterator[Message]:
    """What the user's environment says to NCCL and Transformer Engine, and what of it the ranks do not get."""
    decided = [name for name in (*DROPPED, "CUDA_DEVICE_MAX_CONNECTIONS") if name in environment.inherited]
    kept = [f"{name}={value}" for name, value in environment.others.items() if name not in decided]
    if kept:
        yield Message("yours-too", settings=kept)
    if decided:
        yield Message("decided-by-plan", names=decided)


def _save_note(plan: Plan, environment: Environment) -> Message:
    ranks, memory = plan.layout.processes, plan.memory
    copies = ranks * save_bytes(memory, plan.precision, plan.layout, optimizer=plan.variables.save_optimizer)
    figures = {"copies": gigabytes(copies), "ram": gigabytes(environment.memory_total_bytes)}
    if memory.host_optimizer:
        return Message("save-beside-optimizer", **figures, optimizer=gigabytes(ranks * memory.host_optimizer))
    return Message("save-between-steps", **figures)


def _offload_notes(plan: Plan, environment: Environment) -> Iterator[Message]:
    if plan.config.optimizer_offload == "auto":
        if plan.memory_limit is None:
            yield Message("offload-unknown")
        elif plan.offload_fraction == 0:
            yield Message("offload-none")
        else:
            yield Message("offload-part", fraction=plan.offload_fraction)
    cores = environment.cores // plan.layout.processes
    if plan.offload_fraction > 0 and plan.machine_ram is not None and cores < CORES_OF_ADAM:
        yield Message("offload-few-cores", cores=max(1, cores), measured=CORES_OF_ADAM)


def _memory_warnings(plan: Plan) -> Iterator[Message]:
    limit, memory = plan.memory_limit, plan.memory
    if limit is not None and memory.total > limit:
        code = "memory-warning-gpu" if plan.device == "cuda" else "memory-warning-cpu"
        yield Message(code, needed=gigabytes(memory.total), there=gigabytes(limit), change=cheapest_change(plan))
    elif plan.lacks_ram:
        figures = {"needed": gigabytes(plan.ram_needed), "there": gigabytes(plan.ram_limit or 0)}
        code = "memory-warning-ram-copies" if plan.saved_copies else "memory-warning-ram"
        yield Message(code, **figures, change=cheapest_change(plan))


def _shared_memory_warnings(plan: Plan, environment: Environment) -> Iterator[Message]:
    """Of a container that was started without more than its 64 MB, where something of this run lies in it."""
    used = plan.gpu is not None or (plan.device == "cpu" and bool(plan.variables.num_workers))
    if used and not environment.elsewhere and environment.shared_memory_bytes < SHARED_MEMORY:
        yield Message("shared-memory-small", size=gigabytes(environment.shared_memory_bytes))


def _disk_warnings(plan: Plan) -> Iterator[Message]:
    free, done = free_disk(plan.output), plan.resume_iteration or 0
    each = plan.checkpoint_bytes + plan.export_bytes * plan.exports_every
    free = max(0, free - (0 if plan.exports_every else plan.export_bytes))  # at the end
    written, keep = plan.schedule.saves(done), plan.variables.keep_checkpoints
    beside = 0 if done else 1  # an older one goes when a newer one is complete; of a run that goes on one is there
    most = min(written, keep + beside + plan.variables.keep_best) if keep else written
    if each > free:
        yield Message("disk-one", each=gigabytes(each), free=gigabytes(free))
    elif most * each > free:
        fits = free // each - beside
        change = Message("disk-keep", fits=fits) if fits else Message("disk-interval")
        yield Message("disk-several", count=most, size=gigabytes(most * each), free=gigabytes(free), change=change)
