"""The layouts that a model and a number of GPUs allow, each with its memory by the driver's own plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from megatron_patch.launch import tp_overlap
from megatron_patch.launch.build_plan import Fit, fit_memory, takes_graphs
from megatron_patch.launch.config import POSITIONS, RunConfig, read_values
from megatron_patch.launch.gpu_kinds import GPUS_PER_MACHINE, GpuKind, Network
from megatron_patch.launch.layout import Layout, cut_layers, divisors
from megatron_patch.launch.memory import GPU_RESERVE_BYTES
from megatron_patch.launch.step_time import StepTime, step_time
from megatron_patch.launch.variables import Variables
from megatron_patch.launch.work import Work
from megatron_patch.models import ModelConfig, padded_vocab_size
from megatron_patch.models.megatron import tensor_parallel_problem
from megatron_patch.planner.errors import PlannerError


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What is to be trained, and on what."""

    size: str
    """MODEL_SIZE."""
    model: ModelConfig
    vocab_size: int
    gpus: int
    kind: GpuKind
    network: Network
    seq_len: int
    global_batch: int
    precision: str

    @property
    def vocab_rows(self) -> int:
        """Padded."""
        return padded_vocab_size(self.vocab_size)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a search may vary; what the user gives is one value."""

    tp: tuple[int, ...]
    pp: tuple[int, ...]
    cp: tuple[int, ...]
    chunks: tuple[int, ...]
    """Model chunks of each pipeline rank."""
    micro_batch: tuple[int, ...]
    ac: tuple[str, ...]
    """Position 17: false, sel, full."""
    offload: tuple[str, ...] = ("false",)
    """Position 18."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run a job."""

    layout: Layout
    micro_batch: int
    micro_batches: int
    ac: str
    offload: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A candidate with what it takes."""

    candidate: Candidate
    time: StepTime
    fit: Fit
    limit: int
    """Bytes that a rank may take on this kind of GPU."""

    @property
    def fits(self) -> bool:
        """By the driver's memory plan."""
        return self.fit.memory.total <= self.limit


def candidates(job: TrainingJob, choice: Choice) -> Iterator[Candidate]:
    """Every layout that Megatron and the driver's checks accept.

    The rules are those of launch/checks/, as arithmetic; a test holds what is proposed against the checks themselves.
    """
    for tp in choice.tp:
        if tensor_parallel_problem(job.model, tp) or tp > min(job.gpus, GPUS_PER_MACHINE):
            continue
        for cp in choice.cp:
            if (cp > 1 and job.seq_len % (2 * cp)) or (job.seq_len // cp) % tp:
                continue
            for pp in choice.pp:
                if job.gpus % (tp * cp * pp) == 0:
                    yield from _of_pipeline(job, choice, tp, cp, pp)


def _of_pipeline(job: TrainingJob, choice: Choice, tp: int, cp: int, pp: int) -> Iterator[Candidate]:
    dp = job.gpus // (tp * cp * pp)
    for micro_batch in choice.micro_batch:
        if job.global_batch % (micro_batch * dp) or _breaks_fp8(job, micro_batch, tp, cp):
            continue
        micro_batches = job.global_batch // (micro_batch * dp)
        for chunks in choice.chunks:
            layout = _layout(job, tp, pp, cp, dp, chunks)
            if layout is None or (chunks > 1 and micro_batches % pp):
                continue
            for ac in choice.ac:
                for offload in choice.offload:
                    yield Candidate(
                        layout=layout, micro_batch=micro_batch, micro_batches=micro_batches, ac=ac, offload=offload
                    )


def _breaks_fp8(job: TrainingJob, micro_batch: int, tp: int, cp: int) -> bool:
    """FP8 matmuls want multiples of 16 rows."""
    return job.precision == "fp8" and bool(micro_batch * job.seq_len // cp // tp % 16)


@lru_cache(maxsize=4096)
def _cut(model: ModelConfig, rows: int, seq_len: int, pp: int, chunks: int) -> tuple[tuple[int, ...], bool] | None:
    return cut_layers(model, rows, seq_len, pp=pp, chunks=chunks, balance=True)


def _layout(job: TrainingJob, tp: int, pp: int, cp: int, dp: int, chunks: int) -> Layout | None:
    if chunks > 1 and pp == 1:
        return None
    cut = _cut(job.model, job.vocab_rows, job.seq_len, pp, chunks)
    if cut is None:
        return None
    machines, processes = machines_of(job.gpus)
    return Layout(
        nodes=machines,
        processes=processes,
        tp=tp,
        pp=pp,
        chunks=chunks,
        cp=cp,
        dp=dp,
        sequence_parallel=tp > 1,
        stage_layers=cut[0],
        ends_count=cut[1],
    )


def machines_of(gpus: int) -> tuple[int, int]:
    """Machines, and GPUs of each.

    Raises:
        PlannerError: whole machines have eight.
    """
    if gpus <= GPUS_PER_MACHINE:
        return 1, gpus
    if gpus % GPUS_PER_MACHINE:
        raise PlannerError("planner-machines", gpus=gpus, each=GPUS_PER_MACHINE)
    return gpus // GPUS_PER_MACHINE, GPUS_PER_MACHINE


def default_choice(job: TrainingJob) -> Choice:
    """Everything that can make sense."""
    powers = tuple(1 << power for power in range(5))
    layers = job.model.num_layers
    return Choice(
        tp=tuple(tp for tp in (1, 2, 4, 8) if tp <= job.gpus),
        pp=tuple(pp for pp in divisors(job.gpus) if pp <= min(layers, 64)),
        cp=tuple(cp for cp in powers if cp <= job.gpus),
        chunks=tuple(range(1, min(layers, 12) + 1)),
        micro_batch=(1, 2, 4, 8),
        ac=("false", "full"),
    )


def predict(job: TrainingJob, candidate: Candidate) -> Prediction:
    """Time and memory of one candidate."""
    variables = Variables()
    config = config_of(job, candidate)
    overlap = _overlap(job, candidate)
    buffers = tp_overlap.buffer_bytes(overlap, _tokens(job, candidate), job.model.hidden_size)
    limit = job.kind.memory_bytes - GPU_RESERVE_BYTES - buffers
    fit = fit_memory(config, variables, job.model, job.vocab_rows, candidate.layout, "cuda", limit)
    work = Work(
        model=job.model,
        vocab_rows=job.vocab_rows,
        seq_len=job.seq_len,
        micro_batch=candidate.micro_batch,
        micro_batches=candidate.micro_batches,
        precision=job.precision,
        gradient_bytes=fit.precision.gradient,
        recompute={"false": "none"}.get(candidate.ac, candidate.ac),
        tp_overlap=overlap is not None,
        cuda_graphs=takes_graphs(
            config, variables, candidate.layout, "cuda", gpu=job.kind.name, planned=fit.memory.total, limit=limit
        ),
        adam_bytes=fit.precision.adam.bytes,
        offload_fraction=fit.offload_fraction,
    )
    return Prediction(
        candidate=candidate, time=step_time(work, candidate.layout, job.kind, job.network), fit=fit, limit=limit
    )


def _tokens(job: TrainingJob, candidate: Candidate) -> int:
    return candidate.micro_batch * job.seq_len // candidate.layout.cp


def _overlap(job: TrainingJob, candidate: Candidate) -> str | None:
    """How MP_TP_OVERLAP=auto comes out."""
    layout = candidate.layout
    return tp_overlap.method(
        "auto",
        tokens=_tokens(job, candidate),
        ac=candidate.ac,
        device="cuda",
        tp=layout.tp,
        sp=layout.sequence_parallel,
        pr=job.precision,
        fp8_recipe=Variables().fp8_recipe,
        processes=layout.processes,
    )


def config_of(job: TrainingJob, candidate: Candidate) -> RunConfig:
    """The 25 values as the driver reads them."""
    facts, wrong = read_values(values_of(job, candidate))
    assert not wrong, wrong
    return RunConfig(**facts)


def values_of(job: TrainingJob, candidate: Candidate, **typed: str) -> list[str]:
    """The 25 values to type; paths and rates that the planner cannot know are names to replace.

    Args:
        typed: values by position name that are known better.
    """
    layout = candidate.layout
    known = {
        "ENV": "dsw" if layout.nodes == 1 else "dlc",
        "MODEL_SIZE": job.size,
        "BATCH_SIZE": str(candidate.micro_batch),
        "GLOBAL_BATCH_SIZE": str(job.global_batch),
        "LR": "3e-4",
        "MIN_LR": "3e-5",
        "SEQ_LEN": str(job.seq_len),
        "PAD_LEN": str(job.seq_len),
        "PR": job.precision,
        "TP": str(layout.tp),
        "PP": str(layout.pp),
        "CP": str(layout.cp),
        "SP": str(layout.sequence_parallel).lower(),
        "DO": "true",
        "FL": "true",
        "SFT": "false",
        "AC": candidate.ac,
        "OPTIMIZER_OFFLOAD": candidate.offload,
        "SAVE_INTERVAL": "1000",
        "DATASET_PATH": "DATA",
        "VALID_DATASET_PATH": "none",
        "PRETRAIN_CHECKPOINT_PATH": "CKPT",
        "TRAIN_TOKENS_OR_ITERS": str(1000 * job.global_batch * job.seq_len),
        "WARMUP_TOKENS_OR_ITERS": str(20 * job.global_batch * job.seq_len),
        "OUTPUT_BASEPATH": "OUT",
    } | typed
    return [known[position.name] for position in POSITIONS]


def variables_of(candidate: Candidate) -> dict[str, str]:
    """MP_ variables to set before the command; the chunks of a pipeline always: without, the driver decides them."""
    return {"MP_VP_CHUNKS": str(candidate.layout.chunks)} if candidate.layout.pp > 1 else {}
