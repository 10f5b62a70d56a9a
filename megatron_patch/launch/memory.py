"""What one rank keeps in memory, by component: an estimate of the allocator's peak, made before anything runs.

Counted in bytes, and held against peaks that were measured on H200s: tests/launch/test_layout.py, docs/performance.md.
Not counted: the CUDA context, NCCL's buffers and fragmentation, 2 to 4 GB together; on the CPU, 0.7 GB of libraries
per process.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from megatron_patch.launch.layout import Layout
from megatron_patch.models import ModelConfig
from megatron_patch.peft.settings import LoraSettings, adapter_parameters, frozen_layers, frozen_words

PROCESS_BYTES = 950_000_000
"""One process on the CPU without its tensors: Python, torch, Megatron; 0.92 to 0.97 GB measured."""
GPU_PROCESS_BYTES = 4_500_000_000
"""RAM of one process on a GPU without what it offloads: Python, CUDA's libraries; 4.2 GB measured."""
SYSTEM_BYTES = 3_000_000_000
"""Of a machine's RAM, what no rank gets."""
OFFLOAD_BUFFER_BYTES = 235_000_000
"""Windows of gradients and weights between RAM and a GPU: `Buffers` of backend/gpu/offloaded_adam.py."""
GPU_RESERVE_BYTES = 4_700_000_000
"""Of what the driver says a GPU has: CUDA context, NCCL, cuBLAS and cuDNN 2.6 GB, pieces in torch's allocator that are
too small for the next tensor 1.4 GB, and 0.7 GB that no process gets. A run of 146.0 GB was too much for an H200."""
WORKSPACE_BYTES = 160_000_000
"""cuBLAS's and cuDNN's scratch memory, and small tensors, on a GPU."""


@dataclass(frozen=True, kw_only=True)
class Adam:
    """How the optimizer's state is kept."""

    bytes: int
    """Per parameter: what a master copy needs beside the weight, and two moments."""
    compact: bool = False
    """Megatron's precision-aware optimizer: of the fp32 copy only the 16 bits that the bf16 weight lacks. Lossless."""
    moments_bf16: bool = False
    muon: bool = False
    """The matrices of the layers have one moment, and are orthogonalized one after the other."""


PLAIN_ADAM = Adam(bytes=12)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bytes per number of each kind."""

    weight: int
    """Of the weights that the model computes with: 2, or 4 under fp32. fp8 keeps two 1-byte copies, which are 2 too."""
    gradient: int
    """Of the buffer that gradients are summed and reduced in."""
    activation: int
    fp8: bool = False
    """Inputs of linear layers are kept in 1 byte for the backward pass."""
    adam: Adam = PLAIN_ADAM
    gpu: bool = True
    """Transformer Engine's kernels; the CPU's cross-entropy keeps a softmax in fp32."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one rank of the fullest pipeline stage."""

    weights: int
    gradients: int
    optimizer: int
    """fp32 copies of the weights, and Adam's two moments."""
    activations: int
    """Kept between forward and backward, over all micro batches in flight."""
    logits: int
    """Logits and cross-entropy; only where the last stage is the fullest."""
    workspace: int
    """Scratch memory of the libraries, and the gradients that nobody reads where they are added up in place."""
    step: int
    """What the optimizer's step needs beyond the activations, free by then: copies of gradients and weights."""
    host_optimizer: int
    """RAM that takes what OPTIMIZER_OFFLOAD moves off the GPU; not in the total."""
    stage: int
    """The pipeline stage that this is."""
    saved: int
    """Parameters that a checkpoint holds: all, or adapters alone."""

    @property
    def total(self) -> int:
        """Everything that lies on the device."""
        return self.static + self.activations + self.logits + self.workspace + self.step

    @property
    def static(self) -> int:
        """What is there before the first token: weights, gradients, optimizer."""
        return self.weights + self.gradients + self.optimizer

    def components(self) -> dict[str, int]:
        """By name, as the plan shows them."""
        return {
            row.name: getattr(self, row.name)
            for row in fields(self)
            if row.name not in ("stage", "host_optimizer", "saved")
        }


@dataclass(frozen=True, kw_only=True)
class Load:
    """What the ranks of a run have to hold: a model, how it is cut, and what passes through it."""

    model: ModelConfig
    vocab_rows: int
    """Padded."""
    layout: Layout
    precision: Precision
    micro_batch: int
    """Sequences."""
    seq_len: int
    micro_batches: int
    """Of one data-parallel rank in an iteration."""
    distributed_optimizer: bool
    offload_fraction: float = 0.0
    """Part of the optimizer that lives in RAM, 0 to 1."""
    recompute: str = "none"
    """`none`, `sel`, `full` (groups of layers), `block` (some layers), `offload` (some layers) or `modules` (what
    attention reads)."""
    recompute_layers: int = 1
    """MP_AC_LAYERS."""
    adapters: LoraSettings | None = None
    """LoRA; all other weights are frozen."""
    frozen: str = ""
    """MP_FREEZE."""
    fp8_weights: bool = True
    """fp8: the layers' weights have 8 bits; else they have 16, and their 8 bits are kept beside them (measured with an
    optimizer in RAM, by arithmetic without the distributed optimizer)."""
    head_fp8: bool = False
    """MP_FP8_EXTRA has head."""
    deterministic: bool = False
    """Attention's backward pass on a GPU adds in one order."""

    @property
    def tokens(self) -> int:
        """Of a micro batch, on one context-parallel rank."""
        return self.micro_batch * self.seq_len // self.layout.cp


def has_fp8_weights(*, distributed_optimizer: bool, offload_fraction: float, recipe: str) -> bool:
    """Whether fp8 training keeps, and gathers, the layers' weights in 8 bits (--fp8-param-gather).

    Megatron 0.19.2 needs the distributed optimizer for it, and `delayed` scaling where any of that is offloaded.
    """
    return distributed_optimizer and (offload_fraction == 0 or recipe == "delayed")


def estimate(load: Load) -> Memory:
    """The fullest stage of the pipeline."""
    return max((_stage(load, stage) for stage in range(load.layout.pp)), key=lambda stage: stage.total)


def _stage(load: Load, stage: int) -> Memory:
    """One rank of one stage."""
    model, layout, precision = load.model, load.layout, load.precision
    layers, last = layout.stage_layers[stage], stage == layout.pp - 1
    parameters = stage_parameters(model, load.vocab_rows, layout, stage)
    trained = trained_parameters(load, stage)
    shards = layout.dp * layout.cp if load.distributed_optimizer else 1
    optimizer = trained * precision.adam.bytes // shards
    if precision.adam.muon:
        optimizer -= 4 * layers * model.parameters_per_layer() // layout.tp
    activations = round(_activations(load, layers, passes=in_flight(layout, stage, load.micro_batches)))
    logits = logits_bytes(load) if last else 0
    attention = max(0, deterministic_attention_bytes(load) - logits)  # logits are gone by then
    matrices = layers * model.parameters_per_layer() // layout.tp
    casts = 2 * matrices if precision.fp8 and not load.fp8_weights else 0
    in_layers = 0 if load.adapters else matrices
    in_place = precision.gpu and load.distributed_optimizer
    copies = step_copies(precision, trained, in_layers, in_place=in_place) // shards + orthogonalized_bytes(load)
    added = trained if load.adapters else 0
    return Memory(
        weights=parameters * precision.weight + casts + added * (4 if precision.weight == 4 else 2),
        gradients=trained * precision.gradient,
        optimizer=round(optimizer * (1 - load.offload_fraction)),
        activations=activations,
        logits=logits,
        workspace=workspace_bytes(load, first=stage == 0, last=last) + attention,
        step=max(0, copies - activations - logits - attention),
        host_optimizer=_offloaded(optimizer, load.offload_fraction),
        stage=stage,
        saved=trained if load.adapters else parameters,
    )


def _offloaded(optimizer: int, fraction: float) -> int:
    return round(optimizer * fraction) + OFFLOAD_BUFFER_BYTES if fraction else 0


def trained_parameters(load: Load, stage: int) -> int:
    """Of one rank: adapters alone, or all that MP_FREEZE does not name."""
    model, layout = load.model, load.layout
    if load.adapters is not None:
        return adapter_parameters(load.adapters, model, layout.tp, layout.layers_of(stage))
    total = stage_parameters(model, load.vocab_rows, layout, stage)
    return total - _frozen_parameters(load, stage) if load.frozen else total


def _frozen_parameters(load: Load, stage: int) -> int:
    model, layout = load.model, load.layout
    inside = len(frozen_layers(load.frozen).intersection(layout.layers_of(stage)))
    norms = model.norms_per_layer()
    layer = (model.parameters_per_layer() - norms) // layout.tp + norms
    table = load.vocab_rows * model.hidden_size // layout.tp
    words = frozen_words(load.frozen)
    last = stage == layout.pp - 1
    total = inside * layer
    if "embedding" in words and (stage == 0 or (last and model.tie_embeddings)):
        total += table
    if "head" in words and last and not model.tie_embeddings:
        total += table
    if "norms" in words:
        total += (layout.stage_layers[stage] - inside) * norms + (model.hidden_size if last else 0)
    return total


def step_copies(precision: Precision, parameters: int, in_layers: int, *, in_place: bool) -> int:
    """Bytes that the optimizer's step takes before its state is divided over the data-parallel ranks.

    Gradients summed in bf16 are copied to fp32, where not Transformer Engine's Adam reads them where they lie; and new
    weights of the layers stand in bf16 before they are cast to fp8.
    Source: distrib_optimizer.py of megatron-core 0.19.2, `_cast_master_weights_to_fp8_current_scaling` of TE 2.20;
    `read_bf16_gradients` of backend/gpu/adam.py.

    Args:
        in_place: the distributed optimizer of a GPU.
    """
    gradients = 4 if precision.gradient == 2 and not in_place else 0
    return gradients * parameters + (2 * in_layers if precision.fp8 else 0)


def orthogonalized_bytes(load: Load) -> int:
    """What Muon takes for the largest matrix (gate and up), whole on each tensor-parallel rank: its momentum, two
    iterates of Newton-Schulz and their normed input in fp32. Source: muon_utils.py of emerging-optimizers 0.3.0."""
    model = load.model
    return 4 * 4 * 2 * model.ffn_hidden_size * model.hidden_size if load.precision.adam.muon else 0


def stage_parameters(model: ModelConfig, vocab_rows: int, layout: Layout, stage: int) -> int:
    """Parameters of one rank: matrices, biases and embedding rows are sharded over TP, norms are not.

    Tied embeddings exist once on a single stage, and on the first and the last of a pipeline.
    """
    per_layer, norms = model.parameters_per_layer(), model.norms_per_layer()
    total = layout.stage_layers[stage] * ((per_layer - norms) // layout.tp + norms)
    table = vocab_rows * model.hidden_size // layout.tp
    first, last = stage == 0, stage == layout.pp - 1
    tables = 1 if model.tie_embeddings and (first or last) else first + last
    return total + tables * table + (model.hidden_size if last else 0)


def in_flight(layout: Layout, stage: int, micro_batches: int) -> float:
    """Micro batches whose activations a stage holds at once under 1F1B: PP of them on the first, one on the last.

    With chunks a stage warms up longer, and what it holds are passes of single chunks: a fraction of a micro batch.
    Source: Narayanan et al. 2021 (arXiv:2104.04473), section 2.2; schedules.py, `get_pp_rank_microbatches` and
    `get_schedule_table`: PP micro batches pass one chunk before they pass the next.
    """
    pp, chunks = layout.pp, layout.chunks
    if chunks == 1:
        return min(micro_batches, pp - stage)
    layers = layout.chunk_layers()[stage::pp]
    rounds = range(min(-(-micro_batches // pp), 6))  # warmed up after three, and all later ones are alike
    forward = [chunk for _ in rounds for chunk in layers for _ in range(pp)]
    backward = [chunk for _ in rounds for chunk in reversed(layers) for _ in range(pp)]
    warm_up = min(2 * (pp - stage - 1) + (chunks - 1) * pp, len(forward) - 1)
    held = sum(forward[:warm_up])
    most = 0
    for enters, leaves in zip(forward[warm_up:], backward, strict=False):
        most = max(most, held + enters)
        held += enters - leaves
    return most / sum(layers)


def _activations(load: Load, layers: int, *, passes: float) -> float:
    """Bytes of one stage: whole layers, or their inputs and one group that is being recomputed.

    Args:
        passes: micro batches in flight.
    """
    each, some = layer_bytes(load), min(layers, load.recompute_layers)
    entry = _residual_bytes(load)
    if load.recompute == "full":
        groups = -(-layers // load.recompute_layers)
        return passes * groups * entry + some * each
    if load.recompute == "block":
        return passes * (some * entry + (layers - some) * each) + each
    if load.recompute == "offload":
        return passes * max(1, layers - load.recompute_layers) * each
    if load.recompute == "modules":  # two layers on their way
        return (passes * layers - 2) * (each - attention_input_bytes(load)) + 2 * each
    return passes * layers * each


def attention_input_bytes(load: Load) -> int:
    """What AC=offload moves in a pipeline: the inputs of qkv, attention and its projection."""
    q, k = load.model.query_width, load.model.kv_width
    precision = load.precision
    linear = 1 if precision.fp8 else precision.activation
    heads = load.tokens * ((q + 2 * k) * precision.activation + q * linear)
    return _residual_bytes(load) + heads // load.layout.tp


def layer_bytes(load: Load) -> int:
    """Activations that one layer keeps for its backward pass.

    Per token, with h = hidden, q and k = width of all query and all KV heads, f = FFN, flash attention (no S x S
    matrix), and selective recomputation the same, as a fused kernel keeps nothing that it would save:
    residual stream 2h, outputs of both norms 2h [sharded over TP only under sequence parallelism]; queries q, keys and
    values 2k, attention output q, gate and up 2f, their product f [sharded over TP].
    Under fp8 the inputs of the linear layers (2h, f) take one byte, and the attention output a second copy of q bytes.
    Norms of queries and keys keep what they norm: q + k (Qwen3-8B on an H200: 3.05 GB, as counted).
    Adapters want these inputs in 16 bits (frozen weights want none), and keep A x; under fp8 Transformer Engine's norm
    and linear in one keeps its normed input in one byte too (8B, 32 layers, on an H200: 57.5 GB for 55.4 in bf16).
    Source: Korthikanti et al. 2022 (arXiv:2205.05198), section 4, with SwiGLU and GQA in place of GELU and MHA.
    """
    h, f = load.model.hidden_size, load.model.ffn_hidden_size
    q, k = load.model.query_width, load.model.kv_width
    fp8, size = load.precision.fp8, load.precision.activation
    linear = 1 if fp8 and not load.adapters else size
    beside = 2 * h if fp8 and load.adapters else 0
    outside = load.tokens * (2 * h * size + 2 * h * linear + beside)
    normed = q + k if load.model.qk_norm else 0
    second = q if fp8 and not load.adapters else 0
    inside = load.tokens * ((2 * q + 2 * k + 2 * f + normed) * size + f * linear + second)
    narrow = load.tokens * _ranks(load.adapters, load.model) * size if load.adapters else 0
    return _cut_by_sequence(outside, load.layout) + inside // load.layout.tp + narrow


def _ranks(adapters: LoraSettings, model: ModelConfig) -> int:
    """Of all adapters of a layer; their mean, where layers differ."""
    layers = range(model.num_layers)
    total = sum(adapters.rank_of(layer, target) for layer in layers for target in adapters.targets)
    return -(-total // model.num_layers)


def _residual_bytes(load: Load) -> int:
    """The residual stream at one place: a layer's input."""
    return _cut_by_sequence(load.tokens * load.model.hidden_size * load.precision.activation, load.layout)


def _cut_by_sequence(count: int, layout: Layout) -> int:
    return count // layout.tp if layout.sequence_parallel else count


def logits_bytes(load: Load) -> int:
    """Logits, whose gradient takes their place, and the last hidden states (three times: raw, normed, their gradient).

    On the CPU there is also a softmax in fp32. The vocabulary is sharded over TP. A head in fp8 has its weights and the
    logits' gradient in one byte beside these, twice: as they are and transposed (8B on an H200: 3.05 GB, 3.15 counted).
    Source: backend/gpu/cross_entropy.py; `cross_entropy.py` of megatron-core 0.19.2.
    """
    precision = load.precision
    hidden = _cut_by_sequence(3 * load.tokens * load.model.hidden_size * precision.activation, load.layout)
    each = precision.activation + (0 if precision.gpu else 4)
    narrow = 2 * (load.tokens + load.model.hidden_size) * load.vocab_rows if load.head_fp8 else 0
    return hidden + load.tokens * load.vocab_rows // load.layout.tp * each + narrow


def workspace_bytes(load: Load, *, first: bool, last: bool) -> int:
    """Scratch memory, and one gradient of each shape of weight, in the weight's precision, that is never read.

    Where weight gradients are added up by the matmul, or by us for the embedding, autograd still wants a tensor for
    each; Transformer Engine keeps one for each shape (`get_dummy_wgrad`), so embedding and LM head share one. On the
    CPU nothing.

    Args:
        first: the stage with the embedding.
        last: the stage with the LM head.
    """
    model, tp = load.model, load.layout.tp
    if not load.precision.gpu:
        return 0
    if load.adapters:
        return WORKSPACE_BYTES
    layer = (model.parameters_per_layer() - model.norms_per_layer()) // tp
    has_table = last or (first and not model.tie_embeddings)
    table = load.vocab_rows * model.hidden_size // tp if has_table else 0
    return WORKSPACE_BYTES + (layer + table) * 2


def deterministic_attention_bytes(load: Load) -> int:
    """What a layer's attention takes in its backward pass beyond the activations, where it must add in one order.

    cuDNN then writes the gradient of all scores, S x S for each head, in 16 bits, also of what the causal mask hides.
    Beside it lie the gradients of queries, keys, values and output; what the layer's MLP kept is free by then. Not
    counted: of packed rows it asks for 64 times as much, 64 GiB at 4096 and 32 heads.
    Source: "dP workspace" in cudnn-frontend's Attention.md; utils.py of TE 2.20.2, `SM90_DET_FUSED_THD_BWD_MAX_BHSS`;
    on H200s 3.78 GB beyond the activations of 8192 tokens and 32 heads, 1.93 under TP2.
    """
    if not (load.deterministic and load.precision.gpu):
        return 0
    model, size = load.model, load.precision.activation
    rows = load.seq_len // load.layout.cp
    scores = load.micro_batch * model.num_attention_heads * rows * rows * size
    heads = 2 * model.query_width + 2 * model.kv_width
    return max(0, scores + load.tokens * (heads - 3 * model.ffn_hidden_size) * size) // load.layout.tp


def save_bytes(memory: Memory, precision: Precision, layout: Layout, *, optimizer: bool = True) -> int:
    """What one rank writes of a checkpoint, and copies to RAM before if it writes in the background."""
    return checkpoint_bytes(memory.saved, precision, optimizer=optimizer) // (layout.dp * layout.cp)


def checkpoint_bytes(parameters: int, precision: Precision, *, optimizer: bool = True) -> int:
    """What one checkpoint takes on disk: weights as they are computed with, fp32 copies and moments.

    Args:
        optimizer: MP_SAVE_OPTIMIZER; without it weights alone.
    """
    return parameters * (_saved_bytes(precision) if optimizer else precision.weight)


def export_bytes(parameters: int, precision: Precision, *, adapters: bool) -> int:
    """What one Hugging Face folder takes on disk: weights as they are computed with; adapters in fp32."""
    return parameters * (4 if adapters else precision.weight)


def _saved_bytes(precision: Precision) -> int:
    """Of each parameter."""
    master = 4 if precision.weight == 2 else 0
    return precision.weight + master + (4 if precision.adam.moments_bf16 else 8)


def gigabytes(count: int) -> str:
    """Bytes for a person: 1 GB = 1e9 bytes."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
