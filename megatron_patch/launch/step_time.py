"""The time of one training step, term by term.

Every term is a formula over the architecture and the layout, and a rate of `gpu_kinds.py`. Constants of this file are
measurements of ours with their place in docs/performance.md, or counts; none is fitted to the published runs that
benchmarks/plan_accuracy.py holds the result against.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from megatron_patch.launch.argv import attention_backend, trained_logits
from megatron_patch.launch.build_plan import adapters_of
from megatron_patch.launch.gpu_kinds import GPUS_PER_MACHINE, NETWORKS, GpuKind, Network, kind_of
from megatron_patch.launch.layout import Layout
from megatron_patch.launch.plan import Plan
from megatron_patch.launch.work import Work, layer_parameters, tokens_of_rank, trained_weights, widths
from megatron_patch.models import ModelConfig
from megatron_patch.peft.settings import LINEARS, target_shapes

ROPE, CAST, ADAM = 0.62, 0.9, 0.88
"""Part of the bandwidth that kernels of a kind reach, where they do not simply stream: RoPE, ours and Megatron's,
casts to fp8 (a tensor is read for its largest value, read again, and written twice in one byte: 6 bytes an element),
Adam."""
ADAM_IN_RAM = 0.39e-9
"""Seconds of a parameter whose optimizer lives in RAM: 0.35 to 0.45 on two machines with an H100, 8B and 8 of its
layers; and ..."""
CORES_OF_ADAM = 16
"""... the cores that a rank had there."""
POWER = 0.13
"""How much faster matmuls run beside kernels that draw less power, by the part of the time that those take: 8B on an
H200 688 TFLOP/s for 667 alone, where 0.28 of a micro batch is not matmuls."""
KERNELS = {"bf16": 59, "fp8": 95}
"""Kernels of one layer, forward and backward, and ..."""
GAP = 5.3e-6
"""... seconds from the end of one to the next."""
GAP_IN_GRAPH = 1.5e-6
"""The same where a layer is replayed as a CUDA graph."""
ADAPTER_KERNELS = 18
"""Of one linear module's adapters, forward and backward: A and B put together and their gradients taken apart, six
matmuls, sums."""
SHORT_ATTENTION = 800
"""Tokens at which attention has half of its speed on endless sequences: FlashAttention-3's published curves."""
ATTENTION_EXTRA = 1.04
"""Measured time of attention in the step over the kernels alone (143 of 138 ms): preparation and reductions."""
TP_EXPOSED, TP_OVERLAPPED = 0.76, 0.57
"""Part of tensor-parallel communication that a step waits for, one after the other and overlapped: a profile of TP2 on
two H200s has 6.2 ms of it in a micro batch of four layers, of which 4.7 ms are exposed; overlapped 0.6 are, and the
matmuls, cut into pieces, take 2.9 ms longer."""
TP_OPERATIONS, TP_OPERATIONS_OF_HEAD = 8, 4
"""All-gathers and reduce-scatters of one layer, and of the LM head, forward and backward."""
NVLINK_OF_TP = 196e9
"""Bytes/s of a collective of tensor-parallel ranks: of two, for which NCCL takes its LL protocol (the same profile),
and of more without NVLink multicast, which we leave off (four H200s, 70B's and 405B's width, 2026-11-27)."""
FLASH_HEADS = 128
"""Width of the heads for which backend/gpu/attention.py takes FlashAttention 4."""
CP_CORRECTION = 26
"""Bytes moved for each query element and ring step: fp32 partial results forward, fp32 gradients backward."""
CP_LAUNCH = 80e-6
"""Seconds of kernels and events of one ring step, forward and backward, of one layer."""
SMS_OF_NCCL = 16 / 132
"""Part of a GPU's multiprocessors that a collective takes from the kernels beside it."""
PASSES_OF_RING = 3
"""Times that memory is touched for each byte that a ring moves on: what comes is written, read, and added to or put
into what is there."""
RING_START, RING_STEP, RING_STEP_BETWEEN = 8.4e-6, 3.4e-6, 14e-6
"""Seconds of a ring before its data count: its start, a step to a rank of the same machine, and to another machine.
NCCL's own model of itself (src/graph/tuning.cc: baseLat and hwLat of Ring, Simple, NVLink and Net)."""
BUCKET_PARAMETERS, BUCKET_PARAMETERS_OF_SHARD = 40_000_000, 1_000_000
"""Gradients that travel together: Megatron's default, the larger of the first and the second for each shard."""
FIXED, FIXED_ELSEWHERE = 0.005, 0.03
"""Seconds of a step that no kernel fills: batch, Python; and where it waits for the gradient's norm, as ours did."""
SPREAD = 0.005
"""Standard deviation of the speed of machines of one kind (the lent ones differ by 1 to 3 % from best to worst)."""


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one step, by what they go to; the sum is the step."""

    matmul: float
    attention: float
    elementwise: float
    """Norms, SwiGLU, RoPE, residuals, casts to fp8, cross-entropy: bound by memory."""
    launch: float
    """Gaps between kernels."""
    recompute: float
    tensor_parallel: float
    """Communication that is not hidden; so are the next three."""
    context_parallel: float
    pipeline_parallel: float
    data_parallel: float
    bubble: float
    """Stages that wait at the beginning and the end."""
    imbalance: float
    """Stages that wait for the slowest, which has the LM head."""
    optimizer: float
    fixed: float
    stragglers: float

    @property
    def total(self) -> float:
        """Seconds."""
        return sum(self.components().values())

    def components(self) -> dict[str, float]:
        """By name."""
        return {row.name: getattr(self, row.name) for row in fields(self)}


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """Seconds that one micro batch takes in some layers, or in the LM head: forward and backward."""

    matmul: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    launch: float = 0.0
    recompute: float = 0.0
    tensor_parallel: float = 0.0
    context_parallel: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(getattr(self, row.name) for row in fields(self)))

    def __add__(self, other: _Pass) -> _Pass:
        return _Pass(**{row.name: getattr(self, row.name) + getattr(other, row.name) for row in fields(self)})

    def times(self, count: float) -> _Pass:
        return _Pass(**{row.name: getattr(self, row.name) * count for row in fields(self)})


def step_time(work: Work, layout: Layout, kind: GpuKind, network: Network) -> StepTime:
    """Seconds of one step on the slowest stage.

    Raises:
        ValueError: fp8 on a GPU without FP8 units.
    """
    layer, head = _layer(work, layout, kind, network), _head(work, layout, kind)
    stages = [layer.times(layers) for layers in layout.stage_layers]
    stages[-1] = stages[-1] + head
    slowest = max(stages, key=lambda stage: stage.total)
    mean = sum(stage.total for stage in stages) / layout.pp
    bubble = (layout.pp - 1) / layout.chunks * mean
    own = slowest.times(work.micro_batches * mean / slowest.total)
    times = {row.name: getattr(own, row.name) for row in fields(own)}
    body = {
        "bubble": bubble,
        "imbalance": work.micro_batches * (slowest.total - mean),
        "pipeline_parallel": _pipeline_parallel(work, layout, kind, network),
        "data_parallel": _data_parallel(work, layout, kind, network, slowest),
        "optimizer": _optimizer(work, layout, kind),
        "fixed": FIXED if work.own_kernels else FIXED_ELSEWHERE,
    }
    machines = max(1, layout.world_size // GPUS_PER_MACHINE)
    before = sum(times.values()) + sum(body.values())
    return StepTime(**times, **body, stragglers=before * SPREAD * math.sqrt(2 * math.log(machines)))


def time_of_plan(plan: Plan, sample_tokens: int | None = None, trained_share: float = 1.0) -> StepTime | None:
    """What the driver's plan will take; None on GPUs without a row of rates, on the CPU, in fp32 and fp16, for
    conversations whose lengths are not known, under MP_FREEZE or Muon, and where activations move to RAM.

    Args:
        sample_tokens: mean tokens of a packed conversation.
        trained_share: part of the positions that are trained.
    """
    config, kind = plan.config, kind_of(plan.gpu.name) if plan.gpu else None
    on_gpu = config.ac != "offload" and plan.variables.optimizer == "adam"
    lengths_known = not config.sft or sample_tokens is not None
    predicted = lengths_known and config.pr in ("bf16", "fp8") and on_gpu and plan.variables.freeze is None
    if kind is None or not predicted or (config.pr == "fp8" and kind.matmul_fp8 is None):
        return None
    return step_time(
        Work(
            model=plan.model,
            vocab_rows=plan.vocab_rows,
            seq_len=config.seq_len,
            micro_batch=config.batch_size,
            micro_batches=plan.schedule.micro_batches,
            precision=config.pr,
            gradient_bytes=plan.precision.gradient,
            recompute=_recompute(plan),
            recompute_layers=plan.variables.ac_layers,
            flash=may_take_flash(plan),
            distributed_optimizer=config.do,
            tp_overlap=plan.tp_overlap is not None,
            cuda_graphs=plan.cuda_graphs,
            sample_tokens=sample_tokens,
            trained_share=trained_share if trained_logits(plan) else 1.0,
            adam_bytes=plan.precision.adam.bytes,
            offload_fraction=plan.offload_fraction,
            adapters=adapters_of(plan.variables),
        ),
        plan.layout,
        kind,
        NETWORKS["400Gb"],
    )


def _recompute(plan: Plan) -> str:
    if plan.config.ac == "full" and plan.variables.ac_method == "block":
        return "block"
    return {"full": "full", "sel": "sel"}.get(plan.config.ac, "none")


def _layer(work: Work, layout: Layout, kind: GpuKind, network: Network) -> _Pass:
    """One transformer layer, forward and backward, on one rank."""
    matmul, attention = _layer_matmul(work, layout, kind), _attention(work, layout, kind)
    linears = _adapted_linears(work)
    others = _Pass(
        attention=sum(attention),
        elementwise=_elementwise(work, layout, kind) + _adapter_traffic(work, layout, kind),
        launch=(KERNELS[work.precision] + ADAPTER_KERNELS * len(linears)) * (GAP_IN_GRAPH if work.cuda_graphs else GAP),
        tensor_parallel=_tensor_parallel(work, layout, kind, TP_OPERATIONS),
        context_parallel=_context_parallel(work, layout, kind, network),
    )
    plain = others + _Pass(matmul=_with_power_of(others.total, matmul))
    forward = plain.matmul * 2 / _matmul_passes(work) + others.total / 3
    again = {"sel": attention[0], "full": forward, "block": forward}.get(work.recompute, 0.0)
    share = min(1.0, work.recompute_layers / max(layout.stage_layers)) if work.recompute == "block" else 1.0
    return plain + _Pass(recompute=again * share)


def _with_power_of(others: float, matmul: float) -> float:
    """Seconds of matmuls beside so many seconds of other kernels."""
    return matmul / (1 + POWER * others / (others + matmul))


def _matmul_passes(work: Work) -> int:
    """Operations of each weight and token: output, gradient of the input, and of the weight where it is trained."""
    return 4 if work.adapters else 6


def _gradient_traffic(work: Work, weights: float) -> float:
    """Bytes of reading and writing the sum of gradients of these weights."""
    return 0.0 if work.adapters else 2 * work.gradient_bytes * weights


def _layer_matmul(work: Work, layout: Layout, kind: GpuKind) -> float:
    """Arithmetic, and the traffic of results: each output written once, each weight's gradient read and written."""
    model, tokens = work.model, tokens_of_rank(work, layout)
    rate = kind.matmul_fp8 if work.precision == "fp8" else kind.matmul_bf16
    if rate is None:
        raise ValueError(f"{kind.name} has no FP8 units")
    queries, keys = widths(model)
    forward = (queries + 2 * keys + 2 * model.ffn_hidden_size) / layout.tp + 2 * model.hidden_size
    backward = (queries + model.ffn_hidden_size) / layout.tp + 2 * model.hidden_size
    weights = layer_parameters(model) / layout.tp
    traffic = 2 * tokens * (forward + backward) + _gradient_traffic(work, weights)
    return _matmul_passes(work) * weights * tokens / rate + traffic / kind.bandwidth


def _adapted_linears(work: Work) -> list[tuple[int, int]]:
    """Rows and columns of the linear modules of a layer that have adapters; what is fused is one module."""
    if work.adapters is None:
        return []
    shapes = target_shapes(work.model)
    return [
        (sum(shapes[target][0] for target in linear.targets), shapes[linear.targets[0]][1])
        for linear in LINEARS
        if set(linear.targets) & set(work.adapters.targets)
    ]


def _adapter_traffic(work: Work, layout: Layout, kind: GpuKind) -> float:
    """Seconds in which adapters read and write activations; their arithmetic, of ranks of 8 to 64, hides behind that.

    Forward x is read, and the output read and written; backward its gradient is read twice, x once, and the gradient
    of x written, then added to that of the frozen weight: 4 passes over the rows and 6 over the columns.
    """
    numbers = sum(4 * rows + 6 * columns for rows, columns in _adapted_linears(work))
    return 2 * tokens_of_rank(work, layout) * numbers / layout.tp / kind.bandwidth


def _attention(work: Work, layout: Layout, kind: GpuKind) -> tuple[float, float]:
    """Forward and backward; the backward pass has 2.5 times the arithmetic."""
    length = work.seq_len if work.sample_tokens is None else min(work.seq_len, work.sample_tokens)
    queries, _ = widths(work.model)
    forward = 2 * work.micro_batch * work.seq_len * length * queries / layout.cp / layout.tp
    visible = length / layout.cp
    slower = (8192 / (8192 + SHORT_ATTENTION)) / (visible / (visible + SHORT_ATTENTION)) * ATTENTION_EXTRA
    packed = work.sample_tokens is not None
    if work.flash and fits_flash(work.model, micro_batch=work.micro_batch, packed=packed, cp=layout.cp):
        slower /= kind.flash
    return slower * forward / kind.attention_forward, slower * 2.5 * forward / kind.attention_backward


def may_take_flash(plan: Plan) -> bool:
    """Whether nobody asked for another kernel, and nothing is in the way beside what `fits_flash` asks."""
    return attention_backend(plan) in ("auto", "flash") and not plan.deterministic and plan.config.ac != "offload"


def fits_flash(model: ModelConfig, *, micro_batch: int, packed: bool, cp: int) -> bool:
    """Attention as FlashAttention 4 was measured: heads of 128, rows alone or packed, no context parallelism."""
    return (micro_batch == 1 or packed) and cp == 1 and model.head_dim == FLASH_HEADS


def _elementwise(work: Work, layout: Layout, kind: GpuKind) -> float:
    """Passes over activations: SwiGLU reads 2 and writes 1 columns, its gradient reads 3 and writes 2; and so on.

    Our kernel for RoPE reads and writes once, forward and backward. What trainer/passes.py leaves out are two additions
    of gradients, each read twice and written once, for one more read in two norms; and in fp8 SwiGLU's results are not
    read for their largest value. Under recomputation and other recipes of fp8 nothing is left out: 1 % more than this.
    """
    model, rows = work.model, 2 * tokens_of_rank(work, layout) / layout.tp
    queries, keys = widths(model)
    fewer = work.own_kernels and work.adapters is None
    swiglu = 8 * rows * model.ffn_hidden_size
    rope = (4 if work.own_kernels and not model.qk_norm else 8) * rows * (queries + 2 * keys) / ROPE
    norms = (20 if fewer else 24) * rows * model.hidden_size
    casts = 0.0
    if work.precision == "fp8":
        inputs = 2 * model.hidden_size + queries + model.ffn_hidden_size
        gradients = queries + 2 * keys + 2 * model.ffn_hidden_size + 2 * model.hidden_size
        copies = (2.5 if work.adapters else 3) * (inputs + gradients)  # frozen: one copy, not two
        casts = rows * (copies - (3 * model.ffn_hidden_size if fewer else 0)) / CAST
    return (swiglu + rope + norms + casts) / kind.bandwidth


def _tensor_parallel(work: Work, layout: Layout, kind: GpuKind, operations: int) -> float:
    """Activations of the residual stream, gathered and scattered in bf16 around each pair of matmuls."""
    if layout.tp == 1:
        return 0.0
    link = kind.nvlink if work.multicast and layout.tp > 2 else min(kind.nvlink, NVLINK_OF_TP)
    one = (layout.tp - 1) / layout.tp * 2 * tokens_of_rank(work, layout) * work.model.hidden_size / link
    return operations * one * (TP_OVERLAPPED if work.tp_overlap else TP_EXPOSED)


def _context_parallel(work: Work, layout: Layout, kind: GpuKind, network: Network) -> float:
    """The ring's K and V travel behind attention; putting partial results together does not."""
    if layout.cp == 1:
        return 0.0
    queries, keys = widths(work.model)
    tokens = tokens_of_rank(work, layout)
    corrections = CP_CORRECTION * tokens * queries / layout.tp / kind.bandwidth
    link = kind.nvlink if layout.tp * layout.cp <= GPUS_PER_MACHINE else min(kind.nvlink, network.bytes_per_s)
    travel = 4 * tokens * 2 * keys / layout.tp / link
    hidden = sum(_attention(work, layout, kind)) / layout.cp
    return (layout.cp - 1) * (corrections + CP_LAUNCH + max(0.0, 3 * travel - hidden))


def _head(work: Work, layout: Layout, kind: GpuKind) -> _Pass:
    """LM head, always in bf16, and cross-entropy over its logits, where there are any."""
    tokens = work.trained_share * tokens_of_rank(work, layout)
    table = work.model.hidden_size * work.vocab_rows / layout.tp
    traffic = _gradient_traffic(work, table) / kind.bandwidth
    logits = 8 * tokens * work.vocab_rows / layout.tp / kind.bandwidth
    arithmetic = _matmul_passes(work) * table * tokens / kind.matmul_bf16
    return _Pass(
        matmul=_with_power_of(logits, arithmetic + traffic),
        elementwise=logits,
        tensor_parallel=_tensor_parallel(work, layout, kind, TP_OPERATIONS_OF_HEAD),
    )


def _pipeline_parallel(work: Work, layout: Layout, kind: GpuKind, network: Network) -> float:
    """Without chunks a stage waits for what it sends and gets, twice a micro batch; with chunks it travels behind."""
    if layout.pp == 1:
        return 0.0
    link = kind.nvlink if layout.world_size <= GPUS_PER_MACHINE else network.bytes_per_s
    one = 2 * tokens_of_rank(work, layout) * work.model.hidden_size / layout.tp / link
    return one * (2 * work.micro_batches if layout.chunks == 1 else 2 * (layout.pp - 1))


def _data_parallel(work: Work, layout: Layout, kind: GpuKind, network: Network, stage: _Pass) -> float:
    """Gradients are scattered behind the last backward pass, weights gathered behind the first forward pass.

    A ring over machines passes the border of each with all the cards of its members there at once. The first and the
    last bucket are not hidden, and what is hidden takes multiprocessors from what hides it, and memory bandwidth from
    the kernels that live on it.
    """
    shards = layout.dp * layout.cp
    if shards == 1:
        return 0.0
    link = data_parallel_link(layout, kind, network)
    weights = trained_weights(work, layout)
    share = (shards - 1) / shards
    narrow = work.precision == "fp8" and not work.adapters
    start, buckets = ring_latency(layout), bucket_count(work, layout)
    scatter, gather = ((size * share * weights / link + buckets * start) for size in (2, 1 if narrow else 2))
    waits = (
        _uncovered(scatter, _last_part(work, layout), stage.total * 2 / 3)
        + _uncovered(gather, _last_part(work, layout), stage.total / 3)
        + _chained_gathers(work, layout, start, (1 if narrow else 2) / link)
    )
    memory = min(1.0, PASSES_OF_RING * link / kind.bandwidth) * stage.elementwise / stage.total
    return waits + (SMS_OF_NCCL + memory) * max(0.0, scatter + gather - waits)


def ring_latency(layout: Layout) -> float:
    """Seconds of a reduce-scatter or all-gather over data- and context-parallel ranks that moves nothing."""
    ranks = layout.dp * layout.cp
    machines = max(1, layout.tp * ranks // GPUS_PER_MACHINE) if layout.nodes > 1 else 1
    between = min(ranks, machines) - 1
    return RING_START + (ranks - 1 - between) * RING_STEP + between * RING_STEP_BETWEEN


def bucket_count(work: Work, layout: Layout) -> int:
    """Collectives of one step for the gradients of a rank, and as many for its weights.

    A bucket is closed by the tensor with which it is full: at most one for each tensor, two of a layer being norms.
    """
    shards = layout.dp * layout.cp
    size = work.bucket_parameters or max(BUCKET_PARAMETERS, BUCKET_PARAMETERS_OF_SHARD * shards)
    most = 6 * max(layout.stage_layers) + 3
    return max(layout.chunks, min(most, math.ceil(trained_weights(work, layout) / size)))


def _last_part(work: Work, layout: Layout) -> float:
    """Part of the weights that has nothing left to hide behind: the embedding's table, which is first forward and last
    backward; of a pipeline in chunks the first chunk, whose gradients leave together."""
    if layout.chunks > 1:
        return 1 / layout.chunks
    if work.adapters:
        return 1 / max(layout.stage_layers)
    table = work.vocab_rows * work.model.hidden_size / layout.tp
    return table / trained_weights(work, layout)


def _chained_gathers(work: Work, layout: Layout, start: float, seconds_of_parameter: float) -> float:
    """A module of several buckets waits for all but the first: Megatron asks for the next one when one is there.

    Buckets of single tensors: the fused norms and linears, two of a layer, wait for the linear's weight.
    """
    queries, keys = widths(work.model)
    first, second = queries + 2 * keys, 2 * work.model.ffn_hidden_size
    if work.adapters or (work.bucket_parameters or BUCKET_PARAMETERS) >= first * work.model.hidden_size / layout.tp:
        return 0.0
    weights = (first + second) * work.model.hidden_size / layout.tp
    return max(layout.stage_layers) * (2 * start + weights * seconds_of_parameter)


def data_parallel_link(layout: Layout, kind: GpuKind, network: Network) -> float:
    """Bytes/s of one rank in a collective over data- and context-parallel ranks."""
    group = layout.dp * layout.cp
    if layout.tp * group <= GPUS_PER_MACHINE:
        return kind.nvlink
    return min(kind.nvlink, network.bytes_per_s * max(1, GPUS_PER_MACHINE // layout.tp))


def _uncovered(seconds: float, part: float, cover: float) -> float:
    """The last part has nothing left to hide behind; nor has what takes longer than the pass."""
    return max(seconds * part, seconds - cover * (1 - part))


def _optimizer(work: Work, layout: Layout, kind: GpuKind) -> float:
    """Adam's reads and writes of one shard, its gradients in fp32 and their norm; and clearing all gradients.

    What lives in RAM is stepped there: a rank has the memory bandwidth of its own cores.
    """
    weights = trained_weights(work, layout)
    shards = layout.dp * layout.cp if work.distributed_optimizer else 1
    adam = (1 - work.offload_fraction) * (2 * work.adam_bytes + 4) / ADAM
    in_ram = ADAM_IN_RAM * work.offload_fraction * weights / shards
    return in_ram + (weights / shards * (adam + 14) + 2 * weights * work.gradient_bytes) / kind.bandwidth
