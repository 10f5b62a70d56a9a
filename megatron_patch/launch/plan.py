"""What will happen: everything that is known before torch is imported, in one frozen object."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_patch.common.machine import Gpu
from megatron_patch.common.messages import Message, as_json, listed
from megatron_patch.launch.cluster.place import Cluster
from megatron_patch.launch.config import RunConfig
from megatron_patch.launch.inputs import DataSource, Tokenizer
from megatron_patch.launch.layout import Layout
from megatron_patch.launch.memory import GPU_PROCESS_BYTES, SYSTEM_BYTES, Memory, Precision, save_bytes
from megatron_patch.launch.problems import driver_wording
from megatron_patch.launch.schedule import EpochCount, Schedule
from megatron_patch.launch.variables import Variables
from megatron_patch.launch.weights import Weights
from megatron_patch.models import ModelConfig
from megatron_patch.runs.folder import ADAPTER, CHECKPOINTS, HF, PlanRecord
from megatron_patch.runs.validations import stopped_early

EVERY = "every"
"""MP_EXPORT_HF: not at the end alone."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The trace of earlier starts in an output folder."""

    iteration: int | None
    """Newest checkpoint that was written to its end; None if there is none."""
    broken: tuple[str, ...]
    """Checkpoints that were not, or are damaged; the run writes them anew."""
    damage: tuple[Message, ...] = ()
    """What is wrong with those that have their names, a sentence each."""
    lost: bool = False
    """There were checkpoints, and none is left that is whole: a run does not begin anew over them."""
    plan: PlanRecord | None
    """plan.json of the last start."""
    plan_problem: str = ""
    """Why there is one and it is not used."""
    weights_only: bool = False
    """The newest checkpoint has no optimizer (MP_SAVE_OPTIMIZER=false)."""


NOTHING = Earlier(iteration=None, broken=(), plan=None)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run, resolved: the input of the argv and of what a dry run prints, and the content of plan.json."""

    config: RunConfig
    variables: Variables
    cluster: Cluster | None
    model: ModelConfig
    vocab_size: int
    """Rows of the embedding before padding."""
    vocab_rows: int
    """And after it."""
    tokenizer: Tokenizer
    weights: Weights
    earlier: Earlier
    device: str
    """`cuda` or `cpu`."""
    gpu: Gpu | None
    """The GPU with the least memory; None on the CPU, and in a dry run without a GPU."""
    layout: Layout
    schedule: Schedule
    epochs: EpochCount | None = None
    """How long an epoch is, where a length was typed in epochs."""
    train_data: tuple[DataSource, ...]
    valid_data: tuple[DataSource, ...] | None
    precision: Precision
    gradient_bf16: bool
    """Gradients are summed in bf16."""
    offload_fraction: float
    """Part of the optimizer's state that lives in RAM."""
    tp_overlap: str | None
    """How tensor-parallel communication overlaps the matmuls; None: it does not."""
    cuda_graphs: bool = False
    """Layers are replayed as CUDA graphs."""
    memory: Memory
    deterministic: bool = False
    """Attention on a GPU adds in one order."""
    memory_limit: int | None
    """Bytes that one rank may take; None where nothing is known."""
    machine_ram: int | None = None
    """Bytes of RAM of one machine, all of them; None where nothing is known."""
    checkpoint_bytes: int
    """One checkpoint on disk."""
    export_bytes: int
    """One Hugging Face folder of MP_EXPORT_HF; 0 without it."""
    background_save: bool
    """Checkpoints are written while training goes on."""
    output: str
    """OUTPUT_BASEPATH, absolute."""
    given: Mapping[str, str]
    """What the user has set beside the 25 values: MP_ variables, and those that the ranks get as they are."""
    wandb: bool
    """Weights & Biases is written to."""
    vp_counts_chunks: bool
    """MP_VP was typed in the meaning that it had when the run began: chunks, not layers."""
    notes: tuple[Message, ...]
    """What a person should know: choices made for him, and consequences."""
    warnings: tuple[Message, ...]
    """What will probably go wrong."""

    @property
    def saved_copies(self) -> int:
        """Bytes of RAM that the ranks of one machine take for copies of what is written in the background."""
        one = save_bytes(self.memory, self.precision, self.layout, optimizer=self.variables.save_optimizer)
        return self.layout.processes * one if self.background_save else 0

    @property
    def ram_needed(self) -> int:
        """Bytes of RAM of the ranks of one machine, a part of whose optimizer lives there; 0 without."""
        if self.memory.host_optimizer == 0:
            return 0
        return self.layout.processes * (GPU_PROCESS_BYTES + self.memory.host_optimizer) + self.saved_copies

    @property
    def ram_limit(self) -> int | None:
        """Bytes of RAM that the ranks of one machine may take together, for all that they are."""
        return None if self.machine_ram is None else max(0, self.machine_ram - SYSTEM_BYTES)

    @property
    def lacks_ram(self) -> bool:
        """Parts of the optimizer are to live in RAM that the machine does not have."""
        return self.ram_needed > 0 and self.ram_limit is not None and self.ram_needed > self.ram_limit

    @property
    def resume_iteration(self) -> int | None:
        """Iteration that training goes on from; None for a first start."""
        return self.earlier.iteration

    @property
    def finished(self) -> bool:
        """All iterations are done and saved, or it ended early."""
        done = self.earlier.iteration
        return done is not None and (done >= self.schedule.train_iters or self.ended_early)

    @property
    def ended_early(self) -> bool:
        """It ended for want of improvement at its newest checkpoint, and MP_EARLY_STOP_PATIENCE has not grown."""
        return stopped_early(Path(self.output), self.earlier.iteration, self.variables.early_stop_patience)

    @property
    def exports_every(self) -> bool:
        """A Hugging Face folder is written of each checkpoint, not at the end alone."""
        return self.variables.export_hf == EVERY

    @property
    def export(self) -> str:
        """The Hugging Face folder of MP_EXPORT_HF; of adapters, PEFT's."""
        return f"{self.output}/{HF if self.variables.lora_rank is None else ADAPTER}"

    @property
    def checkpoints(self) -> str:
        """Folder that checkpoints are saved to and resumed from."""
        return f"{self.output}/{CHECKPOINTS}"


def content_of(plan: Plan) -> dict[str, Any]:
    """Of plan.json: all that is known of the run, and the values that the next start compares itself with."""
    content = dataclasses.asdict(dataclasses.replace(plan, earlier=NOTHING))  # a plan within the plan is of no use
    content |= {"values": values_of(plan), "resume_iteration": plan.resume_iteration}
    for inner in ("earlier", "config", "variables"):  # `values` has the latter two
        del content[inner]
    words = driver_wording()
    content |= {"notes": listed(plan.notes, words), "warnings": listed(plan.warnings, words)}
    content["schedule"]["arithmetic"] = listed(plan.schedule.arithmetic, words)
    messages = {"notes": plan.notes, "warnings": plan.warnings, "arithmetic": plan.schedule.arithmetic}
    content["messages"] = {what: as_json(list(each)) for what, each in messages.items()}
    return content


PLACE = ("lang", "slurm_", "k8s_", "node_timeout", "rendezvous_timeout", "memory_check", "profile")
"""Beginnings of the variables that say where a run takes place or how it is looked at, not what it is."""


def values_of(plan: Plan) -> dict[str, Any]:
    """Parsed values of this start by position and variable name; paths and blends made absolute."""
    values = {name.upper(): value for name, value in dataclasses.asdict(plan.config).items()}
    variables = {
        name: value for name, value in dataclasses.asdict(plan.variables).items() if not name.startswith(PLACE)
    }
    values |= {f"MP_{name.upper()}": value for name, value in variables.items()}
    del values["MP_VP"]  # one of two ways to say it
    values["MP_VP_CHUNKS"] = plan.layout.chunks if plan.layout.chunks > 1 else None
    values["DATASET_PATH"] = describe_blend(plan.train_data)
    values["VALID_DATASET_PATH"] = "none" if plan.valid_data is None else describe_blend(plan.valid_data)
    values["OUTPUT_BASEPATH"] = plan.output
    values["PRETRAIN_CHECKPOINT_PATH"] = plan.weights.path or "none"
    return values


def meant(name: str, value: object) -> object:
    """What None of `values_of` stands for: one chunk, whether it was typed or chosen."""
    return 1 if name == "MP_VP_CHUNKS" and value is None else value


def describe_blend(corpora: tuple[DataSource, ...]) -> str:
    """A blend as it would be typed, with absolute paths."""
    return " ".join(f"{one.weight!r} {one.path}" if one.weight is not None else one.path for one in corpora)
