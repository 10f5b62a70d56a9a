"""What runs and checks leave behind, as the report reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from megatron_patch.charts.text import Words, both
from megatron_patch.common.messages import read_message
from megatron_patch.common.records import Count, Positive, Real, Record, Size, Word
from megatron_patch.models import ModelConfig, model_from_dict


class MetricsLine(Record):
    """A line of metrics.jsonl: one iteration, or one validation."""

    iteration: Count
    loss: Real | None = None
    """None where it was NaN or inf, too: JSON has neither."""
    validation_loss: Real | None = None
    lr: Real | None = None
    grad_norm: Real | None = None
    z_loss: Real | None = None
    tokens: Count | None = None
    """Of the whole run so far."""
    step_ms: Positive | None = None
    tokens_per_s_per_gpu: Positive | None = None
    tflops_per_gpu: Positive | None = None
    batch: Count | None = None
    """Sequences of this iteration."""
    mfu: Positive | None = None
    peak_memory_bytes: Positive | None = None
    allocated_bytes: Positive | None = None
    reserved_bytes: Positive | None = None
    skipped: bool | int = False
    refusal: str | None = None
    """Why MP_ON_SPIKE skipped it; None for the loss scaler."""

    @property
    def is_step(self) -> bool:
        """Not a validation."""
        return "loss" in self.model_fields_set


class StartupFile(Record):
    """startup.json."""

    seconds: Positive
    parts: dict[str, Positive]


class PlanModel(Record):
    """Of plan.json: the model config."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)
    name: Word = "?"
    num_layers: Size | None = None
    hidden_size: Size | None = None
    ffn_hidden_size: Size | None = None
    num_attention_heads: Size | None = None
    num_query_groups: Size | None = None
    head_dim: Size | None = None
    vocab_size: Size | None = None

    def config(self) -> ModelConfig | None:
        """The whole of it; None where this version cannot read it."""
        try:
            found = model_from_dict(self.model_dump())
            found.num_parameters(1)  # fails where a size is missing
            return found
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


class PlanLayout(Record):
    """Of plan.json."""

    nodes: Size = 1
    processes: Size = 1
    tp: Size = 1
    pp: Size = 1
    cp: Size = 1
    dp: Size = 1
    chunks: Size = 1
    sequence_parallel: bool = False


class PlanSchedule(Record):
    """Of plan.json."""

    train_iters: Count | None = None
    warmup_iters: Count | None = None
    arithmetic: tuple[Word, ...] = ()


class PlanGpu(Record):
    """Of plan.json."""

    name: Word = ""
    memory_bytes: Positive | None = None


class PlanFile(Record):
    """plan.json, as far as the page shows it."""

    model: PlanModel = PlanModel()
    vocab_size: Size | None = None
    layout: PlanLayout = PlanLayout()
    schedule: PlanSchedule = PlanSchedule()
    device: Word = ""
    gpu: PlanGpu | None = None
    memory: dict[str, Positive] = Field(default_factory=dict)
    memory_limit: Positive | None = None
    values: dict[str, str | int | Real | bool | None] = Field(default_factory=dict)
    """The 25 positions, then the MP_ variables, parsed; paths are absolute."""
    given: dict[str, str] | None = None
    """Variables that were set, as typed; None in runs of earlier versions."""
    notes: tuple[Word, ...] = ()
    warnings: tuple[Word, ...] = ()
    messages: dict[str, list[Any]] = Field(default_factory=dict)
    """Notes, warnings and the schedule's arithmetic as codes; empty in plans of earlier versions."""

    def told(self, what: Literal["notes", "warnings", "arithmetic"]) -> list[Words]:
        """In both languages, as far as this version knows the texts."""
        lines = self.schedule.arithmetic if what == "arithmetic" else getattr(self, what)
        coded = [read_message(one) for one in self.messages.get(what, [])]
        if len(coded) != len(lines):
            return [*lines]
        return [both(message) if message else line for message, line in zip(coded, lines, strict=True)]


class KernelKind(Record):
    """Of a profile: what all kernels of a kind took."""

    kind: Word
    seconds: Positive
    calls: Count


class KernelTime(KernelKind):
    """Of a profile: what one kernel took."""

    name: Word


class ProfileFile(Record):
    """profile/rank_N.json."""

    rank: Count
    iterations: tuple[Count, Count] = Field(strict=False)
    """The first and the last."""
    steps: Count | None = None
    """How many were recorded; all between them where it is not said."""
    skipped: list[Count] = Field(default_factory=list)
    """Those without an optimizer step."""
    wall_s: Positive
    kinds: list[KernelKind]
    kernels: list[KernelTime] = Field(default_factory=list)
    exposed_communication_s: Positive | None = None
    trace: Word = ""


class CheckRow(Record):
    """A row of check.json."""

    layer: Annotated[int, Field(ge=0, le=100_000)] | None
    part: Word
    mode: Word
    precision: Word
    relative_l2: Positive | str
    """Text where it is NaN or inf."""
    tolerance: Positive


class CheckFile(Record):
    """check.json."""

    passed: bool
    rows: list[CheckRow]
    precision: Word | None = None
    tp: Count | None = None
    pp: Count | None = None
    tokens: Word | None = None
    configuration: tuple[Word, ...] = ()
    first_failure: CheckRow | None = None
